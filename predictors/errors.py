"""Errors of the predictors."""

from searchspaces.errors import Hinted


class PredictorError(Hinted, ValueError):
    """Measurements that no predictor can be fitted to, or a predictor that does not fit the question."""
