import numpy as np
import pytest

from predictors.features import Blocks, LatencyFeatures, take
from predictors.prediction import FloatArray
from predictors.regressors import find_regressors
from predictors.regressors.regressor import Regressor
from predictors.regressors.ridge import Ridge
from searchspaces import SearchSpace
from tests.predictors.synthetic_device import SyntheticDevice

REGRESSORS = find_regressors()


@pytest.fixture
def blocks(space: SearchSpace) -> Blocks:
    return LatencyFeatures(space=space).encode(space.sample_many(40, np.random.default_rng(1)))


@pytest.fixture
def cost_N(space: SearchSpace, device: SyntheticDevice) -> FloatArray:
    genomes_NG = space.sample_many(40, np.random.default_rng(1))
    return device.latency_ms(space, genomes_NG, rng=np.random.default_rng(2))


def test_the_registered_families_have_distinct_names() -> None:
    names = [regressor.name for regressor in REGRESSORS]
    assert len(names) == len(set(names)) >= 4
    assert "ridge-choices" in names


@pytest.mark.parametrize("regressor", REGRESSORS, ids=lambda regressor: regressor.name)
def test_a_restored_regressor_predicts_bit_for_bit_the_same(
    regressor: Regressor, blocks: Blocks, cost_N: FloatArray
) -> None:
    fitted = regressor.fit(blocks, cost_N)
    restored = regressor.restore(fitted.arrays(), settings=fitted.settings)
    for before, after in zip(fitted.predict(blocks), restored.predict(blocks), strict=True):
        assert (before == after).all()
    with pytest.raises(KeyError):
        regressor.restore({}, settings=fitted.settings)


@pytest.mark.parametrize("regressor", REGRESSORS, ids=lambda regressor: regressor.name)
def test_the_unit_does_not_matter(regressor: Regressor, blocks: Blocks, cost_N: FloatArray) -> None:
    ms, us = regressor.fit(blocks, cost_N), regressor.fit(blocks, 1000.0 * cost_N)
    for a, b, factor in zip(ms.predict(blocks), us.predict(blocks), (1000.0, 1.0), strict=True):
        np.testing.assert_allclose(factor * a, b, rtol=1e-6)
    np.testing.assert_allclose(ms.loo_log_errors_N, us.loo_log_errors_N, atol=1e-7)


@pytest.mark.parametrize("regressor", REGRESSORS, ids=lambda regressor: regressor.name)
def test_predictions_stay_within_a_factor_of_ten_of_what_was_fitted(
    regressor: Regressor, blocks: Blocks, cost_N: FloatArray
) -> None:
    fitted = regressor.fit(blocks, cost_N)
    for factor in (0.0, 1e6):
        mean_N, spread_N = fitted.predict({name: factor * block for name, block in blocks.items()})
        assert (mean_N >= cost_N.min() / 10.001).all()
        assert (mean_N <= cost_N.max() * 10.001).all()
        assert np.isfinite(spread_N).all()


@pytest.mark.parametrize("logarithmic", [False, True])
def test_leave_one_out_errors_are_those_of_refitting_without_the_row(logarithmic: bool) -> None:
    """The closed form holds exactly for a fixed penalty, centre and scale; with many rows these hardly move."""
    rng = np.random.default_rng(3)
    inputs_ND = rng.uniform(1.0, 3.0, size=(400, 4))
    cost_N = (inputs_ND @ np.array([1.0, 2.0, 0.5, 0.1])) * np.exp(rng.normal(0.0, 0.05, 400))
    family = Ridge(name="test", weights={"x": 1.0}, logarithmic=logarithmic)
    whole = family.fit({"x": inputs_ND}, cost_N)
    for row in (0, 7, 150):
        kept = np.delete(np.arange(400), row)
        mean, _ = family.fit(take({"x": inputs_ND}, kept), cost_N[kept]).predict({"x": inputs_ND[row : row + 1]})
        assert whole.loo_log_errors_N[row] == pytest.approx(np.log(mean[0] / cost_N[row]), abs=2e-3)


def test_additive_costs_are_found_exactly_and_constant_columns_ignored() -> None:
    rng = np.random.default_rng(4)
    inputs_ND = rng.uniform(1.0, 3.0, size=(30, 3))
    inputs_ND[:, 1] = 2.0
    cost_N = 5.0 + 2.0 * inputs_ND[:, 0] + 3.0 * inputs_ND[:, 2]
    fitted = Ridge(name="test", weights={"x": 1.0}, logarithmic=False).fit({"x": inputs_ND}, cost_N)
    mean, _ = fitted.predict({"x": np.array([[1.0, 2.0, 1.0], [3.0, 2.0, 3.0]])})
    np.testing.assert_allclose(mean, [10.0, 20.0], rtol=1e-4)


def test_the_spread_is_larger_where_nothing_was_seen() -> None:
    rng = np.random.default_rng(5)
    inputs_ND = rng.uniform(1.0, 2.0, size=(30, 3))
    cost_N = 5.0 + inputs_ND.sum(axis=1) + rng.normal(0.0, 0.05, 30)
    fitted = Ridge(name="test", weights={"x": 1.0}, logarithmic=False).fit({"x": inputs_ND}, cost_N)
    _, spread_N = fitted.predict({"x": np.array([[1.5, 1.5, 1.5], [1.5, 1.5, 4.0]])})
    assert 1.0 < spread_N[0] < spread_N[1]
