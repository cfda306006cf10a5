"""The role of a family of regressors: from features to a positive cost and how unsure it is."""

from collections.abc import Mapping
from typing import Protocol

from predictors.features import Blocks
from predictors.prediction import FloatArray

# A sum of times cannot be trusted to stay positive far outside the data; nor can an exponential to stay small.
BEYOND_FITTED = 10.0


class FittedRegressor(Protocol):
    """A regressor after fitting; immutable."""

    @property
    def name(self) -> str:
        """Name of the family that made it."""

    @property
    def settings(self) -> Mapping[str, float]:
        """Finite numbers of its own that belong on the card and are needed to restore it, for example "alpha"."""

    @property
    def loo_log_errors_N(self) -> FloatArray:
        """log(predicted / measured) of every fitted row, predicted without that row; empty after `restore`."""

    @property
    def loo_spread_N(self) -> FloatArray:
        """The spread that went with each of `loo_log_errors_N`; empty after `restore`."""

    def predict(self, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
        """Predict N rows.

        Returns:
            mean_N, positive; and spread_N, positive: how large errors of log(cost) are relative to each other.
        """

    def arrays(self) -> Mapping[str, FloatArray]:
        """All arrays that `Regressor.restore` needs."""


class Regressor(Protocol):
    """A family that can be fitted; without state."""

    @property
    def name(self) -> str:
        """Unique among the registered ones; it stands on the card of a stored predictor."""

    @property
    def fewest(self) -> int:
        """It is not tried on fewer rows."""

    @property
    def needs(self) -> str | None:
        """It is tried only where this block is among the features."""

    def fit(self, blocks: Blocks, cost_N: FloatArray, *, population: Blocks) -> FittedRegressor:
        """Fit to N rows (at least 3) with positive cost; the same input gives the same result.

        Args:
            blocks: features of the N rows.
            cost_N: what they cost.
            population: features of architectures that stand for the whole space, measured or not.
        """

    def restore(self, arrays: Mapping[str, FloatArray], *, settings: Mapping[str, float]) -> FittedRegressor:
        """Rebuild what was fitted from `arrays()` and `settings`; it predicts bit for bit the same.

        Raises:
            KeyError: an array or setting is missing.
        """
