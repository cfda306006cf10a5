import numpy as np
import pytest

from predictors import fit_latency_predictor
from predictors.features import LatencyFeatures
from predictors.intervals import FittedRange, conformal_quantile
from searchspaces import SearchSpace
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice


@pytest.mark.parametrize("noise", [0.005, 0.03])
def test_ninety_percent_intervals_hold_about_ninety_percent(space: SearchSpace, noise: float) -> None:
    hits = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        device = SyntheticDevice.draw(seed, noise=noise)
        table = device.measure(space, space.sample_many(40, rng), rng=rng)
        unseen_NG = space.sample_many(300, rng)
        latency_N = device.latency_ms(space, unseen_NG, rng=rng)
        prediction = fit_latency_predictor(table, space=space, device_id=DEVICE_ID).predict(unseen_NG)
        hits.append(((prediction.lower <= latency_N) & (latency_N <= prediction.upper)).mean())
    # Conditional on its 40 rows, one predictor's share scatters by about .05; the mean of 12 by about .015.
    assert 0.85 <= np.mean(hits) <= 0.96


def test_the_quantile_is_the_smallest_that_keeps_the_conformal_promise() -> None:
    errors_N = np.arange(1, 20) / 10.0
    assert conformal_quantile(errors_N, np.ones(19), level=0.9) == 1.8
    assert conformal_quantile(-errors_N, np.full(19, 2.0), level=0.9) == 0.9


def test_what_was_tuned_on_all_rows_widens_the_intervals() -> None:
    errors_N = np.arange(1, 20) / 10.0
    tuned = conformal_quantile(errors_N, np.ones(19), level=0.9, num_tuned=19)
    assert tuned == pytest.approx(1.8 * np.sqrt(2.0))


def test_too_few_errors_for_the_level_fall_back_to_a_wider_assumption() -> None:
    errors_N = np.array([0.01, -0.02, 0.015, 0.005, -0.01])
    assert conformal_quantile(errors_N, np.ones(5), level=0.99) > 0.02


def test_the_range_covers_what_was_fitted_and_grows_outside(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(40, np.random.default_rng(1))
    fitted = FittedRange.of(features.encode(genomes_NG), ordered=features.resolution_columns())
    assert (fitted.excess(features.encode(genomes_NG)) == 0).all()
    only_smallest = FittedRange.of(
        features.encode(space.genomes([space.smallest])), ordered=features.resolution_columns()
    )
    excess_N = only_smallest.excess(features.encode(space.genomes([space.smallest, space.largest])))
    assert excess_N[0] == 0.0
    assert excess_N[1] > 1.0


def test_an_unseen_choice_value_is_out_of_range(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(500, np.random.default_rng(2))
    kernel = next(g for g, choice in enumerate(space.choices) if choice.name.endswith("kernel"))
    has_middle_N = genomes_NG[:, kernel] == 1
    fitted = FittedRange.of(features.encode(genomes_NG[~has_middle_N]), ordered=features.resolution_columns())
    assert (fitted.excess(features.encode(genomes_NG[has_middle_N])) >= 0.5).all()


def test_a_resolution_between_two_fitted_ones_is_in_range(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(800, np.random.default_rng(3))
    resolution = next(g for g, choice in enumerate(space.choices) if choice.name == "resolution")
    middle_N, last_N = genomes_NG[:, resolution] == 1, genomes_NG[:, resolution] == 2
    without_middle = FittedRange.of(features.encode(genomes_NG[~middle_N]), ordered=features.resolution_columns())
    assert (without_middle.excess(features.encode(genomes_NG[middle_N])) == 0).all()
    without_last = FittedRange.of(features.encode(genomes_NG[~last_N]), ordered=features.resolution_columns())
    assert (without_last.excess(features.encode(genomes_NG[last_N])) >= 0.5).all()
