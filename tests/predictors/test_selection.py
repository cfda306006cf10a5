from collections.abc import Callable

import numpy as np
import pytest

from predictors import PredictorError, fit_latency_predictor
from predictors.features import LatencyFeatures
from predictors.prediction import FloatArray
from predictors.regressors import find_regressors
from predictors.regressors.regressor import Regressor
from predictors.selection import Blend, blend
from searchspaces import SearchSpace
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice


def one_hot_ridge(code_NF: FloatArray, cost_N: FloatArray, question_MF: FloatArray) -> FloatArray:
    """Plain ridge on log cost, its penalty chosen by leave-one-out."""
    log_N = np.log(cost_N)
    best: tuple[float, FloatArray] | None = None
    for alpha in np.logspace(-3, 3, 13):
        kernel_NN = code_NF @ code_NF.T + 100.0
        inverse_NN = np.linalg.inv(kernel_NN + alpha * np.eye(len(cost_N)))
        pull_N = inverse_NN @ (log_N - log_N.mean())
        error = float(np.mean((pull_N / np.diag(inverse_NN)) ** 2))
        if best is None or error < best[0]:
            best = error, np.exp(log_N.mean() + (question_MF @ code_NF.T + 100.0) @ pull_N)
    assert best is not None
    return best[1]


def test_the_blend_beats_plain_one_hot_ridge_on_many_devices(space: SearchSpace) -> None:
    for seed in range(8):
        rng = np.random.default_rng(1000 + seed)
        device = SyntheticDevice.draw(seed)
        table = device.measure(space, space.sample_many(40, rng), rng=rng)
        fitted = fit_latency_predictor(table, space=space, device_id=DEVICE_ID)
        unseen_NG = space.sample_many(200, rng)
        latency_N = device.latency_ms(space, unseen_NG, rng=rng)
        code_NF, question_MF = (space.encode_many(g).astype(float) for g in (fitted.fitted_NG, unseen_NG))
        plain_N = one_hot_ridge(code_NF, table["latency_ms"].to_numpy(dtype=float), question_MF)
        ours = np.abs(fitted.predict(unseen_NG).mean / latency_N - 1.0).mean()
        assert ours < 0.05
        assert ours < np.abs(plain_N / latency_N - 1.0).mean()


def blended_60(space: SearchSpace, device: SyntheticDevice) -> tuple[list[Regressor], Blend]:
    """All families that 60 measurements are enough for, and what they come to."""
    rng = np.random.default_rng(1)
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(60, rng)
    cost_N = device.latency_ms(space, genomes_NG, rng=rng)
    usable = [one for one in find_regressors() if one.needs is None and one.fewest <= 60]
    blended = blend(usable, features.encode(genomes_NG), cost_N, population=features.population())
    return usable, blended


def test_weights_fall_with_the_error_and_add_up_to_one(space: SearchSpace, device: SyntheticDevice) -> None:
    _, blended = blended_60(space, device)
    assert np.isclose(sum(blended.weights), 1.0)
    assert list(blended.weights) == sorted(blended.weights, reverse=True)
    assert min(blended.weights) > 0.0
    # what is averaged is close to the best of it, on rows that none was fitted to
    errors = [np.mean(one.loo_log_errors_N**2) for one in blended.members]
    assert np.mean(blended.loo_log_errors_N**2) <= 1.2 * min(errors)


def test_every_family_that_was_tried_has_the_error_that_decided(space: SearchSpace, device: SyntheticDevice) -> None:
    usable, blended = blended_60(space, device)
    found = blended.loo_rms_percent
    assert set(found) == {one.name for one in usable}
    assert list(found.values()) == sorted(found.values())
    assert [name for name in found if name in blended.names] == list(blended.names)
    for member in blended.members:
        # Without wild errors nothing is capped.
        assert found[member.name] == pytest.approx(100.0 * np.sqrt(np.mean(member.loo_log_errors_N**2)), rel=0.1)
    first, weight = next(iter(blended.names.items()))
    assert blended.reasons.startswith(f"{first} {100.0 * weight:.0f} % (error {found[first]:.1f} %)")
    assert blended.reasons.count("error") == len(usable)


def test_a_spoiled_row_shows_in_its_own_held_out_error(space: SearchSpace, device: SyntheticDevice) -> None:
    rng = np.random.default_rng(2)
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(60, rng)
    cost_N = device.latency_ms(space, genomes_NG, rng=rng)
    cost_N[17] *= 2.0
    blended = blend(find_regressors(), features.encode(genomes_NG), cost_N, population=features.population())
    assert int(np.argmax(np.abs(blended.loo_log_errors_N))) == 17
    assert blended.loo_log_errors_N[17] < -0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cost_N: np.ones(20), "all 20 values are 1: there is nothing to predict"),
        (lambda cost_N: 1.0 + 1e-13 * np.arange(20.0), "nothing to predict"),
        (lambda cost_N: np.where(np.arange(20) == 3, -1.0, cost_N), "expected finite ones above 0"),
        (lambda cost_N: np.where(np.arange(20) == 3, np.nan, cost_N), "expected finite ones above 0"),
    ],
)
def test_values_without_anything_to_learn_are_refused(
    space: SearchSpace, change: Callable[[FloatArray], FloatArray], message: str
) -> None:
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(20, np.random.default_rng(1))
    cost_N = change(np.linspace(1.0, 2.0, 20))
    with pytest.raises(PredictorError, match=message):
        blend(find_regressors(), features.encode(genomes_NG), cost_N, population=features.population())


@pytest.mark.filterwarnings("ignore")
def test_where_no_family_finds_anything_it_is_said(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(20, np.random.default_rng(1))
    cost_N = np.where(np.arange(20) == 3, 1e308, np.linspace(1.0, 2.0, 20))
    sums = [one for one in find_regressors() if one.name == "gp-additive"]
    with pytest.raises(PredictorError, match=r"no family of regressors can predict 20 values from 1 to 1e\+308"):
        blend(sums, features.encode(genomes_NG), cost_N, population=features.population())
    # One that can is enough.
    blended = blend(find_regressors(), features.encode(genomes_NG), cost_N, population=features.population())
    assert "gp-additive" not in blended.names
    assert np.isfinite(blended.weights).all()
