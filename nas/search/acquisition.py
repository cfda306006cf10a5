"""Expected hypervolume improvement: how much a candidate, of which only a prediction is known, would add to a front.

Exact for independent normal objectives, any number of them: the region that the front leaves open is cut into boxes,
and the expected volume that a point takes of a box is a product over the objectives (Emmerich, Deutz, Klinkenberg,
"Hypervolume-based expected improvement", CEC 2011; the integral over one axis is the expected improvement of that
axis). All objectives are minimised.

Letters: N candidates, P points of a front, M objectives, K boxes.
"""

import itertools

import numpy as np
from scipy.special import ndtr

from predictors.prediction import FloatArray

# A computed objective is certain; dividing by its spread must not fail.
_LEAST_SPREAD = 1e-9
_CANDIDATES_AT_ONCE = 512


def expected_improvement(
    mean_NM: FloatArray,
    spread_NM: FloatArray,
    front_PM: FloatArray,
    ref_M: FloatArray,
) -> FloatArray:
    """Expected growth of the hypervolume of `front_PM` by each candidate, (N,).

    Args:
        mean_NM: predicted values.
        spread_NM: their standard deviations, at least 0.
        front_PM: points that no other dominates; P may be 0.
        ref_M: reference point; what is worse than it in any objective adds nothing.
    """
    lower_KM, upper_KM = open_boxes(front_PM, ref_M)
    gains = [np.empty(0)]
    for start in range(0, len(mean_NM), _CANDIDATES_AT_ONCE):
        rows = slice(start, start + _CANDIDATES_AT_ONCE)
        volume_NK = np.ones((len(mean_NM[rows]), len(upper_KM)))
        for m in range(len(ref_M)):
            mean_N1, spread_N1 = mean_NM[rows, m, None], np.maximum(spread_NM[rows, m, None], _LEAST_SPREAD)
            # Boxes share their walls: every wall is looked at once.
            walls_W, place_2K = np.unique(np.stack([lower_KM[:, m], upper_KM[:, m]]), return_inverse=True)
            below_NW = _below(walls_W, mean_N1, spread_N1)
            place_2K = place_2K.reshape(2, -1)
            volume_NK *= below_NW[:, place_2K[1]] - below_NW[:, place_2K[0]]
        gains.append(volume_NK.sum(axis=1))
    return np.concatenate(gains)


def open_boxes(front_PM: FloatArray, ref_M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Disjoint boxes, lower and upper corners (K, M), that fill what is below `ref_M` and dominated by no point.

    They reach to minus infinity: their volume is infinite, what a point takes of them is not.
    """
    front_PM = np.unique(front_PM[(front_PM < ref_M).all(axis=1)], axis=0)
    if len(ref_M) == 1:
        best = front_PM.min(initial=float(ref_M[0]))
        return np.array([[-np.inf]]), np.array([[best]])
    # Slabs between the values of the last objective; in each, points below it are in the way, by their other values.
    levels_L = np.concatenate([[-np.inf], np.unique(front_PM[:, -1]), ref_M[-1:]])
    lower, upper = [], []
    for low, high in itertools.pairwise(levels_L.tolist()):
        lower_KM, upper_KM = open_boxes(front_PM[front_PM[:, -1] <= low, :-1], ref_M[:-1])
        num = len(lower_KM)
        lower.append(np.column_stack([lower_KM, np.full(num, low)]))
        upper.append(np.column_stack([upper_KM, np.full(num, high)]))
    return np.concatenate(lower), np.concatenate(upper)


def _below(walls_W: FloatArray, mean_N1: FloatArray, spread_N1: FloatArray) -> FloatArray:
    """E[max(wall - value, 0)] of normal values, (N, W); 0 for a wall at minus infinity."""
    finite_W = np.where(np.isfinite(walls_W), walls_W, 0.0)
    z_NW = (finite_W - mean_N1) / spread_N1
    below_NW = spread_N1 * (z_NW * ndtr(z_NW) + np.exp(-0.5 * np.square(z_NW)) / np.sqrt(2.0 * np.pi))
    return np.where(np.isfinite(walls_W), below_NW, 0.0)
