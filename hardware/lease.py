"""Who may use a physical unit: many compute at the same time, or one measures alone.

The lock is a file lock (flock) on the unit's own host, so the system frees it when a process dies, however it dies,
and searches with different databases still exclude each other. Beside it lies a book (`hardware.lock_state`) with
the names of the holders, the expiry of the lease, and the fencing token. Three files a unit:

    <unit>.book      the book; locked for the microseconds in which anything below changes
    <unit>.gate      held by whoever waits to measure: while it is, nobody new starts to compute
    <unit>.<n>.lock  shared by those who compute, exclusive for the one who measures

A process that hangs keeps its file lock. When its lease has expired, the next one moves on to the file <n+1>, and
the hanging process learns from `Lease.check` that its numbers no longer count.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hardware.clock import Clock, SystemClock
from hardware.errors import DeviceError
from hardware.lock_files import LockFiles, default_lock_directory
from hardware.lock_state import Holder, LockState, new_holder, read_state, write_state

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

# Waiting processes look again at these intervals; rarely, because they would disturb the one who measures.
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5
_LOG_AFTER_S = 5.0


class Lease:
    """The right to measure on one unit until it expires, is given back or is taken over.

    Attributes:
        unit: the physical unit.
        owner: who holds it.
        token: fencing token: every later lease of the unit has a higher one.
    """

    def __init__(self, *, unit: str, files: LockFiles, clock: Clock, state: LockState) -> None:
        """Describe the lease that `state` records; made by `UnitLock.measuring` only."""
        assert state.measuring is not None
        self.unit = unit
        self.owner = state.measuring.owner
        self.token = state.token
        self._files = files
        self._clock = clock
        self._generation = state.generation
        self._deadline_s = state.deadline_s

    @property
    def expires_at_utc(self) -> datetime:
        """When others may take the unit over."""
        return self._clock.now_utc() + timedelta(seconds=self._deadline_s - self._clock.monotonic_s())

    def check(self) -> None:
        """Make sure that the unit was ours alone all the time until now. Call it before a number is kept.

        Raises:
            DeviceError: the lease expired, was given back, or somebody else took the unit over.
        """
        with self._files.book() as book:
            self._check(read_state(book, path=self._files.book_path))

    def renew(self, *, ttl_s: float) -> None:
        """Let the lease expire `ttl_s` seconds from now instead: the sign of life of a long measurement.

        Raises:
            DeviceError: as `check`: a lease that was lost cannot be renewed.
        """
        with self._files.book() as book:
            state = read_state(book, path=self._files.book_path)
            self._check(state)
            self._deadline_s = self._clock.monotonic_s() + ttl_s
            write_state(book, replace(state, deadline_s=self._deadline_s))

    def _check(self, state: LockState) -> None:
        again = "what was measured is not kept; run the command again"
        name = f"lease {self.token} of {self.owner or 'unnamed'} on {self.unit}"
        if (state.token, state.generation) != (self.token, self._generation):
            raise DeviceError(f"{name} was taken over: now the unit is {state.holders()}", hint=again)
        if state.measuring is None:
            raise DeviceError(f"{name} was given back already", hint="measure inside the `with` block of the lease")
        if self._clock.monotonic_s() >= self._deadline_s:
            raise DeviceError(f"{name} expired at {self.expires_at_utc.isoformat(timespec='seconds')}", hint=again)


class UnitLock:
    """The lock of one physical unit on this host, for processes and threads alike.

    A thread that computes may compute again inside; everything else that a thread would wait for itself for is
    refused at once.
    """

    def __init__(self, unit: str, *, directory: Path | None = None, clock: Clock | None = None) -> None:
        """Describe the lock; nothing is opened or created yet.

        Args:
            unit: `DeviceSpec.physical_unit()`.
            directory: where the lock files lie; by default one place for all users of the host.
            clock: for expiry and time-outs; the system's if None.
        """
        self.unit = unit
        self._clock: Clock = SystemClock() if clock is None else clock
        self._files = LockFiles(unit, directory=default_lock_directory() if directory is None else directory)

    @contextmanager
    def computing(self, *, owner: str, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the unit together with others who compute, and keep measurers out.

        Keep it short, minutes at most: it is what a measurer waits for.

        Args:
            owner: who this is, for the messages to others.
            timeout_s: how long to wait for a measurer; None waits for ever, 0 tries once.

        Raises:
            DeviceError: still measured on after `timeout_s` (the message names the holder), or no lock possible here.
        """
        holder = new_holder(owner, now=self._clock.now_utc())
        start_s = self._clock.monotonic_s()
        # Waiting is inside, because Ctrl-C may come right after the lock did.
        try:
            self._wait(
                lambda: self._try_compute(holder), holder=holder, what="compute", start_s=start_s, timeout_s=timeout_s
            )
            yield
        finally:
            self._release(holder)

    @contextmanager
    def measuring(self, *, owner: str, ttl_s: float, timeout_s: float | None = None) -> Iterator[Lease]:
        """Hold the unit alone. Who computes now is waited for; who wants to compute from now on waits.

        Args:
            owner: who this is, for the messages to others.
            ttl_s: seconds after which others may take over, should this process hang; `Lease.renew` moves it.
            timeout_s: how long to wait; None waits for ever, 0 tries once.

        Raises:
            DeviceError: still in use after `timeout_s` (the message names the holder), or no lock possible here.
        """
        if not ttl_s > 0:
            raise DeviceError(f"ttl_s is {ttl_s}, expected > 0", hint="give the lease a time to live in seconds")
        holder = new_holder(owner, now=self._clock.now_utc())
        start_s = self._clock.monotonic_s()
        try:
            gate = self._wait(
                lambda: self._try_gate(holder), holder=holder, what="measure", start_s=start_s, timeout_s=timeout_s
            )
            state = self._wait(
                lambda: self._try_measure(holder, ttl_s=ttl_s),
                holder=holder,
                what="measure",
                start_s=start_s,
                timeout_s=timeout_s,
            )
            self._files.close(gate)
            yield Lease(unit=self.unit, files=self._files, clock=self._clock, state=state)
        finally:
            self._release(holder)

    def _wait(
        self,
        attempt: Callable[[], _T | None],
        *,
        holder: Holder,
        what: str,
        start_s: float,
        timeout_s: float | None,
    ) -> _T:
        pause_s, logged = _FIRST_PAUSE_S, False
        while (found := attempt()) is None:
            waited_s = self._clock.monotonic_s() - start_s
            with self._files.book() as book:
                state = read_state(book, path=self._files.book_path).without(holder)
            self._refuse_self_wait(state, holder=holder, what=what)
            if timeout_s is not None and waited_s >= timeout_s:
                raise DeviceError(
                    f"{holder.owner or 'unnamed'} could not {what} on {self.unit} within {timeout_s:g} s: "
                    f"it is {state.holders()}",
                    hint="wait for that process or end it; a process that died frees the unit by itself",
                )
            if waited_s >= _LOG_AFTER_S and not logged:
                _LOG.info("%s waits to %s on %s: it is %s", holder.owner, what, self.unit, state.holders())
                logged = True
            self._clock.sleep(pause_s if timeout_s is None else min(pause_s, timeout_s - waited_s))
            pause_s = min(pause_s * 1.3, _LONGEST_PAUSE_S)
        return found

    def _refuse_self_wait(self, state: LockState, *, holder: Holder, what: str) -> None:
        mine = [other for other in (state.measuring, *state.computing) if other and other.is_same_thread(holder)]
        if mine:
            raise DeviceError(
                f"{holder.owner or 'unnamed'} wants to {what} on {self.unit}, but the same thread already holds it "
                f"as {mine[0]}: it would wait for itself",
                hint="leave the first `with` block before entering the second",
            )

    def _try_gate(self, holder: Holder) -> int | None:
        with self._files.book() as book:
            state = read_state(book, path=self._files.book_path)
            gate = self._files.try_lock(self._files.gate_path, exclusive=True, keeper=holder)
            if gate is not None:
                write_state(book, replace(state, waiting=holder))
            return gate

    def _try_compute(self, holder: Holder) -> LockState | None:
        with self._files.book() as book:
            state = read_state(book, path=self._files.book_path)
            # A thread that computes already must not queue behind a measurer who waits for just this thread.
            if not any(other.is_same_thread(holder) for other in state.computing):
                gate = self._files.try_lock(self._files.gate_path, exclusive=False, keeper=holder)
                if gate is None:
                    return None
                self._files.close(gate)
            state, locked = self._try_lock(state, exclusive=False, keeper=holder)
            if not locked:
                return None
            state = state.with_computing(holder)
            write_state(book, state)
            return state

    def _try_measure(self, holder: Holder, *, ttl_s: float) -> LockState | None:
        with self._files.book() as book:
            state = read_state(book, path=self._files.book_path)
            state, locked = self._try_lock(state, exclusive=True, keeper=holder)
            if not locked:
                return None
            deadline_s = self._clock.monotonic_s() + ttl_s
            state = replace(
                state, token=state.token + 1, measuring=holder, deadline_s=deadline_s, waiting=None, computing=()
            )
            write_state(book, state)
            return state

    def _try_lock(self, state: LockState, *, exclusive: bool, keeper: Holder) -> tuple[LockState, bool]:
        path = self._files.lock_path(state.generation)
        if self._files.try_lock(path, exclusive=exclusive, keeper=keeper) is not None:
            return state, True
        if state.measuring is None or self._clock.monotonic_s() < state.deadline_s:
            return state, False
        # Whoever computes strikes the measurer from the book, so the lock is held by just this expired measurer,
        # and nobody computes behind its back.
        _LOG.warning("taking %s over from %s, whose lease expired", self.unit, state.measuring)
        taken = replace(state, generation=state.generation + 1, token=state.token + 1, measuring=None, deadline_s=0.0)
        new_path = self._files.lock_path(taken.generation)
        if self._files.try_lock(new_path, exclusive=exclusive, keeper=keeper) is None:
            return state, False
        # The old file is of no use to anybody; in a sticky directory it may belong to another user and stay.
        with suppress(OSError):
            path.unlink()
        return taken, True

    def _release(self, holder: Holder) -> None:
        # Holding nothing means: never got anything, or this is a forked child and the lock is the parent's.
        if not self._files.holds_for(holder):
            return
        try:
            with self._files.book() as book:
                # After a take-over the book is about others: nothing of it is changed then.
                write_state(book, read_state(book, path=self._files.book_path).without(holder))
                self._files.close_all(holder)
        finally:
            self._files.close_all(holder)
