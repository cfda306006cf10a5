import numpy as np
import pytest

from predictors import PredictorError, fit_latency_predictor
from predictors.design import most_telling
from predictors.features import LatencyFeatures
from searchspaces import SearchSpace
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice


def test_the_most_telling_networks_predict_better_than_random_ones(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    errors: dict[str, list[float]] = {"random": [], "telling": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        device = SyntheticDevice.draw(seed)
        pool_NG, unseen_NG = space.sample_many(300, rng), space.sample_many(200, rng)
        latency_N = device.latency_ms(space, unseen_NG, rng=rng)
        for way, rows in (("random", np.arange(12)), ("telling", most_telling(features, pool_NG, n=12))):
            table = device.measure(space, pool_NG[rows], rng=rng)
            predictor = fit_latency_predictor(table, space=space, device_id=DEVICE_ID)
            errors[way].append(np.abs(predictor.predict(unseen_NG).mean / latency_N - 1.0).mean())
    assert np.mean(errors["telling"]) < np.mean(errors["random"])


def test_choices_are_distinct_repeatable_and_begin_alike(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    pool_NG = np.unique(space.sample_many(100, np.random.default_rng(1)), axis=0)
    ten, twenty = most_telling(features, pool_NG, n=10), most_telling(features, pool_NG, n=20)
    assert len(set(twenty.tolist())) == 20
    assert (twenty[:10] == ten).all()
    assert most_telling(features, pool_NG, n=0).tolist() == []
    with pytest.raises(PredictorError, match="cannot choose 101"):
        most_telling(features, pool_NG[:100], n=101)
