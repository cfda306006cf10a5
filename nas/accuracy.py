"""How good a candidate is on a split: the recipe's metric with its interval. The one place that computes it.

Every table, front, card and JSON calls the value `accuracy`, whatever the metric is; `metric` says which.
No torch here: recipes are checked without it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from nas.data import Examples

Metric: TypeAlias = Literal["top1", "balanced-accuracy", "macro-f1"]

METRIC_LABELS: Mapping[str, str] = {
    "top1": "top-1 accuracy",
    "balanced-accuracy": "balanced accuracy",
    "macro-f1": "macro F1",
}
"""What people call the metrics."""

LEVEL = 0.95
_RESAMPLES = 1000
_LARGEST_DRAW = 4_000_000  # cells drawn at a time: 32 MB
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The metric's value of one candidate on one split.

    Attributes:
        metric: which one.
        value: a fraction, 0 ... 1.
        interval: its 95 % confidence interval over other examples of the same classes.
        num_correct: correctly classified examples.
        num_images: examples of the split.
    """

    metric: Metric
    value: float
    interval: tuple[float, float]
    num_correct: int
    num_images: int

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Accuracy":
        """What `accuracy_row` made.

        Raises:
            KeyError, ValueError: a column is missing or makes no sense.
        """
        if row["metric"] not in get_args(Metric):
            raise ValueError(f"unknown metric {row['metric']!r}")
        return cls(
            metric=cast(Metric, row["metric"]),
            value=float(str(row["accuracy"])),
            interval=(float(str(row["accuracy_low"])), float(str(row["accuracy_high"]))),
            num_correct=int(str(row["num_correct"])),
            num_images=int(str(row["num_images"])),
        )


def accuracy_row(accuracy: Accuracy) -> dict[str, str | float | int]:
    """The columns that every table has about an accuracy."""
    low, high = accuracy.interval
    return {
        "metric": accuracy.metric,
        "accuracy": accuracy.value,
        "accuracy_low": low,
        "accuracy_high": high,
        "num_correct": accuracy.num_correct,
        "num_images": accuracy.num_images,
    }


def score(
    labels_N: "NDArray[np.int64] | torch.Tensor",
    predictions_N: "NDArray[np.int64] | torch.Tensor",
    *,
    num_classes: int,
    metric: Metric,
) -> Accuracy:
    """Compare predicted with true classes; the same labels and predictions give the same interval, bit by bit.

    - top1: share of correct predictions, with Wilson's interval.
    - balanced-accuracy: mean of the classes' recalls, over the classes that occur.
    - macro-f1: mean of the classes' F1, over the classes that occur among labels or predictions.

    The intervals of the last two are percentiles of a bootstrap that draws within each class: the sizes of the classes
    are fixed by the division of the data, so they do not vary from sample to sample (Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 3.2; doi 10.1017/CBO9780511802843). Where all or no predictions are
    correct nothing varies in a bootstrap, the three metrics agree, and Wilson's interval is given.

    Args:
        labels_N: true classes, at least one.
        predictions_N: predicted classes.
        num_classes: both are in 0 ... num_classes - 1.
        metric: which metric.
    """
    confusion = _Confusion.count(np.asarray(labels_N), np.asarray(predictions_N), num_classes=num_classes)
    num_images, num_correct = int(confusion.counts_K.sum()), int(confusion.counts_K[confusion.correct_K].sum())
    if metric == "top1":
        value = num_correct / num_images
    else:
        value = float(confusion.values(confusion.counts_K[None], metric=metric)[0])
    if metric == "top1" or num_correct in (0, num_images):
        interval = _wilson(num_correct, num_images)
    else:
        resampled = confusion.resampled_values(metric=metric)
        low, high = np.quantile(resampled, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
        # macro F1 is biased in small samples: the interval still holds what was found
        interval = min(float(low), value), max(float(high), value)
    return Accuracy(metric=metric, value=value, interval=interval, num_correct=num_correct, num_images=num_images)


def top1(correct_n: NDArray[np.bool_]) -> Accuracy:
    """The metric `top1` of predictions that are right or wrong, at least one."""
    num_images, num_correct = len(correct_n), int(correct_n.sum())
    return Accuracy(
        metric="top1",
        value=num_correct / num_images,
        interval=_wilson(num_correct, num_images),
        num_correct=num_correct,
        num_images=num_images,
    )


def predict_classes(
    predict: "Callable[[torch.Tensor], torch.Tensor]", images: "Examples", *, batch: int = _BATCH
) -> NDArray[np.int64]:
    """Predicted classes (N) of a split.

    Args:
        predict: raw inputs (N, C, ...) to logits (N, num_classes).
        images: a split.
        batch: examples a call.
    """
    return np.concatenate([predict(x).argmax(dim=1).numpy() for x in images.inputs.split(batch)])


def metric_label(metric: object) -> str:
    """What people call a metric; "accuracy" for none."""
    return METRIC_LABELS.get(str(metric), "accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Confusion:
    """The cells of a confusion matrix that are not empty, ordered by true class.

    Letters: K cells, L classes that occur, R resamples.
    """

    true_K: NDArray[np.int64]
    predicted_K: NDArray[np.int64]
    counts_K: NDArray[np.int64]
    num_classes: int

    @classmethod
    def count(cls, labels_N: NDArray[np.int64], predictions_N: NDArray[np.int64], *, num_classes: int) -> "_Confusion":
        cells_K, counts_K = np.unique(labels_N * num_classes + predictions_N, return_counts=True)
        return cls(
            true_K=cells_K // num_classes,
            predicted_K=cells_K % num_classes,
            counts_K=counts_K.astype(np.int64),
            num_classes=num_classes,
        )

    @property
    def correct_K(self) -> NDArray[np.bool_]:
        return np.equal(self.true_K, self.predicted_K)

    def values(self, counts_RK: NDArray[np.int64], *, metric: Metric) -> NDArray[np.float64]:
        """The metric of each row of counts."""
        correct_RL = self._by_class(counts_RK[:, self.correct_K], classes=self.true_K[self.correct_K])
        true_RL = self._by_class(counts_RK, classes=self.true_K)
        if metric == "balanced-accuracy":
            occurs_L = np.isin(np.arange(self.num_classes), self.true_K)
            return np.asarray((correct_RL[:, occurs_L] / true_RL[:, occurs_L]).mean(axis=1))
        occurs_L = np.isin(np.arange(self.num_classes), np.concatenate([self.true_K, self.predicted_K]))
        both_RL = (true_RL + self._by_class(counts_RK, classes=self.predicted_K))[:, occurs_L]
        # a class without examples that a resample does not predict either: nothing was right about it
        return np.asarray((2 * correct_RL[:, occurs_L] / np.maximum(both_RL, 1)).mean(axis=1))

    def resampled_values(self, *, metric: Metric) -> NDArray[np.float64]:
        """The metric of samples as large as this one, drawn with replacement within each true class."""
        rng = np.random.default_rng(0)
        starts = np.flatnonzero(np.diff(self.true_K, prepend=-1))
        rows = np.split(self.counts_K, starts[1:])
        step = max(1, _LARGEST_DRAW // len(self.counts_K))
        found = []
        for first in range(0, _RESAMPLES, step):
            num = min(step, _RESAMPLES - first)
            drawn_RK = np.concatenate(
                [rng.multinomial(row_K.sum(), row_K / row_K.sum(), size=num) for row_K in rows], axis=1
            )
            found.append(self.values(drawn_RK, metric=metric))
        return np.concatenate(found)

    def _by_class(self, counts_RK: NDArray[np.int64], *, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums over the cells of each class."""
        sums_LR = np.zeros((self.num_classes, len(counts_RK)), dtype=np.int64)
        np.add.at(sums_LR, classes, counts_RK.T)
        return sums_LR.T


def _wilson(num_correct: int, num_images: int) -> tuple[float, float]:
    """Wilson score interval (Wilson, JASA 1927, doi 10.1080/01621459.1927.10502953)."""
    n, p = num_images, num_correct / num_images
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)))
    return max(0.0, centre - half), min(1.0, centre + half)
