"""Models of objectives: what they refuse, what they compute, how well they predict."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hardware.cost import analytic_costs
from nas.errors import RunError
from nas.objectives import ACCURACY, LATENCY
from nas.search.models import as_costs, fit_models
from predictors.prediction import FloatArray
from searchspaces import get_space
from searchspaces.genomes import Genomes

MACRO = get_space("nas-bench-macro")
OBJECTIVES = (ACCURACY, LATENCY)


def latency_ms(genomes_NG: Genomes) -> FloatArray:
    return 0.1 + 1e-8 * analytic_costs(MACRO.op_table(genomes_NG)).macs_N.astype(np.float64)


def accuracy(genomes_NG: Genomes) -> FloatArray:
    """Larger networks err less."""
    return 1.0 - 0.4 * np.sqrt(1e6 / analytic_costs(MACRO.op_table(genomes_NG)).params_N.astype(np.float64))


def test_errors_become_logarithms_and_costs_stay() -> None:
    cost_NM = as_costs(np.array([[0.9, 2.0], [1.0, 3.0]]), objectives=OBJECTIVES)
    np.testing.assert_allclose(cost_NM, [[np.log(0.1), 2.0], [np.log(1e-4), 3.0]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([93.0, 1.0], "objective accuracy is 93, the surrogate sampler takes fractions up to 1"),
        ([0.9, 0.0], "objective latency_ms is 0, the surrogate sampler takes positive values"),
        ([0.9, -1.0], "objective latency_ms is -1, the surrogate sampler takes positive values"),
    ],
)
def test_values_in_another_unit_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        as_costs(np.array([[0.5, 1.0], values]), objectives=OBJECTIVES)
    assert "another unit" in caught.value.hint


def test_the_values_are_not_changed_in_place() -> None:
    values_NM = np.array([[0.9, 2.0]])
    as_costs(values_NM, objectives=OBJECTIVES)
    assert values_NM.tolist() == [[0.9, 2.0]]


def test_models_rank_what_they_have_not_seen_and_know_what_is_computed() -> None:
    fit_NG, new_NG = np.split(np.unique(MACRO.sample_many(90, np.random.default_rng(0)), axis=0), [40])
    models = fit_models(
        fit_NG,
        as_costs(np.column_stack([accuracy(fit_NG), latency_ms(fit_NG)]), objectives=OBJECTIVES),
        space=MACRO,
        objectives=OBJECTIVES,
        computed={"latency_ms": latency_ms},
    )
    assert models.num_fitted == 40
    mean_NM, spread_NM = models.predict(new_NG)
    assert spearmanr(mean_NM[:, 0], -accuracy(new_NG)).statistic > 0.9
    assert (spread_NM[:, 0] > 0).all()
    np.testing.assert_allclose(mean_NM[:, 1], latency_ms(new_NG))
    assert not spread_NM[:, 1].any()


def test_where_paths_are_known_accuracy_is_told_from_them() -> None:
    space = get_space("nasbench201")
    genomes_NG = np.random.default_rng(3).permutation(
        np.unique(space.sample_many(300, np.random.default_rng(3)), axis=0)
    )
    # What skips beside deep paths bring is no sum of what single edges bring.
    depths_NB = space.path_features(genomes_NG)["depths"]
    is_residual_N = (depths_NB[:, 0] > 0) & (depths_NB[:, 2:4].sum(axis=1) > 0)
    accuracy_N = 0.7 + 0.05 * depths_NB[:, 4:8] @ np.arange(4) + 0.05 * is_residual_N
    value_NM = as_costs(np.column_stack([accuracy_N, np.ones(len(genomes_NG))]), objectives=OBJECTIVES)
    models = fit_models(genomes_NG[:80], value_NM[:80], space=space, objectives=OBJECTIVES, computed={})
    assert list(models.blends["accuracy"].names) == ["gp-paths"]
    mean_NM, _ = models.predict(genomes_NG[80:])
    errors_N = mean_NM[:, 0] - value_NM[80:, 0]
    assert np.sqrt(np.mean(errors_N**2)) < 0.3 * value_NM[80:, 0].std()


def test_an_objective_that_is_the_same_for_all_is_a_constant() -> None:
    genomes_NG = np.unique(MACRO.sample_many(20, np.random.default_rng(0)), axis=0)
    values_NM = np.column_stack([np.full(len(genomes_NG), 0.5), latency_ms(genomes_NG)])
    models = fit_models(
        genomes_NG,
        as_costs(values_NM, objectives=OBJECTIVES),
        space=MACRO,
        objectives=OBJECTIVES,
        computed={},
    )
    mean_NM, spread_NM = models.predict(genomes_NG[:3])
    np.testing.assert_allclose(mean_NM[:, 0], np.log(0.5))
    assert not spread_NM[:, 0].any()
    assert (spread_NM[:, 1] >= 0).all()
