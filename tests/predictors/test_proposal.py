import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from predictors import LatencyPredictor, PredictorError, fit_latency_predictor
from predictors.features import LatencyFeatures
from searchspaces import Architecture, SearchSpace, get_space
from searchspaces.enumeration import enumerate_genomes
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice


def test_fitted_architectures_are_never_proposed(
    space: SearchSpace, predictor: LatencyPredictor, fit_table: pd.DataFrame
) -> None:
    proposed = predictor.propose(30, rng=np.random.default_rng(1))
    assert len(proposed) == 30
    assert not {arch.to_json() for arch in proposed} & set(fit_table["architecture"])


def test_proposals_are_less_certain_than_random_ones(space: SearchSpace, predictor: LatencyPredictor) -> None:
    proposed = predictor.propose(10, rng=np.random.default_rng(2))
    random = space.architectures(space.sample_many(200, np.random.default_rng(3)))
    assert np.mean(predictor.predict(proposed).relative_width) > np.mean(predictor.predict(random).relative_width)


def test_equally_certain_proposals_keep_away_from_each_other(space: SearchSpace, predictor: LatencyPredictor) -> None:
    certain = replace(predictor, model=replace(predictor.model, quantile=0.0))

    def smallest_distance(archs: list[Architecture]) -> float:
        code_NF = space.encode_many(space.genomes(archs))
        return min(float(np.abs(a - b).sum()) for a, b in itertools.combinations(code_NF, 2))

    for seed in range(3):
        proposed = certain.propose(30, rng=np.random.default_rng(seed))
        random = space.architectures(space.sample_many(30, np.random.default_rng(seed)))
        assert smallest_distance(proposed) > 1.4 * smallest_distance(random)


def test_a_negative_number_is_refused(predictor: LatencyPredictor) -> None:
    with pytest.raises(PredictorError, match="-1"):
        predictor.propose(-1, rng=np.random.default_rng(1))


def test_measuring_the_proposals_lowers_the_error(space: SearchSpace, device: SyntheticDevice) -> None:
    errors: dict[str, list[float]] = {"before": [], "after": []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        table = device.measure(space, space.sample_many(24, rng), rng=rng)
        held_out = device.measure(space, space.sample_many(150, rng), rng=rng)
        before = fit_latency_predictor(table, space=space, device_id=DEVICE_ID)
        held_ids = {arch.arch_id for arch in space.architectures(before.fitted_NG)}
        proposed = space.genomes(before.propose(24, rng=rng, exclude=held_ids))
        more = pd.concat([table, device.measure(space, proposed, rng=rng)])
        after = fit_latency_predictor(more, space=space, device_id=DEVICE_ID)
        errors["before"].append(before.score(held_out).mape_percent)
        errors["after"].append(after.score(held_out).mape_percent)
    assert np.mean(errors["after"]) < np.mean(errors["before"])


def test_all_that_is_left_of_a_small_space_is_proposed() -> None:
    small = get_space("nas-bench-macro")
    genomes_NG = small.sample_many(60, np.random.default_rng(0))
    table = pd.DataFrame(
        {
            "architecture": [arch.to_json() for arch in small.architectures(genomes_NG)],
            "latency_ms": LatencyFeatures(space=small).encode(genomes_NG)["totals"][:, 1],
        }
    ).drop_duplicates("architecture")
    predictor = fit_latency_predictor(table, space=small, device_id=DEVICE_ID)
    ids = [arch.arch_id for arch in small.architectures(enumerate_genomes(small))]
    fitted = {arch.arch_id for arch in small.architectures(predictor.fitted_NG)}
    left = [arch_id for arch_id in ids if arch_id not in fitted][:7]
    proposed = predictor.propose(20, rng=np.random.default_rng(1), exclude=set(ids) - set(left))
    assert sorted(arch.arch_id for arch in proposed) == sorted(left)
