"""What the processes of one host know about a unit's lock: the book beside the locks of `hardware.lease`."""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
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
class LockState:
    """The book of one unit.

    Attributes:
        generation: number of the lock file in use; a take-over opens the next one.
        token: the highest fencing token handed out.
        measuring: who holds the unit exclusively, with `deadline_s` on the monotonic clock.
        deadline_s: when that lease expires; 0 without one.
        waiting: who waits to measure.
        computing: who computes; for messages only, a killed process may still be listed.
    """

    generation: int = 0
    token: int = 0
    measuring: Holder | None = None
    deadline_s: float = 0.0
    waiting: Holder | None = None
    computing: tuple[Holder, ...] = ()

    def with_computing(self, holder: Holder) -> "LockState":
        """Return the book after `holder` started to compute: so nobody measures."""
        others = tuple(other for other in self.computing if _is_alive(other.pid))
        return replace(self, measuring=None, deadline_s=0.0, computing=(*others, holder))

    def without(self, holder: Holder) -> "LockState":
        """Return the book after `holder` left: stopped to wait, to measure, or to compute (once)."""
        computing = list(self.computing)
        if holder in computing:
            # One entry only: a thread that computes inside computing may have two that are equal.
            computing.remove(holder)
        measures = self.measuring == holder
        return replace(
            self,
            measuring=None if measures else self.measuring,
            deadline_s=0.0 if measures else self.deadline_s,
            waiting=None if self.waiting == holder else self.waiting,
            computing=tuple(computing),
        )

    def holders(self) -> str:
        """Say in words who stands in the way."""
        parts = [f"measured on by {self.measuring}"] if self.measuring is not None else []
        alive = [str(holder) for holder in self.computing if _is_alive(holder.pid)]
        if alive:
            parts.append(f"computed on by {', '.join(alive)}")
        if self.waiting is not None and _is_alive(self.waiting.pid):
            parts.append(f"waited for by {self.waiting} to measure")
        return "; ".join(parts) or "held by a process that did not leave its name"


def new_holder(owner: str, *, now: datetime) -> Holder:
    """Return the entry of this process."""
    # ASCII, so that the length in characters bounds the length in bytes.
    printable = "".join(c if c.isascii() and c.isprintable() else "?" for c in owner)
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
        # The names of the many who compute serve messages only: the oldest go.
        state = replace(state, computing=state.computing[1:])
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
        "waiting": entry(state.waiting),
        "computing": [entry(holder) for holder in state.computing],
    }
    return json.dumps(content).encode("ascii") + b"\n"


def _parse(value: Mapping[str, Any]) -> LockState:
    def holder(entry: Mapping[str, Any]) -> Holder:
        return Holder(
            owner=str(entry["owner"]),
            pid=int(entry["pid"]),
            thread=int(entry["thread"]),
            started=int(entry["started"]),
            since_utc=str(entry["since_utc"]),
        )

    return LockState(
        generation=int(value["generation"]),
        token=int(value["token"]),
        measuring=holder(value["measuring"]) if value["measuring"] is not None else None,
        deadline_s=float(value["deadline_s"]),
        waiting=holder(value["waiting"]) if value["waiting"] is not None else None,
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
