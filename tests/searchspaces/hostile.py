"""A file with code, for tests of what reads files."""

from pathlib import Path


class Hostile:
    """Creates a file when somebody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)
