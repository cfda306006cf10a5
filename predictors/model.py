"""From features to a cost with an interval: what every predictor of a space rests on, and usable without one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError
from predictors.features import Blocks
from predictors.intervals import FittedRange, conformal_quantile
from predictors.prediction import FloatArray, Prediction
from predictors.regressors import find_regressors
from predictors.selection import Blend, blend

# An interval from a thousandth to a thousandfold says "unknown"; wider ones would only overflow.
_WIDEST_FACTOR = 1000.0

# No clock tells a network's time more exactly than that, however well a formula fits.
_LEAST_WIDTH = 1e-3

# What families tune on all rows, roughly: the shares of six blocks, the noise, and how much each family counts.
_NUM_TUNED = 8

# Hundreds of feature columns a row: pieces of some thousand stay in the caches.
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostModel:
    """Fitted families and how wide their intervals must be.

    Attributes:
        blend: the families.
        quantile: half width of an interval in log(cost), in units of the blend's spread.
        level: of the intervals.
        fitted_range: what the fitted rows covered.
        loo_mape_percent: mean relative error on rows left out; an estimate for rows that resemble the fitted ones.
    """

    blend: Blend
    quantile: float
    level: float
    fitted_range: FittedRange
    loo_mape_percent: float

    def predict(self, num: int, encode: Callable[[slice], Blocks]) -> Prediction:
        """Predict rows, some thousands at a time.

        Args:
            num: how many.
            encode: gives the features of some of them.
        """
        starts = range(0, max(num, 1), _ROWS_AT_ONCE)
        parts = [self._predict(encode(slice(start, min(start + _ROWS_AT_ONCE, num)))) for start in starts]
        mean_N, width_N, excess_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        # Intervals are multiplicative: errors of a cost grow with it, and the lower limit stays positive.
        factor_N = np.exp(np.minimum(width_N, np.log(_WIDEST_FACTOR)))
        return Prediction(
            mean=mean_N, lower=mean_N / factor_N, upper=mean_N * factor_N, level=self.level, in_range=excess_N == 0.0
        )

    def _predict(self, blocks: Blocks) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, half width of the interval of log(cost), and how far outside the fitted range."""
        mean_N, spread_N = self.blend.predict(blocks)
        excess_N = self.fitted_range.excess(blocks)
        return mean_N, np.maximum(self.quantile * spread_N, _LEAST_WIDTH) * (1.0 + excess_N), excess_N


def fit_cost_model(
    blocks: Blocks,
    cost_N: FloatArray,
    *,
    population: Blocks,
    level: float = 0.9,
    ordered: npt.NDArray[np.intp] | None = None,
) -> CostModel:
    """Fit every registered family and average them by how well they predict left-out rows.

    Args:
        blocks: features of N rows.
        cost_N: positive.
        population: features of rows that stand for all that may be asked.
        level: of the intervals, between 0 and 1.
        ordered: see `FittedRange.of`.

    Raises:
        PredictorError: a level that is none, or as `blend`.
    """
    if not 0.0 < level < 1.0:
        raise PredictorError(f"level is {level}, expected a number between 0 and 1", hint="0.9 is usual")
    fitted = blend(find_regressors(), blocks, cost_N, population=population)
    return CostModel(
        blend=fitted,
        quantile=conformal_quantile(fitted.loo_log_errors_N, fitted.loo_spread_N, level=level, num_tuned=_NUM_TUNED),
        level=level,
        fitted_range=FittedRange.of(blocks, ordered=ordered),
        loo_mape_percent=float(100.0 * np.abs(np.expm1(fitted.loo_log_errors_N)).mean()),
    )
