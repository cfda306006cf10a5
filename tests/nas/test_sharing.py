"""Portfolios of a run, against everything there is in a space that can be listed."""

import numpy as np
import pytest

from nas.errors import InfeasibleError, RunError
from nas.portfolio import losses, portfolios
from nas.run import Run
from nas.sharing import Target, share
from tests.nas.predicted_run import accuracy, add_device, everything, latency_ms, predicted_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = predicted_run(tmp_path_factory.mktemp("sharing") / "run")
    add_device(made, "parallel")
    return made


def targets_of(run: Run, *shares: float) -> list[Target]:
    """Budgets that these shares of all architectures meet on each device."""
    found = {device: latency_ms(run, everything(run), device=device) for device in ("d", "parallel")}
    return [
        Target(device_id=device, latency_ms=float(np.quantile(latency_N, share)))
        for device, latency_N in found.items()
        for share in shares
    ]


def test_portfolios_are_as_good_as_those_of_the_whole_space(run: Run) -> None:
    targets = targets_of(run, 0.1, 0.4, 0.8)
    shared = share(run, targets, max_models=6)
    all_NG = everything(run)
    meets_PN = np.stack([latency_ms(run, all_NG, device=t.device_id) <= t.latency_ms for t in targets])
    best = {len(one.models): one for one in portfolios(losses(accuracy(run, all_NG), meets_PN), max_models=6)}
    assert shared.portfolios
    for one in shared.portfolios:
        # Predictions differ a little from the truth, and the evolution does not see everything.
        assert one.worst_loss <= best[min(len(one.models), max(best))].worst_loss + 0.01
    for p, target in enumerate(targets):
        own = accuracy(run, run.space.genomes([shared.architectures[shared.best_P[p]]]))[0]
        assert own >= accuracy(run, all_NG)[meets_PN[p]].max() - 0.005
        for one in shared.portfolios:
            assert shared.latency[target.device_id].mean[one.serving_P[p]] <= target.latency_ms


def test_what_was_evaluated_is_among_the_candidates(run: Run) -> None:
    shared = share(run, targets_of(run, 0.5), max_models=1)
    known = run.evaluations()
    assert set(known["arch_id"]) <= {arch.arch_id for arch in shared.architectures}
    assert shared.evaluated == dict(zip(known["arch_id"], known["accuracy"], strict=True))


def test_all_impossible_budgets_are_named_with_what_is_reachable(run: Run) -> None:
    asked = [
        *targets_of(run, 0.5),
        Target(device_id="d", latency_ms=1e-6),
        Target(device_id="parallel", latency_ms=1e-5),
    ]
    with pytest.raises(InfeasibleError, match=r"on d in 1e-06 ms .*; on parallel in 1e-05 ms ") as caught:
        share(run, asked, max_models=2)
    smallest = latency_ms(run, everything(run)).min()
    reached = float(str(caught.value).split("smallest reachable ")[1].split(" ")[0])
    assert reached == pytest.approx(smallest, rel=0.05)


def test_what_makes_no_sense_is_refused(run: Run) -> None:
    twice = targets_of(run, 0.5)[:1] * 2
    with pytest.raises(RunError, match="2 targets, 1 of them different"):
        share(run, twice, max_models=1)
    with pytest.raises(RunError, match="0 targets"):
        share(run, [], max_models=1)
    with pytest.raises(RunError, match="expected a positive number"):
        share(run, [Target(device_id="d", latency_ms=float("nan"))], max_models=1)
    with pytest.raises(RunError, match="no latency predictor for device 'x'") as caught:
        share(run, [Target(device_id="x", latency_ms=1.0)], max_models=1)
    assert caught.value.hint.endswith("--device x")


def test_a_few_of_very_many_combinations_are_drawn(run: Run) -> None:
    shares = tuple(np.linspace(0.05, 0.95, 20).tolist())
    shared = share(run, targets_of(run, *shares), max_models=1)
    assert len(shared.targets) == 40
    assert shared.portfolios
