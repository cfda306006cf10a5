"""What the processes of one host know about a unit's lock: the book beside the locks of `hardware.lease`."""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from hardware.errors import DeviceError

# The book must fit one page, so that a kill in the middle of a write cannot tear it.
_MAX_BYTES = 4000
_MAX_OWNER_CHARACTERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Somebody who holds the unit, or waits for it.

    Attributes:
        owner: what the holder calls itself, printable ASCII.
        pid: its process.
        thread: its thread, and
        started: the start of its process in ticks since boot, which together tell it from everybody else.
        since_utc: ISO time at which it came.
    """

    owner: str
    pid: int
    thread: int
    started: int
    since_utc: str

    def is_same_thread(self, other: "Holder") -> bool:
        """Tell whether both are one thread, which therefore would wait for itself."""
        return (self.pid, self.thread, self.started) == (other.pid, other.thread, other.started)

    def __str__(self) -> str:
        return f"{self.owner or 'unnamed'} (pid {self.pid}) since {self.since_utc}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """Somebody in the queue for the unit.

    Attributes:
        holder: who it is.
        measures: whether it waits to measure; to compute otherwise.
        came_s: when it came, on the monotonic clock: the queue is served in this order.
        place: number of the file that it keeps locked while it waits, so that its death is seen; -1 without one.
        seen_s: its last sign of life, on the same clock; a process that hangs keeps its file.
    """

    holder: Holder
    measures: bool
    came_s: float
    place: int = -1
    seen_s: float = 0.0

    @property
    def purpose(self) -> str:
        """What it waits to do, as a verb."""
        return "measure" if self.measures else "compute"

    def __str__(self) -> str:
        return f"{self.holder} to {self.purpose}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatus:
    """Who holds a unit and who waits for it, at one moment.

    Attributes:
        measuring: who measures, alone.
        computing: who compute; of very many the first may be missing.
        waiting: who waits, in the order in which they get the unit.
        token: the highest fencing token handed out.
        expires_at_utc: when others may take the unit over from the one who measures; None if nobody does.
    """

    measuring: Holder | None = None
    computing: tuple[Holder, ...] = ()
    waiting: tuple[Waiter, ...] = ()
    token: int = 0
    expires_at_utc: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockState:
    """The book of one unit.

    Attributes:
        generation: number of the lock file in use; a take-over opens the next one.
        token: the highest fencing token handed out.
        measuring: who holds the unit exclusively, with `deadline_s` on the monotonic clock.
        deadline_s: when that lease expires; 0 without one.
        waiting: the queue, the first in front; a killed process may still be listed.
        computing: who computes; for messages only, a killed process may still be listed.
    """

    generation: int = 0
    token: int = 0
    measuring: Holder | None = None
    deadline_s: float = 0.0
    waiting: tuple[Waiter, ...] = ()
    computing: tuple[Holder, ...] = ()

    def ahead_of(self, waiter: Waiter) -> tuple[Waiter, ...]:
        """Return those in the queue who came before `waiter`, who may be in the queue or not."""
        return tuple(
            takewhile(lambda other: other.holder != waiter.holder and other.came_s <= waiter.came_s, self.waiting)
        )

    def with_waiting(self, waiter: Waiter) -> "LockState":
        """Return the book after `waiter` queued up, or gave a sign of life where it stands."""
        ahead = self.ahead_of(waiter)
        behind = [other for other in self.waiting[len(ahead) :] if other.holder != waiter.holder]
        queue = (*ahead, waiter, *behind)
        # Who had the same place before must have died: its file was free.
        return replace(self, waiting=tuple(one for one in queue if one is waiter or one.place != waiter.place))

    def without_waiting(self, holder: Holder) -> "LockState":
        """Return the book after `holder` left the queue; what else it holds stays."""
        return replace(self, waiting=tuple(other for other in self.waiting if other.holder != holder))

    def with_computing(self, holder: Holder) -> "LockState":
        """Return the book after `holder` started to compute: so nobody measures."""
        return replace(self, measuring=None, deadline_s=0.0, computing=(*self.living_computing(), holder))

    def living_computing(self) -> tuple[Holder, ...]:
        """Return those who compute and whose process is seen here; others may be in another container."""
        return tuple(holder for holder in self.computing if _is_alive(holder.pid))

    def without(self, holder: Holder) -> "LockState":
        """Return the book after `holder` left: stopped to wait, to measure, or to compute (once)."""
        computing = list(self.computing)
        if holder in computing:
            # One entry only: a thread that computes inside computing may have two that are equal.
            computing.remove(holder)
        measures = self.measuring == holder
        return replace(
            self.without_waiting(holder),
            measuring=None if measures else self.measuring,
            deadline_s=0.0 if measures else self.deadline_s,
            computing=tuple(computing),
        )

    def holders(self) -> str:
        """Say in words who stands in the way."""
        parts = [f"measured on by {self.measuring}"] if self.measuring is not None else []
        alive = [str(holder) for holder in self.living_computing()]
        if alive:
            parts.append(f"computed on by {', '.join(alive)}")
        waiting = [str(waiter) for waiter in self.waiting if _is_alive(waiter.holder.pid)]
        if waiting:
            parts.append(f"waited for by {', '.join(waiting)}")
        return "; ".join(parts) or "held by a process that did not leave its name"


def new_holder(owner: str, *, now: datetime) -> Holder:
    """Return the entry of this process."""
    # ASCII that JSON does not escape, so that the length in characters bounds the length in bytes.
    printable = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "?" for c in owner)
    since = now.isoformat(timespec="milliseconds")
    return Holder(
        owner=printable[:_MAX_OWNER_CHARACTERS],
        pid=os.getpid(),
        thread=threading.get_native_id(),
        started=_start_ticks(),
        since_utc=since,
    )


def read_state(descriptor: int, *, path: Path) -> LockState:
    """Return the book in an open file; an empty file is a new book.

    Raises:
        DeviceError: the content is not a book of ours.
    """
    content = os.pread(descriptor, _MAX_BYTES * 2, 0)
    if not content:
        return LockState()
    try:
        # One line; what a longer, older line left behind it does not count.
        return _parse(json.loads(content.split(b"\n", 1)[0]))
    except (ValueError, KeyError, TypeError) as e:
        raise DeviceError(
            f"the lock file {path} is damaged: {e}",
            hint=f"make sure that nothing of archsmith runs on this machine, then delete {path.parent}",
        ) from e


def write_state(descriptor: int, state: LockState) -> None:
    """Replace the book in an open file by one write, which a kill cannot cut in two."""
    content = _spell(state)
    while len(content) > _MAX_BYTES:
        if state.computing:
            # The names of the many who compute serve messages only: the oldest go.
            state = replace(state, computing=state.computing[1:])
        else:
            # The last in the queue miss themselves at their next look, and come back when there is room.
            state = replace(state, waiting=state.waiting[:-1])
        content = _spell(state)
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))


def _spell(state: LockState) -> bytes:
    def entry(holder: Holder | None) -> dict[str, object] | None:
        return None if holder is None else {field.name: getattr(holder, field.name) for field in fields(holder)}

    content = {
        "generation": state.generation,
        "token": state.token,
        "measuring": entry(state.measuring),
        "deadline_s": state.deadline_s,
        # Read by processes that started with the version before the queue, in which one measurer waited at a gate.
        "waiting": None,
        "computing": [entry(holder) for holder in state.computing],
        "queue": [
            [*astuple(waiter.holder), waiter.measures, waiter.came_s, waiter.place, waiter.seen_s]
            for waiter in state.waiting
        ],
    }
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


def _parse(value: Mapping[str, Any]) -> LockState:
    def holder(entry: Mapping[str, Any]) -> Holder:
        return Holder(
            owner=str(entry["owner"]),
            pid=int(entry["pid"]),
            thread=int(entry["thread"]),
            started=int(entry["started"]),
            since_utc=str(entry["since_utc"]),
        )

    def waiter(entry: Sequence[Any]) -> Waiter:
        *who, measures, came_s, place, seen_s = entry
        names = [field.name for field in fields(Holder)]
        return Waiter(
            holder=holder(dict(zip(names, who, strict=True))),
            measures=bool(measures),
            came_s=float(came_s),
            place=int(place),
            seen_s=float(seen_s),
        )

    return LockState(
        generation=int(value["generation"]),
        token=int(value["token"]),
        measuring=holder(value["measuring"]) if value["measuring"] is not None else None,
        deadline_s=float(value["deadline_s"]),
        # Books of the version before have no queue; who waited there is waited for by nobody here.
        waiting=tuple(waiter(entry) for entry in value.get("queue", ())),
        computing=tuple(holder(entry) for entry in value["computing"]),
    )


def _start_ticks() -> int:
    # A process id alone may be used again, or belong to another container that shares the directory.
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rsplit(")", 1)[1].split()[19])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
