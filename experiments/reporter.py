"""What a run says while it works; the command line shows it, tests and notebooks may stay silent."""

from typing import Protocol

STAGES = ("train", "profile", "search", "refine", "verify", "export")


class Reporter(Protocol):
    """Hears of stages, progress and things a user should know."""

    def stage(self, name: str, *, text: str) -> None:
        """A stage begins; `text` says what it will do."""

    def progress(self, done: float, total: float, *, text: str = "", seconds_left: float | None = None) -> None:
        """The stage's progress; the first call of a stage opens a bar.

        Args:
            done: of `total`.
            total: all steps.
            text: what else there is to say.
            seconds_left: the stage's own estimate, where its steps take unequal times; None: from `done` alone.
        """

    def done(self, text: str) -> None:
        """The stage ended; `text` says what it found."""

    def message(self, text: str) -> None:
        """Something that a user should know."""


class SilentReporter:
    """Says nothing."""

    def stage(self, name: str, *, text: str) -> None:
        """Ignore."""

    def progress(self, done: float, total: float, *, text: str = "", seconds_left: float | None = None) -> None:
        """Ignore."""

    def done(self, text: str) -> None:
        """Ignore."""

    def message(self, text: str) -> None:
        """Ignore."""
