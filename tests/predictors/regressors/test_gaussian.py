import numpy as np
import pytest

from predictors.features import take
from predictors.regressors.gaussian import GaussianProcess, View

LINEAR = (View(block="x", log_share=0.0),)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_leave_one_out_errors_are_those_of_refitting_without_the_row(logarithmic: bool) -> None:
    """The closed form holds for fixed shares and weights; with many rows these hardly move."""
    rng = np.random.default_rng(3)
    inputs_ND = rng.uniform(1.0, 3.0, size=(200, 4))
    cost_N = (inputs_ND @ np.array([1.0, 2.0, 0.5, 0.1])) * np.exp(rng.normal(0.0, 0.05, 200))
    family = GaussianProcess(name="test", views=LINEAR, logarithmic=logarithmic)
    population = {"x": inputs_ND}
    whole = family.fit({"x": inputs_ND}, cost_N, population=population)
    for row in (0, 7, 150):
        kept = np.delete(np.arange(200), row)
        without = family.fit(take({"x": inputs_ND}, kept), cost_N[kept], population=population)
        mean, spread = without.predict({"x": inputs_ND[row : row + 1]})
        assert whole.loo_log_errors_N[row] == pytest.approx(np.log(mean[0] / cost_N[row]), abs=3e-3)
        assert whole.loo_spread_N[row] == pytest.approx(spread[0], rel=0.1)


def test_additive_costs_are_found_and_constant_columns_ignored() -> None:
    rng = np.random.default_rng(4)
    inputs_ND = rng.uniform(1.0, 3.0, size=(30, 3))
    inputs_ND[:, 1] = 2.0
    cost_N = 5.0 + 2.0 * inputs_ND[:, 0] + 3.0 * inputs_ND[:, 2]
    family = GaussianProcess(name="test", views=LINEAR, logarithmic=False)
    fitted = family.fit({"x": inputs_ND}, cost_N, population={"x": inputs_ND})
    mean, _ = fitted.predict({"x": np.array([[1.0, 2.0, 1.0], [3.0, 2.0, 3.0]])})
    np.testing.assert_allclose(mean, [10.0, 20.0], rtol=1e-3)


def test_the_spread_is_larger_where_nothing_was_seen() -> None:
    rng = np.random.default_rng(5)
    inputs_ND = rng.uniform(1.0, 2.0, size=(30, 3))
    cost_N = 5.0 + inputs_ND.sum(axis=1) + rng.normal(0.0, 0.05, 30)
    family = GaussianProcess(name="test", views=LINEAR, logarithmic=False)
    fitted = family.fit({"x": inputs_ND}, cost_N, population={"x": inputs_ND})
    _, spread_N = fitted.predict({"x": np.array([[1.5, 1.5, 1.5], [1.5, 1.5, 4.0]])})
    assert 0.0 < spread_N[0] < spread_N[1]


def test_wrong_measurements_hardly_bend_the_fit() -> None:
    rng = np.random.default_rng(6)
    inputs_ND = rng.uniform(1.0, 3.0, size=(40, 3))
    true_N = 5.0 + inputs_ND @ np.array([1.0, 2.0, 3.0])
    cost_N = true_N * np.exp(rng.normal(0.0, 0.01, 40))
    cost_N[[3, 17]] *= np.array([2.0, 0.4])
    family = GaussianProcess(name="test", views=LINEAR, logarithmic=True)
    fitted = family.fit({"x": inputs_ND}, cost_N, population={"x": inputs_ND})
    mean_N, _ = fitted.predict({"x": inputs_ND})
    assert np.abs(mean_N / true_N - 1.0).mean() < 0.03
    assert fitted.weight_N[[3, 17]].max() < 0.3 < np.median(fitted.weight_N)


def test_a_distrusted_block_is_believed_once_the_data_show_it() -> None:
    rng = np.random.default_rng(7)
    trusted_N1, other_N1 = rng.normal(size=(400, 1)), rng.normal(size=(400, 1))
    blocks = {"trusted": trusted_N1, "other": other_N1}
    family = GaussianProcess(
        name="test",
        views=(View(block="trusted", log_share=0.0), View(block="other", log_share=-8.0)),
        logarithmic=True,
    )
    cost_N = np.exp(0.1 * other_N1[:, 0])
    fitted = family.fit(blocks, cost_N, population=blocks)
    mean_N, _ = fitted.predict(blocks)
    np.testing.assert_allclose(mean_N, cost_N, rtol=5e-3)
    assert fitted.settings["share.other"] > 100 * np.exp(-8.0)
    few_N, few = fitted.family.fit(take(blocks, np.arange(10)), cost_N[:10], population=blocks).predict(blocks)
    assert np.isfinite(few_N).all()
    assert few.mean() > fitted.predict(blocks)[1].mean()
