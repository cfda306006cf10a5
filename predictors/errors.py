"""Errors of the predictors."""

from searchspaces.errors import Hinted


class PredictorError(Hinted, ValueError):
    """Measurements that no predictor can be fitted to, or a predictor that does not fit the question."""


class MissingPackageError(PredictorError):
    """A family of regressors needs a package that cannot be imported."""
