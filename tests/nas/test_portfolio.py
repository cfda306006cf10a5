"""Portfolios against brute force over all sets of models."""

import itertools

import numpy as np
import pytest

from nas import portfolio
from nas.errors import RunError
from nas.portfolio import losses, portfolios
from predictors.prediction import FloatArray


def random_losses(seed: int, *, targets: int = 5, models: int = 9) -> FloatArray:
    """Losses of budgets on two devices that rank models differently; ties are common."""
    rng = np.random.default_rng(seed)
    accuracy_N = rng.integers(60, 90, models) / 100
    meets_PN = rng.random((targets, models)) < 0.6
    meets_PN[:, rng.integers(models)] = True
    return losses(accuracy_N, meets_PN)


def brute_force(loss_PN: FloatArray, size: int) -> tuple[float, float]:
    """Smallest worst loss, and with that the smallest mean, of all sets of so many models."""
    found = []
    for chosen in itertools.combinations(range(loss_PN.shape[1]), min(size, loss_PN.shape[1])):
        lost_P = loss_PN[:, list(chosen)].min(axis=1)
        found.append((round(float(lost_P.max()), 9), round(float(lost_P.mean()), 9)))
    return min(found)


def test_a_loss_is_what_a_model_falls_short_of_the_targets_own_best() -> None:
    loss_PN = losses(np.array([0.7, 0.8, 0.9]), np.array([[True, True, False], [True, True, True]]))
    np.testing.assert_allclose(loss_PN, [[0.1, 0.0, np.inf], [0.2, 0.1, 0.0]])


@pytest.mark.parametrize("seed", range(12))
def test_every_size_is_the_best_of_all_sets(seed: int) -> None:
    loss_PN = random_losses(seed)
    found = portfolios(loss_PN, max_models=4)
    assert found
    for one in found:
        expected = brute_force(loss_PN, len(one.models))
        assert (one.worst_loss, one.mean_loss) == pytest.approx(expected)
        assert one.method == "exact"
        assert set(one.serving_P.tolist()) == set(one.models)
        lost_P = loss_PN[np.arange(len(loss_PN)), one.serving_P]
        assert (lost_P.max(), lost_P.mean()) == (one.worst_loss, one.mean_loss)
        np.testing.assert_allclose(lost_P, loss_PN[:, list(one.models)].min(axis=1))
    # What is left out improves nothing.
    last = (found[-1].worst_loss, found[-1].mean_loss)
    assert brute_force(loss_PN, 4) == pytest.approx(last)


@pytest.mark.parametrize("seed", range(12))
def test_greedy_sets_meet_all_targets_and_are_never_better_than_exact_ones(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_PN = random_losses(seed)
    exact = {len(one.models): one for one in portfolios(loss_PN, max_models=5)}
    monkeypatch.setattr(portfolio, "_MOST_CELLS", 0)
    found = portfolios(loss_PN, max_models=5)
    assert found
    for one in found:
        assert one.method == "greedy"
        assert np.isfinite(loss_PN[np.arange(len(loss_PN)), one.serving_P]).all()
        if len(one.models) in exact:
            assert one.worst_loss >= exact[len(one.models)].worst_loss - 1e-9


def test_one_model_for_all_and_one_for_each() -> None:
    shared = np.array([[0.0, 0.01, np.inf], [np.inf, 0.01, 0.0]])
    one, two = portfolios(shared, max_models=5)
    assert (one.models, one.worst_loss) == ((1,), 0.01)
    assert (two.models, two.worst_loss, two.serving_P.tolist()) == ((0, 2), 0.0, [0, 2])


def test_sizes_that_cannot_meet_all_targets_are_left_out() -> None:
    apart = np.array([[0.0, np.inf], [np.inf, 0.0]])
    (two,) = portfolios(apart, max_models=3)
    assert two.models == (0, 1)
    assert portfolios(apart, max_models=1) == []


def test_a_solver_that_does_not_finish_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portfolio, "_SECONDS", 0.0)
    monkeypatch.setattr(portfolio, "_cover", lambda _: None)
    assert {one.method for one in portfolios(random_losses(3), max_models=3)} == {"greedy"}


def test_what_cannot_be_chosen_from_is_refused() -> None:
    with pytest.raises(RunError, match="max_models is 0"):
        portfolios(np.zeros((1, 1)), max_models=0)
    with pytest.raises(RunError, match="no model meets"):
        portfolios(np.array([[0.0], [np.inf]]), max_models=1)
    with pytest.raises(RunError, match="no model meets"):
        portfolios(np.zeros((0, 3)), max_models=1)
