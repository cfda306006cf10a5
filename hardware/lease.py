"""Who may use a physical unit: many compute at the same time, or one measures alone.

The lock is a file lock (flock) on the unit's own host, so the system frees it when a process dies, however it dies,
and searches with different databases still exclude each other. Beside it lies a book (`hardware.lock_state`) with
the names of the holders, the queue, the expiry of the lease, and the fencing token. The files of a unit:

    <unit>.book       the book; locked for the microseconds in which anything below changes
    <unit>.<n>.lock   shared by those who compute, exclusive for the one who measures
    <unit>.<k>.place  locked by one who waits, for as long as it waits

Whoever comes first is served first, to compute or to measure alike; neighbours in the queue who compute share the
unit. Nobody is told of a turn: those who wait look at the book now and then, and strike out the dead ahead of them.
The queue has `MAX_WAITING` places. Who finds none waits outside, looks as often as the others, and gets into the queue
where its time of arrival puts it when a place is free; until then, later ones in the queue may be served before.

A process that hangs keeps its file lock. When its lease has expired, the next one moves on to the file <n+1>, and
the hanging process learns from `Lease.check` that its numbers no longer count. If it hangs while it waits, it is
passed over, and comes back to where it stood when it goes on.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from hardware.clock import Clock, SystemClock
from hardware.errors import DeviceError
from hardware.lock_files import LockFiles, default_lock_directory
from hardware.lock_state import Holder, LockState, UnitStatus, Waiter, new_holder, read_state, write_state

_LOG = logging.getLogger(__name__)

# So many that the book still fits its page.
MAX_WAITING = 16

# Waiting processes look again at these intervals; rarely, because they would disturb the one who measures.
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5
_LOG_AFTER_S = 5.0
# A waiter signs the book this often, and is passed over when it did not for that long: a stopped process.
_SIGN_OF_LIFE_S = 10.0
_SILENT_AFTER_S = 60.0
# The book is locked for microseconds. Who has it for longer hangs, but not in the middle of a write.
_STATUS_PATIENCE_S = 0.5


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
        """Hold the unit together with others who compute, and keep measurers out; after those who came before.

        Keep it short, minutes at most: it is what a measurer waits for.

        Args:
            owner: who this is, for the messages to others.
            timeout_s: how long to wait for measurers; None waits for ever, 0 tries once.

        Raises:
            DeviceError: still measured on after `timeout_s`, or waited for by a measurer who came before (the message
                names them), or no lock possible here.
        """
        holder = new_holder(owner, now=self._clock.now_utc())
        # Waiting is inside, because Ctrl-C may come right after the lock did.
        try:
            self._wait(holder, ttl_s=None, timeout_s=timeout_s)
            yield
        finally:
            self._release(holder)

    @contextmanager
    def measuring(self, *, owner: str, ttl_s: float, timeout_s: float | None = None) -> Iterator[Lease]:
        """Hold the unit alone, after all who came before; who comes later waits.

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
        try:
            state = self._wait(holder, ttl_s=ttl_s, timeout_s=timeout_s)
            yield Lease(unit=self.unit, files=self._files, clock=self._clock, state=state)
        finally:
            self._release(holder)

    def status(self) -> UnitStatus:
        """Tell who holds the unit and who waits for it. Takes and changes nothing, and waits for nobody for long.

        Raises:
            DeviceError: the book is damaged, or files cannot be locked here.
        """
        start_s = self._clock.monotonic_s()
        while True:
            with self._files.book_as_it_is() as (book, locked):
                if book is None:
                    return UnitStatus()
                if locked or self._clock.monotonic_s() - start_s >= _STATUS_PATIENCE_S:
                    return self._describe(read_state(book, path=self._files.book_path))
            self._clock.sleep(_FIRST_PAUSE_S)

    def _describe(self, state: LockState) -> UnitStatus:
        # The files tell what is held, the book tells only names: those of the killed may still be in it.
        path = self._files.lock_path(state.generation)
        measured_on = self._files.is_taken(path, exclusive=False)
        computed_on = not measured_on and self._files.is_taken(path, exclusive=True)
        measuring = state.measuring if measured_on else None
        left_s = state.deadline_s - self._clock.monotonic_s()
        return UnitStatus(
            measuring=measuring,
            computing=state.living_computing() or state.computing if computed_on else (),
            waiting=tuple(other for other in state.waiting if self._is_waiting(other)),
            token=state.token,
            expires_at_utc=None if measuring is None else self._clock.now_utc() + timedelta(seconds=left_s),
        )

    def _wait(self, holder: Holder, *, ttl_s: float | None, timeout_s: float | None) -> LockState:
        """Take the unit when it is `holder`'s turn: to measure for `ttl_s`, or to compute if that is None."""
        start_s = self._clock.monotonic_s()
        waiter = Waiter(holder=holder, measures=ttl_s is not None, came_s=round(start_s, 3))
        place: int | None = None
        pause_s, logged = _FIRST_PAUSE_S, False
        while True:
            with self._files.book() as book:
                found = read_state(book, path=self._files.book_path)
                state, taken = self._try(found, waiter=waiter, ttl_s=ttl_s)
                if taken:
                    write_state(book, state)
                    if place is not None:
                        self._files.close(place)
                    return state
                self._refuse_self_wait(state, waiter=waiter)
                waited_s = self._clock.monotonic_s() - start_s
                if timeout_s is not None and waited_s >= timeout_s:
                    raise DeviceError(
                        f"{holder.owner or 'unnamed'} could not {waiter.purpose} on {self.unit} within "
                        f"{timeout_s:g} s: it is {self._in_the_way(state, waiter)}",
                        hint="wait for that process or end it; a process that died frees the unit by itself",
                    )
                waiter, place = self._keep_place(waiter, place)
                if place is not None:
                    state = state.with_waiting(waiter)
                if state != found:
                    write_state(book, state)
            if waited_s >= _LOG_AFTER_S and not logged:
                in_the_way = self._in_the_way(state, waiter)
                _LOG.info("%s waits to %s on %s: it is %s", holder.owner, waiter.purpose, self.unit, in_the_way)
                logged = True
            self._clock.sleep(pause_s if timeout_s is None else min(pause_s, timeout_s - waited_s))
            pause_s = min(pause_s * 1.3, _LONGEST_PAUSE_S)

    def _in_the_way(self, state: LockState, waiter: Waiter) -> str:
        # A killed measurer stays in the book until the first in the queue has looked.
        measured_on = self._files.is_taken(self._files.lock_path(state.generation), exclusive=False)
        measuring = state.measuring if measured_on else None
        return replace(state, measuring=measuring, waiting=state.ahead_of(waiter)).holders()

    def _refuse_self_wait(self, state: LockState, *, waiter: Waiter) -> None:
        mine = [other for other in (state.measuring, *state.computing) if other and other.is_same_thread(waiter.holder)]
        if mine:
            raise DeviceError(
                f"{waiter.holder.owner or 'unnamed'} wants to {waiter.purpose} on {self.unit}, but the same thread "
                f"already holds it as {mine[0]}: it would wait for itself",
                hint="leave the first `with` block before entering the second",
            )

    def _keep_place(self, waiter: Waiter, descriptor: int | None) -> tuple[Waiter, int | None]:
        """Return `waiter` with its place in the queue, and the open file of that; None if there is none free."""
        now_s = round(self._clock.monotonic_s(), 3)
        if descriptor is not None:
            if self._files.is_at(descriptor, path=self._files.place_path(waiter.place)):
                overdue = now_s - waiter.seen_s >= _SIGN_OF_LIFE_S
                return (replace(waiter, seen_s=now_s) if overdue else waiter), descriptor
            # Somebody deleted the file, so this waiter looks dead to the others.
            self._files.close(descriptor)
        for place in range(MAX_WAITING):
            descriptor = self._files.try_lock(self._files.place_path(place), exclusive=True, keeper=waiter.holder)
            if descriptor is not None:
                return replace(waiter, place=place, seen_s=now_s), descriptor
        return waiter, None

    def _is_waiting(self, waiter: Waiter) -> bool:
        return self._files.is_taken(self._files.place_path(waiter.place), exclusive=False)

    def _try(self, state: LockState, *, waiter: Waiter, ttl_s: float | None) -> tuple[LockState, bool]:
        """Return the book without the dead ahead of `waiter`, and whether it has the unit now."""
        holder = waiter.holder
        # A thread that computes already must not queue behind a measurer who waits for just this thread.
        if waiter.measures or not any(other.is_same_thread(holder) for other in state.computing):
            for other in state.ahead_of(waiter):
                if not (waiter.measures or other.measures):
                    continue
                silent = self._clock.monotonic_s() - other.seen_s >= _SILENT_AFTER_S
                if not silent and self._is_waiting(other):
                    return state, False
                state = state.without_waiting(other.holder)
        state, locked = self._try_lock(state, exclusive=waiter.measures, keeper=holder)
        if not locked:
            return state, False
        state = state.without_waiting(holder)
        if ttl_s is None:
            return state.with_computing(holder), True
        deadline_s = self._clock.monotonic_s() + ttl_s
        return replace(state, token=state.token + 1, measuring=holder, deadline_s=deadline_s, computing=()), True

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
