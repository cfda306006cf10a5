"""Whether a table of costs can be what it says: one in another unit is a thousand times off."""

import numpy as np

from predictors.errors import PredictorError
from predictors.predictor import CostPredictor
from searchspaces import Architecture

# No prediction is so many times off; units differ by a thousand.
_MOST_IMPLAUSIBLE = 30.0

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
