"""How likely a candidate belongs to the front, given how certain its accuracy and its latency are.

Letters: S draws, N candidates.
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pandas as pd

from nas.accuracy import LEVEL
from nas.tables import PREDICTED
from predictors.prediction import LEVEL as PREDICTED_LEVEL

FloatArray = npt.NDArray[np.float64]

_DRAWS = 4000
# Numbers drawn at a time: 8 MB.
_LARGEST_DRAW = 1_000_000
# Of an interval of a logarithm: none is taken for narrower when measurements are weighted.
_LEAST_WIDTH = 1e-6


def membership(rows: pd.DataFrame) -> FloatArray:
    """Probability of each row to be on the front of all rows, by Monte Carlo; the same rows give the same numbers.

    Every draw gives each candidate an accuracy and a latency, and asks who is on the front then. Top-1 accuracies are
    drawn from the Beta distribution that the number of correct answers and Jeffreys' prior give (Brown, Cai and
    DasGupta, "Interval estimation for a binomial proportion", 2001, doi 10.1214/ss/1009213286), other metrics from a
    normal one as wide as their interval; logarithms of latencies likewise, from the intervals of the medians, or those
    of the predictions. Candidates of one architecture have one latency: what was measured of it is pooled. Accuracies
    are drawn apart from each other, although the same images judge them all: a difference between two of them is more
    certain than that, so probabilities are rather too even than too sure. With 4,000 draws the standard error is at
    most .008.

    Args:
        rows: one a candidate: arch_id; accuracy, its interval, metric, num_correct, num_images; latency_ms, its
            interval, provenance.

    Returns:
        Probabilities (N,); NaN where accuracy or latency is.
    """
    known = np.isfinite(_column(rows, "accuracy")) & np.isfinite(_column(rows, "latency_ms"))
    probability_N = np.full(len(rows), np.nan)
    if not known.any():
        return probability_N
    rows = rows[known]
    rng = np.random.default_rng(0)
    draw_accuracy, draw_latency = _accuracies(rows), _latencies(rows)
    counts_N = np.zeros(len(rows))
    step = max(1, _LARGEST_DRAW // len(rows))
    for first in range(0, _DRAWS, step):
        num = min(step, _DRAWS - first)
        counts_N += on_front(draw_accuracy(rng, num), draw_latency(rng, num)).sum(axis=0)
    probability_N[known] = counts_N / _DRAWS
    return probability_N


def on_front(accuracy_SN: FloatArray, latency_SN: FloatArray) -> npt.NDArray[np.bool_]:
    """Which candidates (S, N) are on the front of their draw; of equal ones the first."""
    by_accuracy_SN = np.argsort(-accuracy_SN, axis=1, kind="stable")
    by_latency_SN = np.argsort(np.take_along_axis(latency_SN, by_accuracy_SN, axis=1), axis=1, kind="stable")
    order_SN = np.take_along_axis(by_accuracy_SN, by_latency_SN, axis=1)
    sorted_SN = np.take_along_axis(accuracy_SN, order_SN, axis=1)
    # The fastest first: on the front is who is more accurate than all before.
    best_before_SN = np.full_like(sorted_SN, -np.inf)
    best_before_SN[:, 1:] = np.maximum.accumulate(sorted_SN, axis=1)[:, :-1]
    found_SN = np.zeros(sorted_SN.shape, dtype=np.bool_)
    np.put_along_axis(found_SN, order_SN, sorted_SN > best_before_SN, axis=1)
    return found_SN


_Draw = Callable[[np.random.Generator, int], FloatArray]


def _accuracies(rows: pd.DataFrame) -> _Draw:
    if (rows["metric"] == "top1").all():
        correct_N, images_N = _column(rows, "num_correct"), _column(rows, "num_images")
        return lambda rng, num: rng.beta(correct_N + 0.5, images_N - correct_N + 0.5, size=(num, len(rows)))
    value_N, low_N, high_N = (_column(rows, name) for name in ("accuracy", "accuracy_low", "accuracy_high"))
    drawn = _normal(value_N, low_N, high_N, level_N=np.full(len(rows), LEVEL), error_N=np.arange(len(rows)))
    return lambda rng, num: np.clip(drawn(rng, num), 0.0, 1.0)


def _latencies(rows: pd.DataFrame) -> _Draw:
    value_N, low_N, high_N = (
        np.log(_column(rows, name)) for name in ("latency_ms", "latency_low_ms", "latency_high_ms")
    )
    predicted_N = (rows["provenance"] == PREDICTED).to_numpy()
    # Whatever its weights are, an architecture has one latency: an error is one for all of them.
    together_N = pd.factorize(rows["arch_id"])[0]
    for group in range(together_N.max() + 1):
        same = np.flatnonzero((together_N == group) & ~predicted_N)
        if len(same) > 1:
            value_N[same], low_N[same], high_N[same] = _pooled(value_N[same], low_N[same], high_N[same])
    drawn = _normal(
        value_N,
        low_N,
        high_N,
        level_N=np.where(predicted_N, PREDICTED_LEVEL, LEVEL),
        error_N=np.where(predicted_N, together_N, len(rows) + together_N),
    )
    return lambda rng, num: np.exp(drawn(rng, num))


def _pooled(value_N: FloatArray, low_N: FloatArray, high_N: FloatArray) -> tuple[float, float, float]:
    """Mean of independent measurements of one thing, weighted by their inverse variances, and its interval."""
    weight_N = 1.0 / np.maximum(np.nan_to_num(high_N - low_N), _LEAST_WIDTH) ** 2
    weight_N /= weight_N.sum()
    value = float(weight_N @ value_N)
    below = float(np.linalg.norm(weight_N * np.nan_to_num(value_N - low_N)))
    above = float(np.linalg.norm(weight_N * np.nan_to_num(high_N - value_N)))
    return value, value - below, value + above


def _normal(
    value_N: FloatArray,
    low_N: FloatArray,
    high_N: FloatArray,
    *,
    level_N: FloatArray,
    error_N: npt.NDArray[np.int64],
) -> _Draw:
    """Around `value_N`, with half a normal distribution on each side that is as wide as the interval there.

    Those with the same number in `error_N` are off in the same direction.
    """
    z_N = np.array([NormalDist().inv_cdf(0.5 + level / 2) for level in level_N])
    num_errors, which_N = len(np.unique(error_N)), np.unique(error_N, return_inverse=True)[1]
    below_N, above_N = np.nan_to_num((value_N - low_N) / z_N), np.nan_to_num((high_N - value_N) / z_N)

    def draw(rng: np.random.Generator, num: int) -> FloatArray:
        standard_SN = rng.standard_normal((num, num_errors))[:, which_N]
        return np.asarray(value_N + standard_SN * np.where(standard_SN < 0, below_N, above_N), dtype=np.float64)

    return draw


def _column(rows: pd.DataFrame, name: str) -> FloatArray:
    return rows[name].to_numpy(dtype=np.float64)
