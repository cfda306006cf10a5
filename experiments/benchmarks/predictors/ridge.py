"""Plain ridge regression of log cost, with intervals: what ours is compared with.

The intervals are made as ours are, so that the comparison is fair: conformal, from leave-one-out errors, scaled by the
spread that the regression itself predicts (wider where an input lies far from the fitted ones).

Letters: N rows that are fitted, M that are asked about, F inputs, R singular values.
"""

import numpy as np

from predictors.intervals import conformal_quantile
from predictors.prediction import FloatArray, Prediction

_ALPHAS = np.logspace(-3, 3, 25)
# From a thousandth to a thousandfold, as ours at most: wider ones would only overflow.
_WIDEST = float(np.log(1000.0))


def plain_ridge(
    inputs_NF: FloatArray, cost_N: FloatArray, question_MF: FloatArray, *, level: float = 0.9
) -> Prediction:
    """Ridge on log cost: standardised inputs, penalty by leave-one-out over 1e-3 ... 1e3.

    Args:
        inputs_NF: of the fitted rows.
        cost_N: theirs, positive.
        question_MF: inputs of the rows to predict.
        level: of the intervals.

    Returns:
        Costs of the M rows; all of them count as in range.
    """
    center_F, deviation_F = inputs_NF.mean(axis=0), inputs_NF.std(axis=0)
    gain_F = np.where(deviation_F > 0, 1.0 / np.where(deviation_F > 0, deviation_F, 1.0), 0.0)
    scaled_NF, log_N = (inputs_NF - center_F) * gain_F, np.log(cost_N)
    mean = log_N.mean()
    left_NR, singular_R, right_RF = np.linalg.svd(scaled_NF, full_matrices=False)
    projected_R = left_NR.T @ (log_N - mean)

    def left_out(alpha: float) -> tuple[FloatArray, FloatArray]:
        """Errors of rows left out, and what is left of a row's weight without itself."""
        shrink_R = singular_R**2 / (singular_R**2 + alpha)
        rest_N = np.maximum(1.0 - np.square(left_NR) @ shrink_R - 1.0 / len(log_N), 1e-9)
        return (log_N - mean - left_NR @ (shrink_R * projected_R)) / rest_N, rest_N

    alpha = min(_ALPHAS.tolist(), key=lambda alpha: float(np.mean(left_out(alpha)[0] ** 2)))
    missed_N, rest_N = left_out(alpha)
    asked_MR = ((question_MF - center_F) * gain_F) @ right_RF.T
    predicted_M = mean + asked_MR @ (singular_R / (singular_R**2 + alpha) * projected_R)
    spread_M = np.sqrt(1.0 + 1.0 / len(log_N) + np.square(asked_MR) @ (1.0 / (singular_R**2 + alpha)))
    quantile = conformal_quantile(missed_N, 1.0 / np.sqrt(rest_N), level=level, num_tuned=1)
    width_M = np.minimum(quantile * spread_M, _WIDEST)
    return Prediction(
        mean=np.exp(predicted_M),
        lower=np.exp(predicted_M - width_M),
        upper=np.exp(predicted_M + width_M),
        level=level,
        in_range=np.ones(len(question_MF), dtype=np.bool_),
    )
