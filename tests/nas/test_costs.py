"""All costs from the same measurements, and what is refused before or after measuring."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware.device import Device, DeviceSpec, find_backend
from hardware.errors import DeviceUsageError
from hardware.measurement import CostMeasurement
from hardware.records import CalibrationSettings, calibrated_predictor, calibrations
from nas import calibrate as calibrating
from nas import costs
from nas.calibrate import Calibration, calibrate
from nas.costs import fit_costs, require_quantity, store_costs
from predictors import fit_latency_predictor, load_predictor
from searchspaces import Architecture, get_space
from tests.hardware.test_measurement import measurement
from tests.predictors.synthetic_device import SyntheticDevice

SPACE = get_space("mbconv-small")


def device(name: str, precision: str = "fp32") -> Device:
    return Device(
        spec=DeviceSpec(device_id=name, backend=name, precision=precision, threads=1), backend=find_backend(name)
    )


def record(arch: Architecture, *, energy: bool) -> CostMeasurement:
    """A network that takes as long as it has MACs, half as long again at worst, and 20 mJ a millisecond."""
    ms = 0.01 + float(SPACE.op_table(SPACE.genomes([arch])).macs.sum()) / 1e8
    return measurement(
        p50=ms, p90=1.2 * ms, p99=1.5 * ms, low=ms, high=ms, also={"energy_mj": 20.0 * ms} if energy else {}
    )


def table(num: int, seed: int, *, energy: bool) -> pd.DataFrame:
    archs = SPACE.architectures(np.unique(SPACE.sample_many(num, np.random.default_rng(seed)), axis=0))
    return pd.DataFrame([{"architecture": arch.to_json(), **record(arch, energy=energy).costs()} for arch in archs])


def test_every_cost_that_was_measured_is_fitted_and_judged() -> None:
    fit, held_out = table(20, 0, energy=True), table(8, 1, energy=True)
    latency = fit_latency_predictor(fit, space=SPACE, device_id="d")
    found = fit_costs(fit, held_out, latency=latency.with_scores(latency.score(held_out)))
    assert {name: one.unit for name, one in found.items()} == {"latency": "ms", "latency_p99": "ms", "energy": "mJ"}
    for name, factor in (("latency", 1.0), ("latency_p99", 1.5), ("energy", 20.0)):
        scores = found[name].scores
        assert scores is not None
        assert scores.mape_percent < 3.0
        mean = found[name].predict([SPACE.smallest]).mean[0]
        assert mean == pytest.approx(factor * record(SPACE.smallest, energy=True).p50, rel=0.2)


def test_what_was_not_measured_of_enough_networks_is_left_out() -> None:
    fit, held_out = table(20, 0, energy=True), table(8, 1, energy=True)
    fit.loc[9:, "energy_mj"] = np.nan
    latency = fit_latency_predictor(fit, space=SPACE, device_id="d")
    assert list(fit_costs(fit, held_out, latency=latency)) == ["latency", "latency_p99"]
    counts = [one[["architecture", "latency_ms"]] for one in (fit, held_out)]
    assert list(fit_costs(*counts, latency=latency)) == ["latency"]


def test_a_device_that_counts_has_latency_only() -> None:
    counting = device("cortex-m4", "int8")
    require_quantity(counting, "latency")
    for quantity in ("latency_p99", "energy"):
        with pytest.raises(DeviceUsageError, match=f"simulated counts, which have no {quantity}"):
            require_quantity(counting, quantity)


def test_without_a_counter_of_energy_it_is_said_who_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here = device("onnxruntime-cpu")
    monkeypatch.setattr(costs, "energy_missing", lambda backend: None if backend == "torch-cpu" else "no counters")
    require_quantity(here, "latency_p99")
    with pytest.raises(DeviceUsageError, match="'onnxruntime-cpu' does not count energy: no counters") as caught:
        require_quantity(here, "energy")
    assert "count it: torch-cpu, torch-cpu-int8. Elsewhere" in caught.value.hint
    require_quantity(device("torch-cpu"), "energy")


def run_calibrate(
    monkeypatch: pytest.MonkeyPatch, *, quantity: str, energy: bool, batch: int = 1, num_classes: int = 10
) -> Calibration:
    """Everything but the measuring, on a machine of which we say that it counts energy."""
    monkeypatch.setattr(costs, "energy_missing", lambda backend: None)
    monkeypatch.setattr(
        calibrating,
        "measure_architectures",
        lambda device, space, purposes, **settings: {arch: record(arch, energy=energy) for arch in purposes},
    )
    here = device("onnxruntime-cpu")
    return calibrate(
        replace(here, spec=replace(here.spec, batch=batch)),
        SPACE,
        samples=12,
        held_out=4,
        num_classes=num_classes,
        protocol="quick",
        seed=0,
        quantity=quantity,
        on_built=lambda done, total: None,
        on_round=lambda done, total: None,
    )


def test_one_calibration_stores_a_predictor_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path))
    found = run_calibrate(monkeypatch, quantity="energy", energy=True)
    assert found.quantities == ("latency", "latency_p99", "energy")
    assert found.predictor.quantity == "energy"
    assert found.predictor.sources == (found.ways.best,)
    for quantity in found.quantities:
        directory = calibrated_predictor("onnxruntime-cpu", space_id=SPACE.space_id, quantity=quantity)
        assert load_predictor(directory, space=SPACE, device_id="onnxruntime-cpu").quantity == quantity
        assert (directory == found.directory) == (quantity == "energy")


def test_a_calibration_of_other_settings_leaves_the_first_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path))
    first = run_calibrate(monkeypatch, quantity="latency", energy=False)
    before = (first.directory / "manifest.json").read_bytes()
    other = run_calibrate(monkeypatch, quantity="latency", energy=False, batch=8, num_classes=100)
    assert (first.directory / "manifest.json").read_bytes() == before
    assert other.directory.name == f"{SPACE.space_id}.batch8.num_classes100"
    assert first.directory.name == SPACE.space_id
    contexts = [load_predictor(one.directory, space=SPACE).context for one in (first, other)]
    assert contexts == [
        {"batch": 1, "threads": 1, "num_classes": 10},
        {"batch": 8, "threads": 1, "num_classes": 100},
    ]
    known = [CalibrationSettings(), CalibrationSettings(batch=8, num_classes=100)]
    assert calibrations(SPACE.space_id) == {"onnxruntime-cpu": known}


def test_energy_that_no_measurement_has_is_an_error_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path))
    with pytest.raises(DeviceUsageError, match="its measurements, which are kept, tell none"):
        run_calibrate(monkeypatch, quantity="energy", energy=False)
    assert calibrated_predictor("onnxruntime-cpu", space_id=SPACE.space_id, quantity="latency_p99").exists()


def test_a_quantity_that_is_not_told_any_more_loses_its_old_predictor(tmp_path: Path) -> None:
    fit, held_out = table(20, 0, energy=True), table(8, 1, energy=True)
    latency = fit_latency_predictor(fit, space=SPACE, device_id="d")
    store_costs(fit_costs(fit, held_out, latency=latency), place=tmp_path.joinpath)
    assert {path.name for path in tmp_path.iterdir()} == {"latency", "latency_p99", "energy"}
    without = fit.assign(energy_mj=np.nan)
    store_costs(fit_costs(without, held_out, latency=latency), place=tmp_path.joinpath)
    assert {path.name for path in tmp_path.iterdir()} == {"latency", "latency_p99"}


def test_an_energy_that_shares_the_latencys_noise_has_intervals_that_hold() -> None:
    """A latency predictor has seen the noise of the rows it was fitted to, but not of those that are asked about."""
    inside, left_out, true = [], [], []
    for seed in range(4):
        rng, device = np.random.default_rng(seed), SyntheticDevice.draw(seed, noise=0.06)
        genomes_NG = rng.permutation(np.unique(SPACE.sample_many(120, rng), axis=0))
        ms_N = device.latency_ms(SPACE, genomes_NG, rng=rng)
        rows = pd.DataFrame(
            {
                "architecture": [arch.to_json() for arch in SPACE.architectures(genomes_NG)],
                "latency_ms": ms_N,
                "energy_mj": 3.0 * ms_N * np.exp(rng.normal(0.0, 0.005, len(ms_N))),
            }
        )
        latency = fit_latency_predictor(rows[:20], space=SPACE, device_id="d")
        energy = fit_costs(rows[:20], rows[20:], latency=latency)["energy"]
        found, measured_N = energy.predict(genomes_NG[20:]), rows["energy_mj"].to_numpy()[20:]
        inside += ((found.lower <= measured_N) & (measured_N <= found.upper))[found.in_range].tolist()
        assert energy.scores is not None
        left_out.append(energy.loo_mape_percent)
        true.append(energy.scores.mape_percent)
    assert np.mean(inside) >= 0.85
    assert np.mean(left_out) > 0.75 * np.mean(true)
