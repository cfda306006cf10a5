"""Errors at the border: recipes, data sets, tracking and the cluster."""

from searchspaces.errors import Hinted


class RecipeError(Hinted, ValueError):
    """A recipe that is missing, unreadable, or says something that is not allowed."""


class DataError(Hinted, ValueError):
    """A data set that is missing, damaged, or too small for the splits that the recipe asks for."""


class TrackingError(Hinted, RuntimeError):
    """A tracking store or model registry that is unreachable or refuses what it is given."""


class ClusterError(Hinted, RuntimeError):
    """A Ray instance or worker that does not start, is lost, or lacks what the recipe asks for."""


class JobError(Hinted, ValueError):
    """A job, address, token file or run directory that a command for cluster jobs cannot be given."""
