"""Time as an argument, so that expiry and time-outs can be tested without waiting."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What expiry, time-outs and time stamps are read from."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never goes back; the same start for every process of this host."""

    def now_utc(self) -> datetime:
        """Wall time with time zone UTC, for people and tables."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; Ctrl-C interrupts it."""


class SystemClock:
    """The clock of this machine."""

    def monotonic_s(self) -> float:
        """Seconds of the system's monotonic clock."""
        return time.monotonic()

    def now_utc(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`."""
        time.sleep(seconds)
