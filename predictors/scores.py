"""How good predictions are, in the figures that decide whether a search may trust them."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError
from predictors.prediction import FloatArray


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyScores(Scores):
    """Predicted accuracies against evaluated ones; what is relative in `Scores` is relative to the error rate.

    Attributes:
        rmse_points: root of the mean squared error, in percentage points.
        noise_points: see `binomial_noise_points`.
    """

    rmse_points: float
    noise_points: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutAccuracies:
    """How well evaluated architectures were predicted, each without its own evaluation.

    Attributes:
        kendall: Kendall's tau-b, -1 ... 1; NaN when one side is constant.
        rmse_points: root of the mean squared error, in percentage points.
        noise_points: see `binomial_noise_points`.
        num: number of architectures.
    """

    kendall: float
    rmse_points: float
    noise_points: float
    num: int

    @classmethod
    def of(
        cls, predicted_N: FloatArray, accuracy_N: FloatArray, *, num_images: npt.ArrayLike | None
    ) -> "LeftOutAccuracies":
        """Compare; see `binomial_noise_points` for `num_images`."""
        # No scipy.stats here: it takes long to import, and there are hundreds of architectures at most.
        order_NN, true_NN = (np.sign(values_N[:, None] - values_N) for values_N in (predicted_N, accuracy_N))
        pairs = float(np.sqrt(np.square(order_NN).sum() * np.square(true_NN).sum()))
        return cls(
            kendall=float((order_NN * true_NN).sum()) / pairs if pairs else float("nan"),
            rmse_points=_rmse_points(predicted_N, accuracy_N),
            noise_points=binomial_noise_points(accuracy_N, num_images),
            num=len(accuracy_N),
        )


def binomial_noise_points(accuracy_N: FloatArray, num_images: npt.ArrayLike | None) -> float:
    """The part of an RMSE in percentage points that no predictor can avoid, because only so many images decide.

    Args:
        accuracy_N: shares of correctly classified images.
        num_images: how many they were, one number or (N,); None if that is not known.

    Returns:
        Root mean square of the binomial standard deviations; NaN if the number of images is not known.

    Raises:
        PredictorError: a number below 1, or numbers of another shape than the accuracies.
    """
    images = np.asarray(np.nan if num_images is None else num_images, dtype=np.float64)
    if images.shape not in ((), accuracy_N.shape):
        raise PredictorError(
            f"numbers of images of shape {images.shape} for accuracies of shape {accuracy_N.shape}",
            hint="give one number, or one for each accuracy",
        )
    if (images < 1).any():
        raise PredictorError(f"accuracies on {images.min():.0f} images", hint="leave num_images out if it is not known")
    return float(100.0 * np.sqrt(np.mean(accuracy_N * (1.0 - accuracy_N) / images)))


def _rmse_points(predicted_N: FloatArray, accuracy_N: FloatArray) -> float:
    return float(100.0 * np.sqrt(np.mean((predicted_N - accuracy_N) ** 2)))


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


def score_accuracies(
    predicted_N: FloatArray, accuracy_N: FloatArray, *, least_error: float, num_images: npt.ArrayLike | None = None
) -> AccuracyScores:
    """Compare predicted with evaluated accuracies, 0 to 1, of the same architectures in the same order.

    Args:
        predicted_N: what was predicted.
        accuracy_N: what was evaluated.
        least_error: error rates below it count as it.
        num_images: see `binomial_noise_points`.

    Raises:
        PredictorError: as `score` and `binomial_noise_points`.
    """
    relative = score(np.maximum(1.0 - predicted_N, least_error), np.maximum(1.0 - accuracy_N, least_error))
    return AccuracyScores(
        **asdict(relative),
        rmse_points=_rmse_points(predicted_N, accuracy_N),
        noise_points=binomial_noise_points(accuracy_N, num_images),
    )
