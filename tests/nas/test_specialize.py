"""Answers from a run's predictors: checked against everything there is in a space that can be listed."""

from pathlib import Path

import numpy as np
import pytest

from nas.errors import InfeasibleError, RunError
from nas.objectives import Limit
from nas.run import Run
from nas.specialize import run_accuracy_predictor, specialize
from tests.nas.predicted_run import accuracy, empty_run, everything, latency_ms, predicted_run


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


def test_an_answer_says_what_was_evaluated(run: Run) -> None:
    known = dict(zip(run.evaluations()["arch_id"], run.evaluations()["accuracy"], strict=True))
    for one in specialize(run, top=50):
        assert one.evaluated == known.get(one.architecture.arch_id)


def test_impossible_limits_are_answered_with_what_is_reachable(run: Run) -> None:
    all_NG = everything(run)
    with pytest.raises(InfeasibleError, match=r"latency_ms <= 1e-06.*smallest reachable") as caught:
        specialize(run, limits=[Limit(name="latency_ms", value=1e-6, unit="ms")])
    reached = float(str(caught.value).rsplit(" ", 1)[1])
    assert reached == pytest.approx(latency_ms(run, all_NG).min(), rel=0.05)


def test_what_is_missing_is_said(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unknown limits beauty"):
        specialize(run, limits=[Limit(name="beauty", value=1.0, unit="")])
    with pytest.raises(RunError, match="top is 0"):
        specialize(run, top=0)
    with pytest.raises(RunError, match="no latency predictor for device 'other'"):
        specialize(run, device="other")
    nothing = empty_run(tmp_path / "nothing")
    with pytest.raises(RunError, match="0 architectures are too few") as caught:
        run_accuracy_predictor(nothing)
    assert "nas search" in caught.value.hint
