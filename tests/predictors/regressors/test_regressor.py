"""What every registered family promises, and that a predictor of any of them alone keeps the predictors' contract."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest

import predictors.model
from predictors import LatencyPredictor, fit_latency_predictor, load_predictor
from predictors.features import Blocks, LatencyFeatures
from predictors.prediction import FloatArray
from predictors.regressors import find_regressors
from predictors.regressors.ensemble import NetworkEnsemble
from predictors.regressors.regressor import FittedRegressor, Regressor
from predictors.regressors.trees import BoostedTrees
from predictors.testing import PredictorContract, PredictorLoader
from searchspaces import SearchSpace, get_space
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice

SPACE = get_space("mbconv-small")
REGRESSORS = {regressor.name: regressor for regressor in find_regressors() if regressor.needs is None}
# Under their registered names, so that what they store can be read, and usable with the few rows of a test.
CROSS_VALIDATED: tuple[Regressor, ...] = (
    BoostedTrees(name="trees", fewest=3),
    NetworkEnsemble(name="ensemble", fewest=3),
)

every_family = pytest.mark.parametrize("name", REGRESSORS)


@cache
def measured() -> tuple[Blocks, FloatArray]:
    """40 architectures."""
    genomes_NG = SPACE.sample_many(40, np.random.default_rng(1))
    cost_N = SyntheticDevice.draw(1).latency_ms(SPACE, genomes_NG, rng=np.random.default_rng(2))
    return LatencyFeatures(space=SPACE).encode(genomes_NG), cost_N


@cache
def fitted(name: str, factor: float = 1.0) -> FittedRegressor:
    """Fitted to them; once, whatever asks."""
    blocks, cost_N = measured()
    population = LatencyFeatures(space=SPACE).population()
    return REGRESSORS[name].fit(blocks, factor * cost_N, population=population)


def test_the_registered_families_have_distinct_names() -> None:
    names = [regressor.name for regressor in find_regressors()]
    assert len(names) == len(set(names))
    assert {"gp-log", "ensemble", "trees"} <= set(names)


@every_family
def test_a_restored_regressor_predicts_bit_for_bit_the_same(name: str) -> None:
    blocks, _ = measured()
    one = fitted(name)
    restored = REGRESSORS[name].restore(one.arrays(), settings=one.settings)
    for before, after in zip(one.predict(blocks), restored.predict(blocks), strict=True):
        assert (before == after).all()
    with pytest.raises(KeyError):
        REGRESSORS[name].restore({}, settings=one.settings)


@every_family
def test_the_unit_does_not_matter(name: str) -> None:
    blocks, _ = measured()
    ms, us = fitted(name), fitted(name, 1000.0)
    for a, b, factor in zip(ms.predict(blocks), us.predict(blocks), (1000.0, 1.0), strict=True):
        np.testing.assert_allclose(factor * a, b, rtol=1e-3)
    np.testing.assert_allclose(ms.loo_log_errors_N, us.loo_log_errors_N, atol=1e-4)


@every_family
def test_predictions_stay_within_a_factor_of_ten_of_what_was_fitted(name: str) -> None:
    blocks, cost_N = measured()
    for factor in (0.0, 1e6):
        mean_N, spread_N = fitted(name).predict({key: factor * block for key, block in blocks.items()})
        assert (mean_N >= cost_N.min() / 10.001).all()
        assert (mean_N <= cost_N.max() * 10.001).all()
        assert np.isfinite(spread_N).all()


@pytest.mark.parametrize("family", CROSS_VALIDATED, ids=lambda family: family.name)
def test_held_out_errors_are_as_large_as_those_of_rows_never_seen(family: Regressor) -> None:
    rng = np.random.default_rng(3)
    features = LatencyFeatures(space=SPACE)
    genomes_NG = SPACE.sample_many(160, rng)
    cost_N = SyntheticDevice.draw(2).latency_ms(SPACE, genomes_NG, rng=rng)
    blocks = features.encode(genomes_NG)
    first, rest = ({key: block[rows] for key, block in blocks.items()} for rows in (slice(80), slice(80, None)))
    one = family.fit(first, cost_N[:80], population=features.population())
    seen, unseen = (
        np.abs(np.log(one.predict(part)[0] / part_cost_N)).mean()
        for part, part_cost_N in ((first, cost_N[:80]), (rest, cost_N[80:]))
    )
    held_out = np.abs(one.loo_log_errors_N).mean()
    assert seen < 0.8 * held_out
    assert 0.8 < held_out / unseen < 1.5
    assert unseen < 0.8 * np.abs(np.log(cost_N[80:] / np.median(cost_N[:80]))).mean()


@pytest.fixture(scope="module")
def alone(fit_table: pd.DataFrame) -> Callable[[Regressor], LatencyPredictor]:
    """Fits a predictor of one family alone; once."""

    found: dict[str, LatencyPredictor] = {}

    def fit(family: Regressor) -> LatencyPredictor:
        if family.name not in found:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(predictors.model, "find_regressors", lambda: (family,))
                found[family.name] = fit_latency_predictor(fit_table, space=SPACE, device_id=DEVICE_ID)
        return found[family.name]

    return fit


@pytest.mark.parametrize("family", CROSS_VALIDATED, ids=lambda family: family.name)
class TestPredictorOfOneFamily(PredictorContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SPACE

    @pytest.fixture
    def predictor(self, family: Regressor, alone: Callable[[Regressor], LatencyPredictor]) -> LatencyPredictor:
        return alone(family)

    @pytest.fixture
    def load(self) -> PredictorLoader:
        return lambda directory: load_predictor(directory, space=SPACE)
