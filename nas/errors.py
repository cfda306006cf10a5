"""Errors of the search itself."""

from searchspaces.errors import Hinted


class RunError(Hinted, ValueError):
    """A run directory that is missing, unwritable, of another recipe, or lacks what a stage needs."""


class InfeasibleError(Hinted, ValueError):
    """Limits that no architecture of the space can meet."""


class CheckpointError(Hinted, RuntimeError):
    """A checkpoint or candidate whose files are missing, damaged or of another space."""


class TrainingError(Hinted, RuntimeError):
    """Training that cannot go on, for example because the loss is not a number."""


class EvaluationError(Hinted, RuntimeError):
    """Evaluations that failed so often that the search stops."""


class ExportError(Hinted, RuntimeError):
    """An exported file that does not do what the network does."""
