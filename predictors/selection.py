"""Which families of regressors to believe: all of them, each by how well it predicts rows that it was not fitted to.

Choosing the one family with the smallest leave-one-out error is a gamble with ten rows and makes that error too small,
because it won by it. So families are averaged, with weights that fall with their error (stacking by pseudo-Bayesian
model averaging: Yao, Vehtari, Simpson, Gelman, Bayesian Analysis 2018, section 3.3): with few rows nearly equal ones
share, with many the better one takes all.

Letters: N rows, F families.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from predictors.errors import MissingPackageError, PredictorError
from predictors.features import Blocks
from predictors.prediction import FloatArray
from predictors.regressors.regressor import FittedRegressor, Regressor

_logger = logging.getLogger(__name__)

# Errors beyond this many typical ones count as this many: a wrong measurement must not choose the family.
_MOST_TYPICAL_ERRORS = 4.0
# Leave-one-out errors of neighbouring rows are alike, so they carry less evidence than as many independent ones.
_EVIDENCE = 0.5
# A family with less weight than this is left out: it costs time and changes nothing.
_LEAST_WEIGHT = 0.02
# Values closer than that, relative to them, are the same: no measurement is so exact.
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blend:
    """Fitted families and their weights.

    Attributes:
        members: the families that count, the heaviest first.
        weights: theirs, sum 1.
        calibrations: what each member's spread is multiplied by, so that its leave-one-out errors have size 1 in it.
        loo_rms_percent: by name, of all families that were tried, the smallest first: size of the leave-one-out errors
            that decided their weights (root mean square of the logarithm's, wild ones capped), in percent. Empty when
            restored from what an older version stored.
        loo_log_errors_N, loo_spread_N: as of a `FittedRegressor`; empty when restored.
    """

    members: tuple[FittedRegressor, ...]
    weights: tuple[float, ...]
    calibrations: tuple[float, ...]
    loo_rms_percent: Mapping[str, float]
    loo_log_errors_N: FloatArray
    loo_spread_N: FloatArray

    @property
    def names(self) -> Mapping[str, float]:
        """Weight by name of the family."""
        return {member.name: weight for member, weight in zip(self.members, self.weights, strict=True)}

    @property
    def reasons(self) -> str:
        """Weights and the errors that decided: "gp-log 72 % (error 2.1 %), gp-additive 28 % (error 2.4 %)"."""
        tried = list(dict.fromkeys([*self.names, *self.loo_rms_percent]))
        return ", ".join(
            f"{name} {100.0 * self.names.get(name, 0.0):.0f} %"
            + (f" (error {self.loo_rms_percent[name]:.1f} %)" if name in self.loo_rms_percent else "")
            for name in tried
        )

    def predict(self, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
        """Predict N rows: geometric mean of the members, and a spread of which their disagreement is part."""
        parts = [member.predict(blocks) for member in self.members]
        logs_FN = np.log(np.stack([mean_N for mean_N, _ in parts]))
        spread_FN = np.stack([spread_N for _, spread_N in parts])
        log_N, spread_N = _average(logs_FN, spread_FN, self.weights, self.calibrations)
        return np.exp(log_N), spread_N


def blend(regressors: Sequence[Regressor], blocks: Blocks, cost_N: FloatArray, *, population: Blocks) -> Blend:
    """Fit all families that have enough rows and average them; one whose package is missing is left out with a warning.

    Args:
        regressors: the families.
        blocks: features of the N rows.
        cost_N: positive.
        population: see `Regressor.fit`.

    Raises:
        PredictorError: values that are not finite and positive, or (nearly) all the same; or no family can make
            anything of them.
    """
    _require_variety(cost_N)
    usable = [r for r in regressors if r.fewest <= len(cost_N) and (r.needs is None or r.needs in blocks)]
    fitted: list[FittedRegressor] = []
    for regressor in usable:
        try:
            fitted.append(regressor.fit(blocks, cost_N, population=population))
        except MissingPackageError as e:
            _logger.warning("%s; family %r is left out", e, regressor.name)
    fitted = [one for one in fitted if np.isfinite([one.loo_log_errors_N, one.loo_spread_N]).all()]
    if not fitted:
        raise PredictorError(
            f"no family of regressors can predict {len(cost_N)} values from {cost_N.min():.6g} to {cost_N.max():.6g}",
            hint="check the measurements: such values are mostly of several units, or of something else",
        )
    errors_FN = np.stack([one.loo_log_errors_N for one in fitted])
    square_F = _mean_squares(errors_FN)
    weight_F = _weights(square_F, num=len(cost_N))
    kept = [int(f) for f in np.argsort(-weight_F, kind="stable") if weight_F[f] >= _LEAST_WEIGHT]
    weights = tuple((weight_F[kept] / weight_F[kept].sum()).tolist())
    calibrations = tuple(_calibration(fitted[f]) for f in kept)
    spread_FN = np.stack([fitted[f].loo_spread_N for f in kept])
    error_N, spread_N = _average(errors_FN[kept], spread_FN, weights, calibrations)
    return Blend(
        members=tuple(fitted[f] for f in kept),
        weights=weights,
        calibrations=calibrations,
        loo_rms_percent={fitted[f].name: 100.0 * float(np.sqrt(square_F[f])) for f in np.argsort(square_F)},
        loo_log_errors_N=error_N,
        loo_spread_N=spread_N,
    )


def is_constant(value_N: FloatArray) -> bool:
    """Whether values differ by no more than numbers that were computed in different orders."""
    return bool(np.ptp(value_N) <= _SAME * np.abs(value_N).max())


def _require_variety(cost_N: FloatArray) -> None:
    if not (np.isfinite(cost_N) & (cost_N > 0.0)).all():
        raise PredictorError(
            f"values from {cost_N.min()} to {cost_N.max()}, expected finite ones above 0",
            hint="drop the rows whose measurement failed",
        )
    if is_constant(cost_N):
        raise PredictorError(
            f"all {len(cost_N)} values are {cost_N[0]:.6g}: there is nothing to predict",
            hint="measure or evaluate architectures that differ more in size, and accuracies on more images",
        )


def _mean_squares(errors_FN: FloatArray) -> FloatArray:
    typical = min(np.median(np.abs(errors_FN), axis=1).tolist())
    # Below a thousandth every family is perfect; above the cap a row is wrong, whatever the family says.
    cap = max(_MOST_TYPICAL_ERRORS * 1.4826 * typical, 1e-3)
    square_F: FloatArray = np.mean(np.minimum(np.abs(errors_FN), cap) ** 2, axis=1) + 1e-10
    return square_F


def _weights(square_F: FloatArray, *, num: int) -> FloatArray:
    log_F = -0.5 * num * _EVIDENCE * np.log(square_F / square_F.min())
    weight_F = np.exp(log_F)
    result: FloatArray = weight_F / weight_F.sum()
    return result


def _calibration(fitted: FittedRegressor) -> float:
    ratio_N = np.abs(fitted.loo_log_errors_N) / fitted.loo_spread_N
    return max(1.4826 * float(np.median(ratio_N)), 1e-9)


def _average(
    logs_FN: FloatArray, spread_FN: FloatArray, weights: Sequence[float], calibrations: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    weight_F = np.array(weights)
    log_N = weight_F @ logs_FN
    variance_FN = np.square(np.array(calibrations)[:, None] * spread_FN) + np.square(logs_FN - log_N)
    return log_N, np.sqrt(weight_F @ variance_FN)
