"""Reporters that tell a test what they heard."""

from experiments.reporter import SilentReporter


class Heard(SilentReporter):
    """A reporter that keeps messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)
