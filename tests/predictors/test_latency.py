from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from predictors import LatencyPredictor, PredictorError, fit_cost_predictor, fit_latency_predictor, load_predictor
from predictors.features import LatencyFeatures
from predictors.testing import PredictorContract, PredictorLoader
from searchspaces import Architecture, SearchSpace, get_space
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice


class TestLatencyPredictor(PredictorContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("mbconv-small")

    @pytest.fixture
    def predictor(self, space: SearchSpace, fit_table: pd.DataFrame, held_out_table: pd.DataFrame) -> LatencyPredictor:
        predictor = fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID)
        return predictor.with_scores(predictor.score(held_out_table))

    @pytest.fixture
    def load(self, space: SearchSpace) -> PredictorLoader:
        return lambda directory: load_predictor(directory, space=space, device_id=DEVICE_ID)


def test_forty_measurements_predict_others_within_five_percent(
    predictor: LatencyPredictor, held_out_table: pd.DataFrame
) -> None:
    scores = predictor.score(held_out_table)
    assert scores.mape_percent < 5.0
    assert scores.spearman > 0.97
    assert scores.num == 100
    assert predictor.num_fitted == 40
    assert predictor.loo_mape_percent < 5.0


def test_fitting_twice_gives_the_same_predictor(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    question = space.sample_many(20, np.random.default_rng(0))
    once, twice = (fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID) for _ in range(2))
    assert (once.predict(question).upper == twice.predict(question).upper).all()


def test_with_scores_leaves_the_original_alone(predictor: LatencyPredictor, held_out_table: pd.DataFrame) -> None:
    scores = predictor.score(held_out_table)
    assert predictor.with_scores(scores).scores == scores
    assert predictor.scores is None


def test_a_repeated_measurement_counts_once(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    again = fit_table.head(3).assign(latency_ms=fit_table["latency_ms"].head(3) * 1.05)
    predictor = fit_latency_predictor(pd.concat([fit_table, again]), space=space, device_id=DEVICE_ID)
    assert predictor.num_fitted == 40


def test_a_higher_level_gives_wider_intervals(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    question = space.sample_many(20, np.random.default_rng(0))
    widths = [
        fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID, level=level).predict(question).relative_width
        for level in (0.5, 0.9, 0.99)
    ]
    assert (widths[0] < widths[1]).all()
    assert (widths[1] < widths[2]).all()


def test_architectures_beyond_the_fitted_ones_are_out_of_range_and_less_certain(
    space: SearchSpace, device: SyntheticDevice
) -> None:
    rng = np.random.default_rng(5)
    genomes_NG = space.sample_many(4000, rng)
    depth_columns = [g for g, choice in enumerate(space.choices) if choice.name.endswith("depth")]
    is_shallow_N = (genomes_NG[:, depth_columns] < 2).all(axis=1)
    shallow_NG, deep_NG = genomes_NG[is_shallow_N], genomes_NG[~is_shallow_N]
    table = device.measure(space, shallow_NG[:60], rng=rng)
    predictor = fit_latency_predictor(table, space=space, device_id=DEVICE_ID)
    inside, outside = predictor.predict(shallow_NG[60:]), predictor.predict(deep_NG)
    assert inside.in_range.mean() > 0.8
    assert not outside.in_range.any()
    assert np.median(outside.relative_width) > 1.3 * np.median(inside.relative_width)
    latency_N = device.latency_ms(space, deep_NG, rng=rng)
    assert ((outside.lower <= latency_N) & (latency_N <= outside.upper)).mean() > 0.8


def test_ten_architectures_suffice_and_nine_do_not(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    assert fit_latency_predictor(fit_table.head(10), space=space, device_id=DEVICE_ID).num_fitted == 10
    repeated = pd.concat([fit_table.head(9), fit_table.head(9)])
    with pytest.raises(PredictorError, match="9 distinct architectures are too few") as refusal:
        fit_latency_predictor(repeated, space=space, device_id=DEVICE_ID)
    assert "40" in refusal.value.hint


def test_a_space_with_one_resolution_can_be_predicted(device: SyntheticDevice) -> None:
    space = get_space("mbconv-small", resolutions=(16,))
    rng = np.random.default_rng(6)
    table = device.measure(space, space.sample_many(60, rng), rng=rng)
    predictor = fit_latency_predictor(table.head(40), space=space, device_id=DEVICE_ID)
    assert predictor.score(table.tail(20)).mape_percent < 5.0


def test_constant_latency_is_refused(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match=r"all 40 values of latency_ms are 0\.5"):
        fit_latency_predictor(fit_table.assign(latency_ms=0.5), space=space, device_id=DEVICE_ID)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 90.0, float("nan")])
def test_an_impossible_level_is_refused(space: SearchSpace, fit_table: pd.DataFrame, level: float) -> None:
    with pytest.raises(PredictorError, match="level"):
        fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID, level=level)


def test_scoring_on_fitted_architectures_is_refused(predictor: LatencyPredictor, fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match="5 of 5 held-out architectures were used for fitting"):
        predictor.score(fit_table.head(5))


def test_another_unit_reads_another_column(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    table = fit_table.rename(columns={"latency_ms": "latency_us"})
    table["latency_us"] *= 1000.0
    predictor = fit_latency_predictor(table, space=space, device_id=DEVICE_ID, unit="us")
    assert predictor.unit == "us"
    assert predictor.predict([space.smallest]).mean[0] > 10.0
    with pytest.raises(PredictorError, match="no column 'latency_ms'"):
        fit_latency_predictor(table, space=space, device_id=DEVICE_ID)


def test_more_architectures_than_fit_one_piece_keep_their_order(
    space: SearchSpace, predictor: LatencyPredictor
) -> None:
    genomes_NG = space.sample_many(8192 + 3, np.random.default_rng(7))
    whole, end = predictor.predict(genomes_NG), predictor.predict(genomes_NG[-5:])
    assert len(whole) == 8192 + 3
    np.testing.assert_allclose(whole.upper[-5:], end.upper, rtol=1e-9)


def test_an_interval_says_unknown_before_it_overflows(space: SearchSpace, predictor: LatencyPredictor) -> None:
    lost = replace(predictor, model=replace(predictor.model, quantile=1e6)).predict([space.smallest])
    assert lost.upper[0] == pytest.approx(1000.0 * lost.mean[0])


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_table_in_another_unit_contradicts_the_reference(
    space: SearchSpace, fit_table: pd.DataFrame, held_out_table: pd.DataFrame, factor: float
) -> None:
    first = held_out_table.iloc[0]
    reference = (Architecture.from_json(first["architecture"]), float(first["latency_ms"]))
    fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID, reference=reference)
    wrong = fit_table.assign(latency_ms=factor * fit_table["latency_ms"])
    with pytest.raises(PredictorError, match=reference[0].arch_id) as refusal:
        fit_latency_predictor(wrong, space=space, device_id=DEVICE_ID, reference=reference)
    assert "another unit" in refusal.value.hint


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), None, "3"])
def test_a_reference_without_a_cost_is_refused_as_such(space: SearchSpace, fit_table: pd.DataFrame, cost: Any) -> None:
    with pytest.raises(PredictorError, match=r"the reference's cost is .*, expected a positive number"):
        fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID, reference=(space.smallest, cost))


def test_scores_tell_how_many_measurements_the_intervals_hold(
    space: SearchSpace, fit_table: pd.DataFrame, held_out_table: pd.DataFrame, tmp_path: Path
) -> None:
    predictor = fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID)
    scores = predictor.score(held_out_table)
    assert 0.6 < scores.coverage <= 1.0
    slower = held_out_table.assign(latency_ms=3.0 * held_out_table["latency_ms"])
    assert predictor.score(slower).coverage == 0.0
    predictor.with_scores(scores).save(tmp_path)
    stored = load_predictor(tmp_path, space=space).scores
    assert stored is not None
    assert stored.coverage == scores.coverage


def test_energy_is_predicted_and_stored_like_latency(
    space: SearchSpace, fit_table: pd.DataFrame, held_out_table: pd.DataFrame, tmp_path: Path
) -> None:
    fit, held_out = (table.assign(energy_mj=5.0 * table["latency_ms"]) for table in (fit_table, held_out_table))
    predictor = fit_cost_predictor(fit, quantity="energy", space=space, device_id=DEVICE_ID)
    assert (predictor.quantity, predictor.unit) == ("energy", "mJ")
    assert predictor.score(held_out).mape_percent < 5.0
    predictor.save(tmp_path)
    restored = load_predictor(tmp_path, space=space, quantity="energy")
    question = space.sample_many(5, np.random.default_rng(0))
    assert (restored.predict(question).mean == predictor.predict(question).mean).all()
    with pytest.raises(PredictorError, match="is of energy, not of latency"):
        load_predictor(tmp_path, space=space, quantity="latency")


def test_an_unknown_quantity_is_answered_with_the_known_ones(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match="unknown quantity 'beauty', known are latency, latency_p99, energy"):
        fit_cost_predictor(fit_table, quantity="beauty", space=space, device_id=DEVICE_ID)


@pytest.mark.parametrize(("num", "num_wrong"), [(10, 1), (10, 2), (40, 3), (40, 10), (40, 18)])
def test_rows_in_another_unit_are_refused_and_named_unless_they_are_many(
    space: SearchSpace, fit_table: pd.DataFrame, num: int, num_wrong: int
) -> None:
    mixed = fit_table.head(num).copy()
    mixed.loc[mixed.index[:num_wrong], "latency_ms"] /= 1000.0
    first = Architecture.from_json(str(mixed["architecture"].iloc[0])).arch_id
    with pytest.raises(PredictorError, match=f"of {num} architectures are more than 20 times off") as caught:
        fit_latency_predictor(mixed, space=space, device_id=DEVICE_ID)
    assert "mixed units" in caught.value.hint
    assert (f"{first} (" in str(caught.value)) == (num_wrong <= num / 4)


def test_a_long_tail_is_no_other_unit(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    tails = fit_table.assign(latency_p99_ms=1.3 * fit_table["latency_ms"])
    tails.loc[tails.index[0], "latency_p99_ms"] *= 50.0
    predictor = fit_cost_predictor(tails, quantity="latency_p99", space=space, device_id=DEVICE_ID)
    assert predictor.num_fitted == 40


def test_costs_a_thousandfold_apart_are_right_where_compilers_leave_operators_out() -> None:
    cells = get_space("nasbench201")
    genomes_NG = cells.sample_many(40, np.random.default_rng(0))
    none = cells.choices[0].values.index("none")
    latency_N = np.where((cells.functional(genomes_NG) == none).all(axis=1), 0.01, 10.0 + np.arange(40))
    assert latency_N.min() == 0.01
    table = pd.DataFrame(
        {"architecture": [arch.to_json() for arch in cells.architectures(genomes_NG)], "latency_ms": latency_N}
    ).drop_duplicates("architecture")
    assert fit_latency_predictor(table, space=cells, device_id=DEVICE_ID).num_fitted == len(table)


def test_a_floor_that_most_networks_lie_on_bends_nothing(space: SearchSpace) -> None:
    genomes_NG = space.sample_many(250, np.random.default_rng(0))
    macs_N = LatencyFeatures(space=space).encode(genomes_NG)["totals"][:, 1]
    latency_N = 10.0 * np.maximum(1.0, macs_N / np.quantile(macs_N, 0.6))
    latency_N *= np.exp(np.random.default_rng(1).normal(0.0, 1e-4, len(latency_N)))
    table = pd.DataFrame(
        {"architecture": [arch.to_json() for arch in space.architectures(genomes_NG)], "latency_ms": latency_N}
    ).drop_duplicates("architecture")
    predictor = fit_latency_predictor(table.head(50), space=space, device_id=DEVICE_ID)
    assert predictor.score(table.iloc[50:]).mape_percent < 4.0


def test_what_builds_on_a_stored_predictor_learns_from_its_left_out_predictions(
    space: SearchSpace, fit_table: pd.DataFrame, tmp_path: Path
) -> None:
    noise_N = np.exp(np.random.default_rng(2).normal(0.0, 0.1, len(fit_table)))
    noisy = fit_table.assign(latency_ms=fit_table["latency_ms"] * noise_N)
    energy = noisy.assign(energy_mj=2.0 * noisy["latency_ms"])
    latency = fit_latency_predictor(noisy, space=space, device_id=DEVICE_ID)
    latency.save(tmp_path)
    question = space.sample_many(20, np.random.default_rng(0))
    found = [
        fit_cost_predictor(energy, quantity="energy", space=space, device_id=DEVICE_ID, sources=[source])
        for source in (latency, load_predictor(tmp_path, space=space))
    ]
    assert (found[0].predict(question).upper == found[1].predict(question).upper).all()
