"""Metrics and their intervals: against scikit-learn, by hand, and by drawing samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn

from nas.accuracy import METRIC_LABELS, Accuracy, Metric, accuracy_row, metric_label, predict_classes, score
from nas.data import DataSplits

Labels = NDArray[np.int64]
OTHERS: tuple[Metric, ...] = ("balanced-accuracy", "macro-f1")


def guesses(*, num_classes: int, num: int, right: float, seed: int = 0) -> tuple[Labels, Labels]:
    """Labels of unequally frequent classes, and predictions of which about `right` are correct."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    labels_N = rng.choice(num_classes, size=num, p=shares)
    return labels_N, np.where(rng.random(num) < right, labels_N, rng.integers(0, num_classes, num))


def counted(correct: int, images: int) -> Accuracy:
    labels_N = np.zeros(images, dtype=np.int64)
    return score(labels_N, (np.arange(images) >= correct).astype(np.int64), num_classes=2, metric="top1")


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [
        # (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n) with z = 1.959963984540054, in 30 digits
        (8, 10, 0.4901624715, 0.9433178485),
        (0, 10, 0.0, 0.2775327999),
        (10, 10, 0.7224672001, 1.0),
        (95, 100, 0.8882495308, 0.9784563208),
        (1, 2, 0.0945312057, 0.9054687943),
    ],
)
def test_the_interval_of_top1_is_wilsons(correct: int, images: int, low: float, high: float) -> None:
    found = counted(correct, images)
    assert found.interval == pytest.approx((low, high), abs=1e-9)
    assert (found.value, found.num_correct, found.num_images) == (correct / images, correct, images)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_the_value_and_mirrors(counts: tuple[int, int]) -> None:
    correct, images = counts
    found = counted(correct, images)
    low, high = found.interval
    assert 0.0 <= low <= found.value + 1e-12
    assert found.value - 1e-12 <= high <= 1.0
    assert counted(images - correct, images).interval == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("num_classes", [2, 5, 40])
@pytest.mark.parametrize("right", [0.0, 0.3, 0.95])
def test_values_are_scikit_learns(num_classes: int, right: float) -> None:
    for seed in range(5):
        # with 40 classes and 60 examples some classes never occur, and some are only predicted
        labels_N, predictions_N = guesses(num_classes=num_classes, num=60, right=right, seed=seed)
        expected = {
            "top1": float((labels_N == predictions_N).mean()),
            "balanced-accuracy": balanced_accuracy_score(labels_N, predictions_N),
            "macro-f1": f1_score(labels_N, predictions_N, average="macro", zero_division=0),
        }
        for metric in METRIC_LABELS:
            found = score(labels_N, predictions_N, num_classes=num_classes, metric=metric)  # type: ignore[arg-type]
            assert found.value == pytest.approx(expected[metric], abs=1e-12)
            assert found.metric == metric
            low, high = found.interval
            assert 0.0 <= low <= found.value <= high <= 1.0


def test_a_majority_guess_has_high_accuracy_and_low_balanced_accuracy() -> None:
    labels_N = np.repeat([0, 1], [95, 5])
    majority_N = np.zeros(100, dtype=np.int64)
    values = {metric: score(labels_N, majority_N, num_classes=2, metric=metric).value for metric in ("top1", *OTHERS)}
    assert values == pytest.approx({"top1": 0.95, "balanced-accuracy": 0.5, "macro-f1": 0.95 / 1.95})


@pytest.mark.parametrize("metric", OTHERS)
def test_the_bootstrap_interval_is_fixed_and_shrinks_with_more_examples(metric: Metric) -> None:
    few, many = (guesses(num_classes=4, num=num, right=0.7) for num in (100, 10_000))
    intervals = [score(*pair, num_classes=4, metric=metric).interval for pair in (few, many)]
    assert intervals[0] == score(*few, num_classes=4, metric=metric).interval
    widths = [high - low for low, high in intervals]
    assert 7 < widths[0] / widths[1] < 14  # the root of a hundred is ten


@pytest.mark.parametrize("metric", OTHERS)
def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says(metric: Metric) -> None:
    labels_N = np.repeat(np.arange(4), [30, 60, 90, 120])
    chances = np.array([0.5, 0.6, 0.8, 0.9])
    rng = np.random.default_rng(0)

    def predict(labels_N: Labels) -> Labels:
        wrong_N = (labels_N + rng.integers(1, 4, len(labels_N))) % 4
        return np.where(rng.random(len(labels_N)) < chances[labels_N], labels_N, wrong_N)

    large_N = np.repeat(labels_N, 2000)
    truth = score(large_N, predict(large_N), num_classes=4, metric=metric).value
    found = [score(labels_N, predict(labels_N), num_classes=4, metric=metric).interval for _ in range(200)]
    assert 0.90 <= np.mean([low <= truth <= high for low, high in found]) <= 0.99


@pytest.mark.parametrize("metric", OTHERS)
def test_an_interval_does_not_vanish_where_everything_is_right_or_wrong(metric: Metric) -> None:
    labels_N = np.arange(20) % 2
    for predictions_N in (labels_N, 1 - labels_N):
        found = score(labels_N, predictions_N, num_classes=2, metric=metric)
        assert found.interval == counted(int(found.value * 20), 20).interval
        assert found.interval[1] - found.interval[0] > 0.1


def test_tensors_are_scored_like_arrays() -> None:
    labels_N, predictions_N = guesses(num_classes=3, num=50, right=0.5)
    tensors = torch.from_numpy(labels_N), torch.from_numpy(predictions_N)
    for metric in OTHERS:
        assert score(*tensors, num_classes=3, metric=metric) == score(
            labels_N, predictions_N, num_classes=3, metric=metric
        )


def test_a_row_has_everything_and_gives_the_accuracy_back() -> None:
    found = score(*guesses(num_classes=3, num=50, right=0.5), num_classes=3, metric="macro-f1")
    row = accuracy_row(found)
    assert row["metric"] == "macro-f1"
    assert row["accuracy"] == found.value
    assert (row["accuracy_low"], row["accuracy_high"]) == found.interval
    assert Accuracy.from_row(row) == found


@pytest.mark.parametrize("change", [{"metric": "top5"}, {"accuracy": "high"}, {"num_images": None}])
def test_a_row_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"top5|high|None"):
        Accuracy.from_row({**accuracy_row(counted(8, 10)), **change})


def test_every_metric_has_a_name_for_people() -> None:
    assert [metric_label(metric) for metric in ("top1", *OTHERS)] == ["top-1 accuracy", "balanced accuracy", "macro F1"]
    assert metric_label(None) == "accuracy"


def test_classes_are_predicted_in_batches_of_any_size(data: DataSplits) -> None:
    def as_labelled(x_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits that follow from the pixels alone."""
        return nn.functional.one_hot(x_NCHW.sum(dim=(1, 2, 3)).long() % 10, 10)

    whole_N = predict_classes(as_labelled, data.search, batch=1000)
    assert len(set(whole_N.tolist())) > 5
    for batch in (1, 7, 400):
        assert np.array_equal(predict_classes(as_labelled, data.search, batch=batch), whole_N)
