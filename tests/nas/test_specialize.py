"""Answers from a run's predictors: checked against everything there is in a space that can be listed."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware.liveness import peak_activation_elements
from nas.errors import InfeasibleError, RunError
from nas.objectives import Limit
from nas.run import Run
from nas.specialize import specialize
from predictors import fit_cost_predictor
from tests.hardware.test_measurement import measurement
from tests.nas.predicted_run import accuracy, add_verification, everything, latency_ms, predicted_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return predicted_run(tmp_path / "run")


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_best_of_all_architectures_is_found(run: Run, share: float) -> None:
    all_NG = everything(run)
    limit = float(np.quantile(latency_ms(run, all_NG), share))
    found = specialize(run, limits=[Limit(name="latency_ms", value=limit, unit="ms")], top=4)
    best = accuracy(run, all_NG)[latency_ms(run, all_NG) <= limit].max()
    true_N = accuracy(run, run.space.genomes([one.architecture for one in found]))
    assert true_N.max() >= best - 0.003
    assert len({one.architecture for one in found}) == 4
    assert [one.accuracy for one in found] == sorted((one.accuracy for one in found), reverse=True)
    for one in found:
        assert one.latency <= limit
        assert one.accuracy_interval[0] <= one.accuracy <= one.accuracy_interval[1]
        assert one.within_limits == (one.latency_interval[1] <= limit)
        assert one.unit == "ms"


def test_counts_are_exact_and_limit_too(run: Run) -> None:
    found = specialize(run, limits=[Limit(name="params", value=1e6, unit=""), Limit(name="macs", value=4e7, unit="")])
    for one in found:
        table = run.space.op_table(run.space.genomes([one.architecture]), num_classes=7)
        assert (one.macs, one.params) == (table.macs.sum(), table.params.sum())
        assert one.params <= 1e6
        assert one.macs <= 4e7


def test_other_predicted_costs_limit_too(run: Run) -> None:
    all_NG = everything(run)
    genomes_NG = all_NG[np.random.default_rng(1).permutation(len(all_NG))[:60]]
    table = pd.DataFrame(
        {
            "architecture": [arch.to_json() for arch in run.space.architectures(genomes_NG)],
            "energy_mj": 7.0 * latency_ms(run, genomes_NG),
        }
    )
    energy = fit_cost_predictor(table, quantity="energy", space=run.space, device_id="d", sources=[run.predictor()])
    energy.save(run.predictor_dir("d", quantity="energy"))
    limit = 7.0 * float(np.quantile(latency_ms(run, all_NG), 0.3))
    found = specialize(run, limits=[Limit(name="energy_mj", value=limit, unit="mJ")])
    true_N = 7.0 * latency_ms(run, run.space.genomes([one.architecture for one in found]))
    for one, true_mj in zip(found, true_N, strict=True):
        mean, low, high = one.others["energy_mj"]
        assert low <= mean <= min(high, limit)
        assert mean == pytest.approx(true_mj, rel=0.05)
        assert one.within_limits == (high <= limit)
    with pytest.raises(RunError, match=r"for device 'd': .* its measurements tell no latency_p99") as caught:
        specialize(run, limits=[Limit(name="latency_p99_ms", value=1.0, unit="ms")])
    assert caught.value.hint.startswith("limit latency_ms, energy_mj, peak_memory_bytes, macs or params there")


def test_what_another_predictor_never_saw_is_out_of_range(run: Run) -> None:
    all_NG = everything(run)
    few_NG = all_NG[np.argsort(latency_ms(run, all_NG))[:60]]
    table = pd.DataFrame(
        {
            "architecture": [arch.to_json() for arch in run.space.architectures(few_NG)],
            "energy_mj": 7.0 * latency_ms(run, few_NG),
        }
    )
    limits = [Limit(name="latency_ms", value=float(np.median(latency_ms(run, all_NG))), unit="ms")]
    assert any(one.in_range for one in specialize(run, limits=limits))
    energy = fit_cost_predictor(table, quantity="energy", space=run.space, device_id="d")
    energy.save(run.predictor_dir("d", quantity="energy"))
    for one in specialize(run, limits=limits):
        assert not energy.predict([one.architecture]).in_range[0]
        assert not one.in_range


def test_peak_memory_is_exact_in_the_devices_precision(run: Run) -> None:
    arch = run.space.smallest
    keys = {"arch_id": arch.arch_id, "candidate_id": "c", "architecture": arch.to_json(), "purpose": "profile-fit"}
    limit = Limit(name="peak_memory_bytes", value=0.0, unit="bytes")
    with pytest.raises(RunError, match="precision is not known"):
        specialize(run, limits=[limit])
    assert specialize(run, top=1)[0].peak_memory_bytes is None
    run.measurements_table("d").append([{**measurement(device_id="d", precision="int8").to_row(), **keys}])
    peaks_N = peak_activation_elements(run.space.op_table(everything(run), num_classes=7))
    asked = replace(limit, value=float(np.quantile(peaks_N, 0.2)))
    assert asked.value < peaks_N.max()
    for one in specialize(run, limits=[asked]):
        table = run.space.op_table(run.space.genomes([one.architecture]), num_classes=7)
        assert one.peak_memory_bytes == peak_activation_elements(table)[0] <= asked.value
    with pytest.raises(InfeasibleError, match=r"peak_memory_bytes <= 1 bytes; the smallest reachable") as caught:
        specialize(run, limits=[replace(limit, value=1.0)])
    assert f"peak_memory_bytes {peaks_N.min():.6g} bytes (estimated, " in str(caught.value)


def test_an_answer_says_what_was_evaluated(run: Run) -> None:
    known = dict(zip(run.evaluations()["arch_id"], run.evaluations()["accuracy"], strict=True))
    for one in specialize(run, top=50):
        assert one.evaluated == known.get(one.architecture.arch_id)


def test_what_was_measured_counts_for_the_limit(run: Run) -> None:
    limit = Limit(name="latency_ms", value=float(np.median(latency_ms(run, everything(run)))), unit="ms")
    best = specialize(run, limits=[limit])[0]
    assert best.measured is None
    slower = run.space.largest
    assert slower not in {one.architecture for one in specialize(run, limits=[limit], top=50)}
    add_verification(run, best.architecture, measured_ms=1.01 * limit.value)
    add_verification(run, slower, measured_ms=0.9 * limit.value)
    found = specialize(run, limits=[limit])
    assert best.architecture not in {one.architecture for one in found}
    assert found[0].architecture == slower
    assert found[0].within_limits
    assert found[0].latency > limit.value
    # What is suspect is not believed.
    add_verification(run, best.architecture, measured_ms=1.01 * limit.value, suspect=True)
    add_verification(run, slower, measured_ms=0.9 * limit.value, suspect=True)
    assert specialize(run, limits=[limit])[0].architecture == best.architecture


def test_impossible_limits_are_answered_with_what_is_reachable(run: Run) -> None:
    all_NG = everything(run)
    with pytest.raises(InfeasibleError, match=r"latency_ms <= 1e-06.*smallest reachable") as caught:
        specialize(run, limits=[Limit(name="latency_ms", value=1e-6, unit="ms")])
    found = re.search(r"latency_ms ([\d.]+) ms \(predicted", str(caught.value))
    assert found is not None
    reached = float(found[1])
    assert reached == pytest.approx(latency_ms(run, all_NG).min(), rel=0.05)


def test_what_is_missing_is_said(run: Run) -> None:
    with pytest.raises(RunError, match="unknown limits beauty"):
        specialize(run, limits=[Limit(name="beauty", value=1.0, unit="")])
    with pytest.raises(RunError, match="top is 0"):
        specialize(run, top=0)
    with pytest.raises(RunError, match="no latency predictor for device 'other'"):
        specialize(run, device="other")
