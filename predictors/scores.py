"""How good predictions are, in the figures that decide whether a search may trust them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Predictions against measurements.

    Attributes:
        mape_percent: mean absolute error relative to the measurement, in percent.
        spearman: rank correlation, -1 ... 1; NaN when one side is constant.
        kendall: Kendall's tau-b, -1 ... 1; NaN when one side is constant.
        within_5_percent, within_10_percent: share (0 ... 1) of predictions at most that far from the measurement.
        num: number of compared architectures.
        coverage: share (0 ... 1) of measurements inside the predictions' intervals; NaN where nobody looked.
    """

    mape_percent: float
    spearman: float
    kendall: float
    within_5_percent: float
    within_10_percent: float
    num: int
    coverage: float = float("nan")


def score(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Scores:
    """Compare predictions with measurements of the same architectures, in the same order and unit.

    Args:
        predicted: (N,) finite.
        measured: (N,) finite and positive.

    Raises:
        PredictorError: fewer than two values, different lengths, or values that are not finite and positive.
    """
    predicted_N = np.asarray(predicted, dtype=np.float64)
    measured_N = np.asarray(measured, dtype=np.float64)
    if predicted_N.ndim != 1 or predicted_N.shape != measured_N.shape or len(measured_N) < 2:
        raise PredictorError(
            f"cannot compare predictions of shape {predicted_N.shape} with measurements of shape {measured_N.shape}",
            hint="give two lists of the same length, at least 2",
        )
    if not (np.isfinite(predicted_N).all() and np.isfinite(measured_N).all() and (measured_N > 0).all()):
        raise PredictorError(
            "predictions must be finite and measurements finite and positive, "
            f"got predictions {predicted_N.min()} ... {predicted_N.max()}, "
            f"measurements {measured_N.min()} ... {measured_N.max()}",
            hint="drop the rows whose measurement failed",
        )
    # Half a second, which whoever only predicts need not wait.
    from scipy import stats

    errors_N = np.abs(predicted_N / measured_N - 1.0)
    constant = np.ptp(predicted_N) == 0 or np.ptp(measured_N) == 0
    return Scores(
        mape_percent=float(100.0 * errors_N.mean()),
        spearman=float("nan") if constant else float(stats.spearmanr(predicted_N, measured_N).statistic),
        kendall=float("nan") if constant else float(stats.kendalltau(predicted_N, measured_N).statistic),
        within_5_percent=float((errors_N <= 0.05).mean()),
        within_10_percent=float((errors_N <= 0.10).mean()),
        num=len(errors_N),
    )
