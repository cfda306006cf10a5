"""What families share that have no closed form for rows left out: folds of rows, and the target that they learn.

Their held-out errors are those of cross-validation, where a fifth of the rows is left out at a time, and not one row: a
little too large, so such a family gets rather too little weight than too much.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.prediction import FloatArray
from predictors.regressors.regressor import BEYOND_FITTED

_FOLDS = 5


def fold_of_rows(num: int, *, repeat: int = 0) -> npt.NDArray[np.intp]:
    """The fold of each of some rows, 0 to 4, all of nearly one size; every repeat cuts the rows in another way."""
    fold_N = np.empty(num, dtype=np.intp)
    fold_N[np.random.default_rng((repeat, num)).permutation(num)] = np.arange(num) % _FOLDS
    return fold_N


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """log(cost), shifted and scaled so that the fitted rows have mean 0 and variance 1.

    Attributes:
        offset, scale: log(cost) is offset + scale * target.
        lowest, highest: predicted costs are kept between these.
        spread: typical size of held-out errors of log(cost).
    """

    offset: float
    scale: float
    lowest: float
    highest: float
    spread: float = 1.0

    @classmethod
    def of(cls, cost_N: FloatArray) -> "LogTarget":
        """The target of fitted rows; their costs are not all the same."""
        log_N = np.log(cost_N)
        return cls(
            offset=float(log_N.mean()),
            scale=float(log_N.std()),
            lowest=float(cost_N.min()) / BEYOND_FITTED,
            highest=float(cost_N.max()) * BEYOND_FITTED,
        )

    @classmethod
    def restore(cls, settings: Mapping[str, float]) -> "LogTarget":
        """From what `settings` gave.

        Raises:
            KeyError: one is missing.
        """
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__})

    def settings(self) -> dict[str, float]:
        """All its numbers, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def target(self, cost_N: FloatArray) -> FloatArray:
        """What a model learns."""
        target_N: FloatArray = (np.log(cost_N) - self.offset) / self.scale
        return target_N

    def answer(self, target_N: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Cost and spread; see `FittedRegressor.predict`. The spread is the same for all rows."""
        log_N = np.clip(self.offset + self.scale * target_N, np.log(self.lowest), np.log(self.highest))
        return np.exp(log_N), np.full(len(target_N), self.spread)
