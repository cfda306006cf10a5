"""Intervals that hold what they promise: conformal, scaled by the regressor's spread, wider outside the fitted range.

Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-free predictive inference for regression", JASA 2018,
section 2.4 (jackknife) and 5.2 (locally weighted), doi:10.1080/01621459.2017.1307116.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from predictors.features import Blocks
from predictors.prediction import FloatArray

# Totals may leave the fitted span by this share of it before a prediction counts as extrapolation.
_MARGIN = 0.05

# A choice value that no fitted architecture had widens the interval as much as leaving the span by half of it; several
# add up as independent errors do.
_UNSEEN_VALUE = 0.5


def conformal_quantile(errors_N: FloatArray, spread_N: FloatArray, *, level: float, num_tuned: int = 0) -> float:
    """Factor q such that log(cost) lies within q * spread of its prediction with probability `level`.

    Numbers that were tuned on all rows have seen the held-out ones, so that errors of new rows are larger: their
    variance by 1 + num_tuned / N (Akaike, "Fitting autoregressive models for prediction", 1969, for fitted parameters).

    Args:
        errors_N: held-out errors of log(cost).
        spread_N: their predicted spreads.
        level: between 0 and 1.
        num_tuned: how many numbers were chosen on all N rows.
    """
    sizes_N = np.sort(np.abs(errors_N) / spread_N) * np.sqrt(1.0 + num_tuned / len(errors_N))
    rank = int(np.ceil((len(sizes_N) + 1) * level))
    if rank <= len(sizes_N):
        return float(sizes_N[rank - 1])
    # More confidence than so few errors can give without an assumption: assume that they are normal.
    normal = float(scipy.special.stdtrit(len(sizes_N) - 1, (1.0 + level) / 2.0) * np.sqrt(np.mean(sizes_N**2)))
    return max(float(sizes_N[-1]), normal)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedRange:
    """What the fitted architectures covered.

    Attributes:
        low_T, high_T: smallest and largest logarithm of each of the totals.
        seen_F: 1.0 for every one-hot column that some fitted architecture had.
    """

    low_T: FloatArray
    high_T: FloatArray
    seen_F: FloatArray

    @classmethod
    def of(cls, blocks: Blocks, *, ordered: npt.NDArray[np.intp] | None = None) -> "FittedRange":
        """The range of these rows.

        Args:
            blocks: their features.
            ordered: columns of "choices" that are one ascending scale (the resolutions): what lies between two fitted
                ones counts as fitted.
        """
        totals_NT = np.log1p(blocks["totals"])
        seen_F = np.asarray((blocks["choices"] > 0).any(axis=0), dtype=np.float64)
        if ordered is not None and seen_F[ordered].any():
            fitted = ordered[seen_F[ordered] > 0]
            seen_F[fitted[0] : fitted[-1] + 1] = 1.0
        return cls(low_T=totals_NT.min(axis=0), high_T=totals_NT.max(axis=0), seen_F=seen_F)

    def excess(self, blocks: Blocks) -> FloatArray:
        """(N,) how far outside: 0 inside, 1 for one whole span beyond the fitted one."""
        totals_NT = np.log1p(blocks["totals"])
        # The span is at least 1 %, so that a constant total (say, one resolution) is a range too.
        span_T = np.maximum(self.high_T - self.low_T, 0.01)
        beyond_NT = np.maximum(self.low_T - totals_NT, totals_NT - self.high_T) / span_T - _MARGIN
        num_unseen_N = ((blocks["choices"] > 0) & (self.seen_F == 0)).sum(axis=1)
        excess_N: FloatArray = np.maximum(beyond_NT.max(axis=1), 0.0) + _UNSEEN_VALUE * np.sqrt(num_unseen_N)
        return excess_N

    def arrays(self) -> Mapping[str, FloatArray]:
        """The arrays to store."""
        return {"low_T": self.low_T, "high_T": self.high_T, "seen_F": self.seen_F}
