"""The smallest set of models that serves many targets, and what sharing costs: pure functions on a matrix.

A target is a device with a budget, a model one architecture. Letters: P targets, N models, K models of a portfolio.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from nas.errors import RunError
from predictors.prediction import FloatArray

IntArray = npt.NDArray[np.int64]

# Beyond so many pairs of target and model a mixed-integer programme is not tried.
_MOST_CELLS = 20_000
_SECONDS = 10.0
# Losses that differ by less are the same.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Portfolio:
    """Some models that serve all targets together.

    Attributes:
        models: columns of the matrix, in the order of the targets that they serve first.
        serving_P: for each target the column of the model that serves it.
        worst_loss, mean_loss: over the targets, against each target's own best model.
        method: "exact" (no set of this size has a smaller worst loss, nor with that one a smaller mean) or "greedy".
    """

    models: tuple[int, ...]
    serving_P: IntArray
    worst_loss: float
    mean_loss: float
    method: Literal["exact", "greedy"]


def losses(accuracy_N: FloatArray, meets_PN: npt.NDArray[np.bool_]) -> FloatArray:
    """What each target loses with each model, against the best model that meets the target; inf where it does not.

    Args:
        accuracy_N: of the models, the same on every target.
        meets_PN: whether a model meets a target's budget; every target is met by one at least.
    """
    offered_PN = np.where(meets_PN, accuracy_N, -np.inf)
    return np.asarray(offered_PN.max(axis=1, keepdims=True) - offered_PN, dtype=np.float64)


def portfolios(loss_PN: FloatArray, *, max_models: int) -> list[Portfolio]:
    """The best portfolio of each size from 1 on: smallest worst loss, among those the smallest mean loss.

    Sizes with which some target would be met by no model are left out; so are those that improve nothing any more.
    Up to 20,000 pairs of target and model that matter, and ten seconds a programme, the answers are exact: set covers
    find the worst loss (the k-centre problem by bisection), a k-median programme the mean, both solved by HiGHS
    (`scipy.optimize.milp`). Beyond that models are added greedily, the one that improves most first.

    Args:
        loss_PN: as `losses` gives it: at least 0, inf where a model does not meet a target.
        max_models: largest size, at least 1.

    Raises:
        RunError: `max_models` is below 1, there are no targets, or one that no model meets.
    """
    if max_models < 1:
        raise RunError(f"max_models is {max_models}, expected 1 or more", hint="allow at least one model")
    if not loss_PN.size or not np.isfinite(loss_PN).any(axis=1).all():
        raise RunError("there is a target that no model meets", hint="raise its budget")
    kept_N = np.flatnonzero(_undominated(loss_PN))
    small_PN = loss_PN[:, kept_N]
    found: list[Portfolio] = []
    greedy = _greedy(small_PN, max_models=max_models)
    for size in range(1, max_models + 1):
        exact = _exact(small_PN, size=size) if small_PN.size <= _MOST_CELLS else None
        chosen = greedy[min(size, len(greedy)) - 1] if exact is None else exact
        if not len(chosen):
            continue
        one = _portfolio(loss_PN, kept_N[chosen], method="greedy" if exact is None else "exact")
        if not np.isfinite(one.worst_loss):
            continue
        if found and (one.worst_loss, one.mean_loss) >= (found[-1].worst_loss, found[-1].mean_loss - _TOLERANCE):
            break
        found.append(one)
    return found


def _portfolio(loss_PN: FloatArray, models: IntArray, *, method: Literal["exact", "greedy"]) -> Portfolio:
    serving_P = models[np.argmin(loss_PN[:, models], axis=1)]
    lost_P = loss_PN[np.arange(len(loss_PN)), serving_P]
    return Portfolio(
        models=tuple(dict.fromkeys(serving_P.tolist())),
        serving_P=serving_P,
        worst_loss=float(lost_P.max()),
        mean_loss=float(lost_P.mean()),
        method=method,
    )


def _undominated(loss_PN: FloatArray) -> npt.NDArray[np.bool_]:
    """Models that no other one beats on a target without losing on another; of equal ones the first."""
    keep_N: npt.NDArray[np.bool_] = np.asarray(np.isfinite(loss_PN).any(axis=0))
    for n in range(loss_PN.shape[1]):
        no_worse_N = (loss_PN <= loss_PN[:, [n]]).all(axis=0) & keep_N
        no_worse_N[n] = False
        equal_N = (loss_PN == loss_PN[:, [n]]).all(axis=0)
        equal_N[:n] = False
        if (no_worse_N & ~equal_N).any():
            keep_N[n] = False
    return keep_N


def _greedy(loss_PN: FloatArray, *, max_models: int) -> list[IntArray]:
    """The sets after each step: fewest unmet targets, then smallest worst loss, then smallest mean."""
    chosen: list[int] = []
    sets: list[IntArray] = []
    served_P = np.full(len(loss_PN), np.inf)
    for _ in range(min(max_models, loss_PN.shape[1])):
        with_each_PN = np.minimum(served_P[:, None], loss_PN)
        met_PN = np.isfinite(with_each_PN)
        unmet_N = (~met_PN).sum(axis=0)
        finite_PN = np.where(met_PN, with_each_PN, 0.0)
        best = int(np.lexsort((finite_PN.mean(axis=0), finite_PN.max(axis=0), unmet_N))[0])
        chosen.append(best)
        served_P = with_each_PN[:, best]
        sets.append(np.array(chosen, dtype=np.int64))
    return sets


def _exact(loss_PN: FloatArray, *, size: int) -> IntArray | None:
    """The best set of at most `size` models; empty if none meets all targets, None if the solver did not finish."""
    levels = np.unique(loss_PN[np.isfinite(loss_PN)])
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        smallest = _cover(loss_PN <= levels[middle] + _TOLERANCE)
        if smallest is None:
            return None
        low, high = (low, middle) if smallest <= size else (middle + 1, high)
    if low == len(levels):
        return np.array([], dtype=np.int64)
    return _median(loss_PN, allowed_PN=loss_PN <= levels[low] + _TOLERANCE, size=size)


def _cover(covers_PN: npt.NDArray[np.bool_]) -> float | None:
    """Size of the smallest set of models that covers all targets; inf if there is none."""
    if not covers_PN.any(axis=1).all():
        return float("inf")
    num = covers_PN.shape[1]
    solved = milp(
        np.ones(num),
        integrality=np.ones(num),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(covers_PN.astype(np.float64), lb=1.0),
        options={"time_limit": _SECONDS},
    )
    return round(solved.fun) if solved.success else None


def _median(loss_PN: FloatArray, *, allowed_PN: npt.NDArray[np.bool_], size: int) -> IntArray | None:
    """At most `size` models with the smallest mean loss, each target served by a model that it is allowed.

    The k-median programme: a model is open or not; each target is assigned once, to open models. With integer openings
    the assignments are integer by themselves.
    """
    targets, models = np.nonzero(allowed_PN)
    num_models, num_cells = loss_PN.shape[1], len(targets)
    cells = np.arange(num_cells)
    assigned_once = _sparse([(targets, num_models + cells, 1.0)], shape=(len(loss_PN), num_models + num_cells))
    only_open = _sparse(
        [(cells, num_models + cells, 1.0), (cells, models, -1.0)], shape=(num_cells, num_models + num_cells)
    )
    few = np.concatenate([np.ones(num_models), np.zeros(num_cells)])[None]
    solved = milp(
        np.concatenate([np.zeros(num_models), loss_PN[targets, models]]),
        integrality=np.concatenate([np.ones(num_models), np.zeros(num_cells)]),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(assigned_once, lb=1.0, ub=1.0),
            LinearConstraint(only_open, ub=0.0),
            LinearConstraint(few, ub=float(size)),
        ],
        options={"time_limit": _SECONDS},
    )
    return np.flatnonzero(solved.x[:num_models] > 0.5) if solved.success else None


def _sparse(entries: Sequence[tuple[IntArray, IntArray, float]], *, shape: tuple[int, int]) -> object:
    """A sparse matrix of (rows, columns, value) groups."""
    rows = np.concatenate([rows for rows, _, _ in entries])
    columns = np.concatenate([columns for _, columns, _ in entries])
    values = np.concatenate([np.full(len(rows), value) for rows, _, value in entries])
    return coo_array((values, (rows, columns)), shape=shape).tocsc()
