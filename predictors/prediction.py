"""What a predictor answers: a value, an interval and whether the question was within what it has seen."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.9
"""Of the intervals of cost predictors, unless another one is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Predictions for N architectures; provenance "predicted". All values are finite.

    Attributes:
        mean: (N,) predicted value in the unit of the predictor, positive.
        lower, upper: (N,) limits of the interval, `lower <= mean <= upper`.
        level: share of future measurements that the interval is meant to hold, between 0 and 1.
        in_range: (N,) False where the predictor extrapolates; the interval is wider there, and not guaranteed.
    """

    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
    level: float
    in_range: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.mean, self.lower, self.upper, self.in_range)}
        ordered = bool(np.all((self.lower <= self.mean) & (self.mean <= self.upper)))
        if shapes != {(len(self.mean),)} or not ordered or not np.isfinite([self.lower, self.upper]).all():
            raise PredictorError(
                f"not a prediction: shapes {sorted(shapes)}, lower <= mean <= upper and finite: {ordered}",
                hint="give arrays of one length with finite lower <= mean <= upper",
            )

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def relative_width(self) -> FloatArray:
        """(N,) full width of the interval divided by the mean."""
        return (self.upper - self.lower) / self.mean

    def coverage(self, measured_N: FloatArray) -> float:
        """Share (0 ... 1) of N measurements, in the same order and unit, that the intervals hold."""
        return float(((self.lower <= measured_N) & (measured_N <= self.upper)).mean())
