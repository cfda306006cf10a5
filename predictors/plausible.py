"""Whether a table of costs can be what it says: one in another unit is a thousand times off."""

from collections.abc import Callable

import numpy as np

from predictors.errors import PredictorError
from predictors.prediction import FloatArray
from predictors.predictor import CostPredictor
from searchspaces import Architecture

# No prediction is so many times off; units differ by a thousand.
_MOST_IMPLAUSIBLE = 30.0
# Published costs lie within three times what a line through the logarithms of the networks' MACs says.
_MOST_OFF_THE_LINE = 20.0
_REWEIGHTINGS, _RIDGE, _LEAST_ERROR = 30, 1e-3, 1e-2
# More than this share of wrong rows are too many to tell which of them are.
_MOST_NAMED, _MOST_WRONG = 5, 0.25

WRONG_UNIT = "the table seems to be in another unit, or of another device: convert it, or name its unit"


def is_plausible(ratio: float) -> bool:
    """Whether a prediction may be so many times the measurement."""
    return 1.0 / _MOST_IMPLAUSIBLE < ratio < _MOST_IMPLAUSIBLE


def require_plausible(predictor: CostPredictor, *, arch: Architecture, cost: object) -> None:
    """Hold a predictor against one architecture that was measured apart from its table.

    Args:
        predictor: made from the table.
        arch: the reference.
        cost: its measured cost, in the predictor's unit.

    Raises:
        PredictorError: no positive number, or more than thirtyfold or less than a thirtieth of what is predicted.
        SpaceError: an architecture of another space.
    """
    if not (isinstance(cost, int | float | np.number) and 0.0 < float(cost) < float("inf")):
        raise PredictorError(
            f"the reference's cost is {cost!r}, expected a positive number", hint="measure the reference network again"
        )
    predicted = float(predictor.predict([arch]).mean[0])
    if not is_plausible(predicted / float(cost)):
        raise PredictorError(
            f"by this table architecture {arch.arch_id} would take {predicted:.4g} {predictor.unit}, it was measured "
            f"at {cost:.4g} {predictor.unit}",
            hint=WRONG_UNIT,
        )


def require_consistent(macs_N: FloatArray, cost_N: FloatArray, *, name: Callable[[int], str]) -> None:
    """Refuse a table of which some rows are in another unit, or grossly wrong: a model of it would be, too.

    The rows are held against the line with the smallest absolute deviations through the logarithms of costs and MACs
    (found by reweighting), which a quarter of the rows cannot move far.

    Args:
        macs_N: of N networks.
        cost_N: their costs.
        name: of the n-th network, for the message.

    Raises:
        PredictorError: some rows are more than twentyfold off the line; they are named, unless they are so many that
            the line may be that of the wrong ones.
    """
    logs_N = np.log1p(macs_N)
    inputs_NK = np.column_stack([np.ones(len(cost_N)), (logs_N - logs_N.mean()) / max(float(logs_N.std()), 1e-9)])
    target_N = np.log(cost_N) - np.median(np.log(cost_N))
    shrink_KK = _RIDGE**2 * np.eye(len(inputs_NK.T))
    missed_N, weight_N = target_N, np.ones_like(target_N)
    for _ in range(_REWEIGHTINGS):
        weighted_KN = inputs_NK.T * weight_N
        slope_K = np.linalg.solve(weighted_KN @ inputs_NK + shrink_KK, weighted_KN @ target_N)
        missed_N = target_N - inputs_NK @ slope_K
        weight_N = 1.0 / np.maximum(np.abs(missed_N), _LEAST_ERROR)
    wrong = np.flatnonzero(np.abs(missed_N) > np.log(_MOST_OFF_THE_LINE))
    if len(wrong):
        some = ", ".join(f"{name(n)} ({cost_N[n]:.4g})" for n in wrong[:_MOST_NAMED])
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        told = f": {some}{more}" if len(wrong) <= _MOST_WRONG * len(cost_N) else ""
        raise PredictorError(
            f"costs of {len(wrong)} of {len(cost_N)} architectures are more than {_MOST_OFF_THE_LINE:g} times off what "
            f"the others and the MACs of the networks say{told}",
            hint=f"mixed units, or wrong measurements: convert {'these' if told else 'those'} rows, measure them again "
            "or drop them",
        )
