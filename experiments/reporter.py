"""What a run says while it works; the command line shows it, tests and notebooks may stay silent."""

from typing import Protocol


class Reporter(Protocol):
    """Hears of stages, progress and things a user should know."""

    def stage(self, name: str, *, text: str) -> None:
        """A stage begins; `text` says what it will do."""

    def progress(self, done: float, total: float, *, text: str = "") -> None:
        """The stage's progress; the first call of a stage opens a bar."""

    def done(self, text: str) -> None:
        """The stage ended; `text` says what it found."""

    def message(self, text: str) -> None:
        """Something that a user should know."""


class SilentReporter:
    """Says nothing."""

    def stage(self, name: str, *, text: str) -> None:
        """Ignore."""

    def progress(self, done: float, total: float, *, text: str = "") -> None:
        """Ignore."""

    def done(self, text: str) -> None:
        """Ignore."""

    def message(self, text: str) -> None:
        """Ignore."""
