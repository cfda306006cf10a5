"""A whole front by prediction."""

import numpy as np
import pytest

from nas.pareto import pareto_mask
from nas.predicted_front import predicted_front
from predictors.prediction import FloatArray
from searchspaces import get_space
from searchspaces.enumeration import enumerate_genomes
from searchspaces.genomes import Genomes

SPACE = get_space("nasbench201")
_WEIGHTS_G = np.array([3.0, 1.0, 2.0, 0.5, 1.5, 2.5])


def predict(genomes_NG: Genomes) -> tuple[FloatArray, FloatArray]:
    """What a gene brings and what it costs, with one pair of genes that only work together."""
    together_N = (genomes_NG[:, 0] == 4) & (genomes_NG[:, 5] == 4)
    return np.sqrt(genomes_NG) @ _WEIGHTS_G[::-1] + 4.0 * together_N, 1.0 + genomes_NG @ _WEIGHTS_G


def test_it_finds_the_exact_front_of_a_space_that_can_be_listed() -> None:
    accuracy_N, cost_N = predict(enumerate_genomes(SPACE))
    exact = pareto_mask(accuracy_N, cost_N)
    found = predicted_front(SPACE, predict, seed=0, generations=30)
    assert set(zip(found.accuracy_N, found.cost_N, strict=True)) == set(
        zip(accuracy_N[exact], cost_N[exact], strict=True)
    )


def test_a_front_is_ordered_and_its_values_are_those_of_its_genomes() -> None:
    found = predicted_front(SPACE, predict, seed=1, generations=2)
    assert (np.diff(found.cost_N) > 0).all()
    assert (np.diff(found.accuracy_N) > 0).all()
    np.testing.assert_array_equal(np.stack(predict(found.genomes_NG)), np.stack([found.accuracy_N, found.cost_N]))


def test_the_same_seed_finds_the_same() -> None:
    first, again, other = (predicted_front(SPACE, predict, seed=seed, generations=1) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.genomes_NG, again.genomes_NG)
    assert first.genomes_NG.tobytes() != other.genomes_NG.tobytes()


def test_equal_costs_are_one_class() -> None:
    found = predicted_front(SPACE, lambda g: (predict(g)[0], np.ones(len(g))), seed=0, generations=20)
    assert len(found.genomes_NG) == 1
    assert found.accuracy_N[0] == pytest.approx(predict(SPACE.genomes([SPACE.largest]))[0][0])
