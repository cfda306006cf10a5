"""Profiling a device: which subnets, how many, and what is left to do after an interruption."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware.cost import analytic_costs
from hardware.device import Device
from hardware.measurement import CostMeasurement
from nas.data import DataSplits
from nas.device_seconds import REFERENCE
from nas.errors import RunError
from nas.profile import (
    PROFILE_FIT,
    PROFILE_HELD_OUT,
    choose_subnets,
    profile_device,
    profile_path,
    profiled_subnets,
    told_quantities,
    usable_subnets,
)
from searchspaces import get_space
from tests.fakes.devices import FlakyBackend
from tests.nas.tiny_run import PROFILE, SPACE, TinyRun, copy_run, ignore, make_bench


def test_chosen_subnets_are_distinct_and_reach_both_ends() -> None:
    for num in (2, 14, 60):
        archs = choose_subnets(SPACE, num=num, seed=1)
        assert len({arch.arch_id for arch in archs}) == num
        assert archs[:2] == [SPACE.smallest, SPACE.largest]


def test_the_seed_alone_decides_the_choice() -> None:
    assert choose_subnets(SPACE, num=20, seed=1) == choose_subnets(SPACE, num=20, seed=1)
    assert choose_subnets(SPACE, num=20, seed=1) != choose_subnets(SPACE, num=20, seed=2)


def test_chosen_subnets_are_spread_evenly_over_the_logarithm_of_macs() -> None:
    space = get_space("mbconv-small")
    genomes_NG = space.genomes(choose_subnets(space, num=40, seed=0))
    log_macs_N = np.sort(np.log(analytic_costs(space.op_table(genomes_NG)).macs_N))
    gaps_N = np.diff(log_macs_N) / np.ptp(log_macs_N)
    uniform_NG = space.sample_many(38, np.random.default_rng(0))
    uniform_N = np.log(analytic_costs(space.op_table(uniform_NG)).macs_N)
    reach = np.ptp(uniform_N) / np.ptp(log_macs_N)
    # even spacing would give gaps of 1/39; genes drawn uniformly leave out whole ends of the axis
    assert gaps_N.max() < 4 / 39
    assert reach < 0.9


def test_a_profile_holds_measured_subnets_and_their_errors(profiled: TinyRun) -> None:
    rows = profiled.measurements()
    fit, held_out = rows[rows["purpose"] == PROFILE_FIT], rows[rows["purpose"] == PROFILE_HELD_OUT]
    assert (len(fit), len(held_out)) == (PROFILE.fit, PROFILE.held_out)
    assert not set(fit["arch_id"]) & set(held_out["arch_id"])
    assert {SPACE.smallest.arch_id, SPACE.largest.arch_id} <= set(fit["arch_id"])
    assert set(rows["provenance"]) == {"measured"}
    predictor = profiled.predictor()
    used = usable_subnets(profiled_subnets(profiled, device_id="onnxruntime-cpu"))["purpose"].value_counts()
    assert predictor.num_fitted == used[PROFILE_FIT]
    assert predictor.scores is not None
    assert predictor.scores.num == used[PROFILE_HELD_OUT]
    tail = profiled.predictor(quantity="latency_p99")
    assert (tail.quantity, tail.unit, tail.num_fitted) == ("latency_p99", "ms", predictor.num_fitted)
    assert tail.scores is not None
    assert [source.scores for source in tail.sources] == [predictor.scores]
    stored = json.loads(profile_path(profiled, "onnxruntime-cpu").read_text())
    assert stored["accepted"] is True
    assert stored["scores"]["mape_percent"] == pytest.approx(predictor.scores.mape_percent)
    assert (stored["num_fit"], stored["num_held_out"]) == (used[PROFILE_FIT], used[PROFILE_HELD_OUT])


def test_the_errors_are_those_of_the_held_out_subnets(profiled: TinyRun) -> None:
    predictor = profiled.predictor()
    rows = usable_subnets(profiled_subnets(profiled, device_id="onnxruntime-cpu"))
    held_out = rows[rows["purpose"] == PROFILE_HELD_OUT]
    assert predictor.scores is not None
    assert predictor.score(held_out).mape_percent == pytest.approx(predictor.scores.mape_percent)


def test_more_is_measured_when_the_error_is_above_the_bound_and_the_run_goes_on(
    run_copy: TinyRun, data: DataSplits, device: Device
) -> None:
    settings = replace(PROFILE, max_mape_percent=1e-9, max_measured=22)
    messages: list[str] = []
    progress: list[tuple[int, int]] = []
    predictor, profile = profile_device(
        make_bench(run_copy, data=data, device=device),
        settings=settings,
        on_progress=lambda done, total: progress.append((done, total)),
        on_message=messages.append,
    )
    assert not profile.accepted
    assert profile.num_measured == 22
    assert run_copy.measurements()["arch_id"].nunique() == 22
    assert predictor.num_fitted == profile.num_fit
    assert any("above 1e-09 %: measure more" in message for message in messages)
    assert progress[-1][0] == progress[-1][1]
    stored = json.loads(profile_path(run_copy, "onnxruntime-cpu").read_text())
    assert stored["accepted"] is False
    assert stored["max_mape_percent"] == 1e-9
    assert run_copy.predictor().num_fitted == profile.num_fit


@pytest.mark.parametrize(
    ("num_fit", "bad_fit", "bad_held_out", "num_used"),
    [
        (20, 0, 0, 24),
        (20, 3, 1, 20),
        (20, 10, 2, 12),  # half of each kind is left, just enough to fit
        (20, 11, 0, 24),
        (20, 0, 3, 24),
        (12, 2, 0, 14),
        (12, 3, 0, 16),  # nine are too few for a predictor
    ],
)
def test_suspect_measurements_are_left_out_unless_too_few_others_are_left(
    num_fit: int, bad_fit: int, bad_held_out: int, num_used: int
) -> None:
    purposes = [PROFILE_FIT] * num_fit + [PROFILE_HELD_OUT] * 4
    suspect = [number < bad_fit for number in range(num_fit)] + [number < bad_held_out for number in range(4)]
    used = usable_subnets(pd.DataFrame({"purpose": purposes, "suspect": suspect}))
    assert len(used) == num_used
    assert bool(used["suspect"].any()) == (num_used == len(purposes) and bad_fit + bad_held_out > 0)


def test_profiling_goes_on_where_it_was_interrupted(run_copy: TinyRun, data: DataSplits, device: Device) -> None:
    settings = replace(PROFILE, max_mape_percent=1e-9, max_measured=20)
    flaky = FlakyBackend(device.backend)
    bench = make_bench(run_copy, data=data, device=Device(spec=device.spec, backend=flaky))

    def lose_power(message: str) -> None:
        assert "measure more" in message
        flaky.failing.add("run")

    with pytest.raises(RuntimeError, match="lost power"):
        profile_device(bench, settings=settings, on_progress=ignore, on_message=lose_power)
    first = run_copy.measurements()
    assert len(first) == first["arch_id"].nunique() == PROFILE.fit + PROFILE.held_out
    assert not profile_path(run_copy, "onnxruntime-cpu").exists()
    flaky.failing.clear()
    profile_device(bench, settings=settings, on_progress=ignore, on_message=ignore)
    rows = run_copy.measurements()
    assert rows.iloc[: len(first)]["measurement_id"].tolist() == first["measurement_id"].tolist()
    added = rows.iloc[len(first) :]
    assert added["purpose"].tolist().count(PROFILE_FIT) == 4
    assert not set(added[added["purpose"] == PROFILE_FIT]["arch_id"]) & set(first["arch_id"])
    # the rest is the reference network, whose record goes with every session
    assert set(added[added["purpose"] != PROFILE_FIT]["arch_id"]) == {SPACE.largest.arch_id}
    runs_before = flaky.num_runs
    profile_device(bench, settings=settings, on_progress=ignore, on_message=ignore)
    assert flaky.num_runs == runs_before
    assert len(run_copy.measurements()) == len(rows)


def test_a_session_on_a_slower_host_is_brought_back_to_the_first(tmp_path: Path, profiled: TinyRun) -> None:
    run = copy_run(profiled, tmp_path / "run")
    first = profiled_subnets(run, device_id="onnxruntime-cpu")
    # within a session the rounds' own noise is divided out, so the two agree as far as the host was quiet
    assert first["latency_ms"].to_numpy() == pytest.approx(first["p50"].to_numpy(), rel=0.5)
    slower = []
    arch = SPACE.architecture({**dict(SPACE.largest.genes), "stage1.depth": 1})
    largest = first[first["arch_id"] == SPACE.largest.arch_id].iloc[0]
    measured = CostMeasurement.from_row({str(key): value for key, value in largest.items()})
    for network, purpose, factor in ((SPACE.largest, REFERENCE, 2.0), (arch, PROFILE_FIT, 1.5)):
        # every other round of that session was three times slower still, for both networks alike
        raw_ms = tuple(
            tuple(run * factor * (1.0 if number % 2 else 3.0) for run in runs)
            for number, runs in enumerate(measured.raw_ms)
        )
        again = replace(measured, raw_ms=raw_ms, session_id="a later session")
        keys = {
            "arch_id": network.arch_id,
            "candidate_id": network.arch_id,
            "architecture": network.to_json(),
            "purpose": purpose,
        }
        slower.append({**again.to_row(), **keys})
    run.measurements_table("onnxruntime-cpu").append(slower)
    rows = profiled_subnets(run, device_id="onnxruntime-cpu").set_index("arch_id")
    assert rows.loc[arch.arch_id, "latency_ms"] == pytest.approx(measured.p50 * 0.75)
    assert rows.loc[SPACE.largest.arch_id, "latency_ms"] == pytest.approx(measured.p50)
    assert rows.loc[arch.arch_id, "latency_p99_ms"] == pytest.approx(measured.p99 * 0.75)
    assert len(rows) == len(first) + 1


def test_energy_is_told_where_the_measurements_have_it(tmp_path: Path, profiled: TinyRun) -> None:
    run = copy_run(profiled, tmp_path / "run")
    assert told_quantities(run, device_id="onnxruntime-cpu") == ["latency_p99"]
    with pytest.raises(RunError, match="the device is profiled, but its measurements tell no energy") as caught:
        run.predictor(quantity="energy")
    assert caught.value.hint.startswith("limit latency_ms, latency_p99_ms, peak_memory_bytes, macs or params there")
    rows = []
    for row in run.measurements().to_dict("records"):
        measured = CostMeasurement.from_row({str(key): value for key, value in row.items()})
        keys = {key: row[key] for key in ("arch_id", "candidate_id", "architecture", "purpose")}
        rows.append({**replace(measured, also={"energy_mj": 20.0 * measured.p50}).to_row(), **keys})
    run.measurements_table("onnxruntime-cpu").append(rows)
    assert told_quantities(run, device_id="onnxruntime-cpu") == ["latency_p99", "energy"]
    with pytest.raises(RunError, match="it is missing, though the measurements there tell it") as caught:
        run.predictor(quantity="energy")
    assert caught.value.hint == f"nas profile {run.path}"


def test_a_space_with_fewer_subnets_than_asked_for_is_refused(
    run_copy: TinyRun, data: DataSplits, device: Device
) -> None:
    bench = make_bench(run_copy, data=data, device=device)
    with pytest.raises(RunError, match=r"has 800 architectures, profile\.fit \+ profile\.held_out is 801") as caught:
        profile_device(bench, settings=replace(PROFILE, fit=797), on_progress=ignore, on_message=ignore)
    assert "lower profile.fit" in caught.value.hint
