import numpy as np

from predictors import fit_latency_predictor
from predictors.features import LatencyFeatures
from predictors.regressors import find_regressors
from predictors.selection import choose, held_out_errors
from searchspaces import SearchSpace
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice


def test_choosing_beats_plain_one_hot_ridge_on_many_devices(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    one_hot = next(regressor for regressor in find_regressors() if regressor.name == "ridge-choices")
    for seed in range(8):
        rng = np.random.default_rng(1000 + seed)
        device = SyntheticDevice.draw(seed)
        table = device.measure(space, space.sample_many(40, rng), rng=rng)
        chosen = fit_latency_predictor(table, space=space, device_id=DEVICE_ID)
        plain = one_hot.fit(features.encode(chosen.fitted_NG), np.array(table["latency_ms"]))
        unseen_NG = space.sample_many(200, rng)
        latency_N = device.latency_ms(space, unseen_NG, rng=rng)
        plain_mean_N, _ = plain.predict(features.encode(unseen_NG))
        chosen_mape = np.abs(chosen.predict(unseen_NG).mean / latency_N - 1.0).mean()
        assert chosen_mape < 0.05
        assert chosen_mape <= np.abs(plain_mean_N / latency_N - 1.0).mean()


def test_the_smallest_leave_one_out_error_wins(space: SearchSpace, device: SyntheticDevice) -> None:
    rng = np.random.default_rng(1)
    genomes_NG = space.sample_many(30, rng)
    blocks, cost_N = LatencyFeatures(space=space).encode(genomes_NG), device.latency_ms(space, genomes_NG, rng=rng)
    best = choose(find_regressors(), blocks, cost_N)
    sizes = {one.name: np.mean(one.fit(blocks, cost_N).loo_log_errors_N ** 2) for one in find_regressors()}
    assert best.name == min(sizes, key=lambda name: sizes[name])


def test_a_spoiled_row_shows_in_its_own_held_out_error(space: SearchSpace, device: SyntheticDevice) -> None:
    rng = np.random.default_rng(2)
    genomes_NG = space.sample_many(60, rng)
    blocks, cost_N = LatencyFeatures(space=space).encode(genomes_NG), device.latency_ms(space, genomes_NG, rng=rng)
    cost_N[17] *= 2.0
    errors_N, spread_N = held_out_errors(find_regressors(), blocks, cost_N)
    assert int(np.argmax(np.abs(errors_N))) == 17
    assert errors_N[17] < -0.5
    assert (spread_N >= 1.0).all()
