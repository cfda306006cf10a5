"""Expected hypervolume improvement: against sampling, and against moocore's volumes."""

import moocore
import numpy as np
import pytest

from nas.search.acquisition import expected_improvement, open_boxes
from predictors.prediction import FloatArray


def random_front(num: int, *, num_objectives: int, seed: int) -> FloatArray:
    points_PM = np.random.default_rng(seed).random((num, num_objectives))
    front_PM: FloatArray = points_PM[moocore.is_nondominated(points_PM)]
    return front_PM


def growth(front_PM: FloatArray, point_M: FloatArray, ref_M: FloatArray) -> float:
    """Hypervolume that a point adds."""
    before = moocore.hypervolume(front_PM, ref=ref_M) if len(front_PM) else 0.0
    return float(moocore.hypervolume(np.vstack([front_PM, point_M]), ref=ref_M) - before)


@pytest.mark.parametrize("num_objectives", [2, 3])
def test_the_expectation_is_the_mean_of_samples(num_objectives: int) -> None:
    rng = np.random.default_rng(0)
    front_PM = random_front(6, num_objectives=num_objectives, seed=1)
    ref_M = np.full(num_objectives, 1.1)
    mean_NM = rng.random((4, num_objectives)) * 0.8
    spread_NM = rng.uniform(0.05, 0.3, size=mean_NM.shape)
    found_N = expected_improvement(mean_NM, spread_NM, front_PM, ref_M)
    for mean_M, spread_M, found in zip(mean_NM, spread_NM, found_N, strict=True):
        drawn_SM = rng.normal(mean_M, spread_M, size=(4000, num_objectives))
        gains_S = np.array([growth(front_PM, point_M, ref_M) for point_M in drawn_SM])
        assert found == pytest.approx(gains_S.mean(), abs=4 * gains_S.std() / np.sqrt(len(gains_S)))


@pytest.mark.parametrize("num_objectives", [2, 3, 4])
def test_what_is_certain_adds_exactly_its_hypervolume(num_objectives: int) -> None:
    front_PM = random_front(12, num_objectives=num_objectives, seed=2)
    ref_M = np.full(num_objectives, 1.0)
    points_NM = np.random.default_rng(3).random((40, num_objectives)) * 1.2
    found_N = expected_improvement(points_NM, np.zeros_like(points_NM), front_PM, ref_M)
    expected = [growth(front_PM, point_M, ref_M) for point_M in points_NM]
    assert min(expected) < 1e-9
    assert max(expected) > 0.01
    np.testing.assert_allclose(found_N, expected, atol=1e-7)


@pytest.mark.parametrize("num_objectives", [2, 3, 4])
def test_the_open_boxes_are_disjoint_and_fill_what_the_front_leaves(num_objectives: int) -> None:
    front_PM = random_front(10, num_objectives=num_objectives, seed=4)
    ref_M = np.ones(num_objectives)
    lower_KM, upper_KM = open_boxes(front_PM, ref_M)
    # Above 0, where all points are, the boxes have volumes.
    sides_KM = np.maximum(upper_KM - np.maximum(lower_KM, 0.0), 0.0)
    assert sides_KM.prod(axis=1).sum() == pytest.approx(1.0 - moocore.hypervolume(front_PM, ref=ref_M))
    for point_M in np.random.default_rng(5).random((200, num_objectives)):
        inside = ((lower_KM < point_M) & (point_M < upper_KM)).all(axis=1).sum()
        dominated = (front_PM <= point_M).all(axis=1).any()
        assert inside == (0 if dominated else 1)


def test_without_a_front_everything_below_the_reference_is_open() -> None:
    gain_N = expected_improvement(np.array([[0.2, 0.5], [2.0, 0.5]]), np.zeros((2, 2)), np.empty((0, 2)), np.ones(2))
    np.testing.assert_allclose(gain_N, [0.4, 0.0], atol=1e-7)


def test_no_candidates_have_no_gains() -> None:
    assert expected_improvement(np.empty((0, 2)), np.empty((0, 2)), np.array([[0.5, 0.5]]), np.ones(2)).shape == (0,)


def test_a_less_certain_candidate_behind_the_front_promises_more() -> None:
    mean_NM, spread_NM = np.full((2, 2), 0.6), np.array([[0.01, 0.01], [0.3, 0.3]])
    certain, uncertain = expected_improvement(mean_NM, spread_NM, np.array([[0.5, 0.5]]), np.ones(2))
    assert certain < 1e-9 < uncertain
