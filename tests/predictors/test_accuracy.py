from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from predictors import (
    AccuracyPredictor,
    LatencyPredictor,
    PredictorError,
    fit_accuracy_predictor,
    load_accuracy_predictor,
)
from predictors.features import LatencyFeatures
from predictors.prediction import FloatArray
from predictors.testing import PredictorContract, PredictorLoader
from searchspaces import SearchSpace, get_space

SPACE = get_space("mbconv-small")


def accuracy(space: SearchSpace, genomes_NG: np.ndarray, *, rng: np.random.Generator) -> FloatArray:
    """Larger networks are better, 3x3 kernels in some places worse, and 2,000 images decide."""
    blocks = LatencyFeatures(space=space).encode(genomes_NG)
    effect_F = np.random.default_rng(0).normal(0.0, 0.05, blocks["choices"].shape[1])
    error_N = np.exp(-1.0 - 0.4 * np.log(blocks["totals"][:, 1] / 1e6) + blocks["choices"] @ effect_F)
    return rng.binomial(2000, np.clip(1.0 - error_N, 0.0, 1.0)) / 2000


def fitted(num: int) -> AccuracyPredictor:
    rng = np.random.default_rng(1)
    genomes_NG = np.unique(SPACE.sample_many(num, rng), axis=0)
    return fit_accuracy_predictor(genomes_NG, accuracy(SPACE, genomes_NG, rng=rng), space=SPACE, task="t")


class TestAccuracyPredictor(PredictorContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SPACE

    @pytest.fixture
    def predictor(self) -> AccuracyPredictor:
        return fitted(60)

    @pytest.fixture
    def load(self) -> PredictorLoader:
        return lambda directory: load_accuracy_predictor(directory, space=SPACE)


def test_eighty_evaluations_rank_others_and_their_intervals_hold() -> None:
    predictor = fitted(80)
    rng = np.random.default_rng(2)
    unseen_NG = SPACE.sample_many(400, rng)
    true_N = accuracy(SPACE, unseen_NG, rng=rng)
    found = predictor.predict(unseen_NG)
    assert np.corrcoef(found.mean, true_N)[0, 1] > 0.9
    assert np.sqrt(np.mean((found.mean - true_N) ** 2)) < 0.02
    assert 0.82 <= ((found.lower <= true_N) & (true_N <= found.upper)).mean() <= 0.97
    assert ((found.lower >= 0.0) & (found.upper <= 1.0)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda accuracies: 100.0 * accuracies, "is not between 0 and 1"),
        (lambda accuracies: np.where(np.arange(len(accuracies)) == 3, np.nan, accuracies), "accuracy .*nan.* of row 3"),
        (lambda accuracies: np.full_like(accuracies, 0.5), r"all 20 accuracies are 0\.5000"),
        (lambda accuracies: 1.0 - 1e-6 * np.arange(20.0), r"all 20 accuracies are 1\.0000"),
        (lambda accuracies: accuracies[:-1], r"with accuracies of shape \(19,\)"),
        (lambda accuracies: accuracies[:, None], r"with accuracies of shape \(20, 1\)"),
        (lambda accuracies: 0.5, r"with accuracies of shape \(\)"),
    ],
)
def test_what_is_no_accuracy_is_refused(change: object, message: str) -> None:
    rng = np.random.default_rng(3)
    genomes_NG = np.unique(SPACE.sample_many(20, rng), axis=0)
    assert callable(change)
    with pytest.raises(PredictorError, match=message):
        fit_accuracy_predictor(genomes_NG, change(accuracy(SPACE, genomes_NG, rng=rng)), space=SPACE, task="t")


def test_too_few_and_repeated_architectures_are_refused() -> None:
    rng = np.random.default_rng(4)
    genomes_NG = np.unique(SPACE.sample_many(12, rng), axis=0)
    values_N = accuracy(SPACE, genomes_NG, rng=rng)
    with pytest.raises(PredictorError, match="9 architectures are too few"):
        fit_accuracy_predictor(genomes_NG[:9], values_N[:9], space=SPACE, task="t")
    twice = np.concatenate([genomes_NG, genomes_NG[:1]])
    with pytest.raises(PredictorError, match="12 of them distinct"):
        fit_accuracy_predictor(twice, np.append(values_N, 0.5), space=SPACE, task="t")


def test_a_latency_predictor_is_not_taken_for_one(predictor: LatencyPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    with pytest.raises(PredictorError, match="predicts ms, not accuracy"):
        load_accuracy_predictor(tmp_path, space=SPACE)


def test_one_of_another_task_is_refused(tmp_path: Path) -> None:
    fitted(20).save(tmp_path)
    assert load_accuracy_predictor(tmp_path, space=SPACE, task="t").task == "t"
    with pytest.raises(PredictorError, match="for task 't', not 'cifar10'") as caught:
        load_accuracy_predictor(tmp_path, space=SPACE, task="cifar10")
    assert "fit it again" in caught.value.hint


@pytest.mark.parametrize("level", [2.0, -1.0, float("nan")])
def test_a_level_lies_between_0_and_1(level: float) -> None:
    genomes_NG = SPACE.sample_many(20, np.random.default_rng(0))
    with pytest.raises(PredictorError, match="expected a number between 0 and 1"):
        fit_accuracy_predictor(genomes_NG, np.linspace(0.1, 0.9, 20), space=SPACE, task="t", level=level)


def test_a_list_of_accuracies_will_do() -> None:
    genomes_NG, accuracies = SPACE.sample_many(20, np.random.default_rng(0)), np.linspace(0.1, 0.9, 20)
    fitted_N, listed_N = (
        fit_accuracy_predictor(genomes_NG, some, space=SPACE, task="t").predict(genomes_NG).mean
        for some in (accuracies, accuracies.tolist())
    )
    assert (fitted_N == listed_N).all()


def test_scores_stand_beside_the_noise_of_the_images_and_on_the_card(tmp_path: Path) -> None:
    predictor, rng = fitted(80), np.random.default_rng(2)
    unseen_NG = np.unique(SPACE.sample_many(200, rng), axis=0)
    true_N = accuracy(SPACE, unseen_NG, rng=rng)
    scores = predictor.score(unseen_NG, true_N, num_images=2000)
    mean_N = predictor.predict(unseen_NG).mean
    assert scores.rmse_points == pytest.approx(100.0 * np.sqrt(np.mean((mean_N - true_N) ** 2)))
    assert scores.noise_points == pytest.approx(100.0 * np.sqrt(np.mean(true_N * (1.0 - true_N)) / 2000))
    assert scores.kendall == pytest.approx(stats.kendalltau(mean_N, true_N).statistic)
    assert 0.8 < scores.coverage < 1.0
    assert 0.7 * scores.noise_points < scores.rmse_points < 2.0
    predictor.with_scores(scores).save(tmp_path)
    assert load_accuracy_predictor(tmp_path, space=SPACE).scores == scores
    assert np.isnan(predictor.score(unseen_NG, true_N).noise_points)
    with pytest.raises(PredictorError, match="were used for fitting"):
        predictor.score(predictor.fitted_NG, np.linspace(0.1, 0.9, len(predictor.fitted_NG)))
    with pytest.raises(PredictorError, match="accuracies on 0 images"):
        predictor.score(unseen_NG, true_N, num_images=0)


@pytest.mark.parametrize("num_images", [[2000] * 19, [[2000]] * 20])
def test_numbers_of_images_are_one_or_one_for_each(num_images: list[object]) -> None:
    genomes_NG, accuracy_N = SPACE.sample_many(20, np.random.default_rng(0)), np.linspace(0.1, 0.9, 20)
    with pytest.raises(
        PredictorError, match=r"numbers of images of shape .* for accuracies of shape \(20,\)"
    ) as caught:
        fit_accuracy_predictor(genomes_NG, accuracy_N, space=SPACE, task="t", num_images=num_images)  # type: ignore[arg-type]
    assert "one for each" in caught.value.hint


def test_what_was_left_out_is_judged_by_rank_and_error() -> None:
    rng = np.random.default_rng(1)
    genomes_NG = np.unique(SPACE.sample_many(80, rng), axis=0)
    true_N = accuracy(SPACE, genomes_NG, rng=rng)
    predictor = fit_accuracy_predictor(genomes_NG, true_N, space=SPACE, task="t", num_images=2000)
    error_N = (1.0 - true_N) * np.exp(predictor.model.blend.loo_log_errors_N)
    found = predictor.left_out
    assert found is not None
    assert found.kendall == pytest.approx(stats.kendalltau(1.0 - error_N, true_N).statistic)
    assert found.rmse_points == pytest.approx(100.0 * np.sqrt(np.mean((1.0 - error_N - true_N) ** 2)))
    assert found.noise_points == pytest.approx(100.0 * np.sqrt(np.mean(true_N * (1.0 - true_N)) / 2000))
    assert found.num == len(genomes_NG)
