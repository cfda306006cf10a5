"""Reporters that tell a test what they heard."""

from experiments.reporter import SilentReporter


class Heard(SilentReporter):
    """A reporter that keeps messages, and what stages found."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.found: list[str] = []

    def done(self, text: str) -> None:
        self.found.append(text)

    def message(self, text: str) -> None:
        self.messages.append(text)
