"""Errors of the search spaces, and the base that every error of this project shares."""


class Hinted(Exception):  # noqa: N818 - a base, never raised itself
    """An error that knows the way out: `hint` is what the user should do or type next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (Ray workers); the default protocol would lose the keyword.
        return (_rebuild, (type(self), str(self), self.hint))


def in_one_line(error: BaseException) -> str:
    """Kind and first line of an error, where what Python and torch raise says what happened."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _rebuild(kind: type[Hinted], message: str, hint: str) -> Hinted:
    return kind(message, hint=hint)


class SpaceError(Hinted, ValueError):
    """A search space, gene or architecture that does not fit."""
