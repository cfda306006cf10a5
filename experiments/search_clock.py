"""The hours that a search may take."""

import time
from collections.abc import Callable

from experiments.session import Session
from nas.stage_calls import read_calls

_SECONDS = 3600.0


class SearchClock:
    """Adds up the time of the stage `search`: of earlier calls, killed ones included, and of this one from now on."""

    def __init__(self, session: Session) -> None:
        rows = read_calls(session.run)
        self._hours = session.recipe.search.hours
        self._before = float(rows[rows["stage"] == "search"]["seconds"].sum())
        self._start = time.monotonic()

    def used_up(self) -> str | None:
        """What to say when the hours of the recipe are used up; None as long as they are not, or without a limit."""
        if self._hours is None:
            return None
        seconds = self._before + time.monotonic() - self._start
        if seconds < self._hours * _SECONDS:
            return None
        return f"{seconds / _SECONDS:.3g} of search.hours={self._hours:g} are used up, give more to go on"


def is_over(num_known: int, *, wanted: int, used_up: Callable[[], str | None]) -> bool:
    """Whether a search is at its end: it knows enough, or something at least and has no time for more.

    Args:
        num_known: architectures that are evaluated, or were stopped.
        wanted: how many are enough.
        used_up: as of `SearchClock`.
    """
    return num_known >= wanted or (num_known > 0 and used_up() is not None)
