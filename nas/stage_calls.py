"""The calls of a run's stages, those that were killed included.

While a stage works, a small file says for how long and what it occupies, brought up to date every few seconds. A call
that ends leaves a row in the table `stages` and no file; one that is killed leaves the file, which then counts as its
row.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pandas as pd

from hardware.errors import StorageError
from hardware.files import JSON, read_json, write_json
from nas.run import Run, utc_now

LEAST_SECONDS = 1.0
"""What ended within a second could not begin."""

_FILE = "stage_at_work.json"
_EVERY_SECONDS = 5.0


def read_calls(run: Run) -> pd.DataFrame:
    """Rows of the table `stages`, with that of a call that was killed, or works now, as the last one."""
    rows = run.stages_table.read()
    left = _left(run, rows)
    if left is None:
        return rows
    killed = pd.DataFrame([{**left, "joules": float("nan")}], columns=rows.columns)
    return killed if rows.empty else pd.concat([rows, killed.astype(rows.dtypes)], ignore_index=True)


@contextmanager
def at_work(run: Run, row: Mapping[str, JSON]) -> Iterator[Callable[[Mapping[str, JSON]], None]]:
    """Say for the length of a `with` block that a stage works; a call that was killed before gets its row first.

    Args:
        run: that no other process works on.
        row: of the table, without seconds, joules, ended and utc_time.

    Yields:
        What writes the row when the call ends, given seconds, joules and ended; unless it is called there is none. If
        the row cannot be written (StorageError), the call counts like one that was killed.
    """
    left = _left(run, run.stages_table.read())
    if left is not None:
        run.stages_table.append([{**left, "joules": None}])
    path, start, done = run.path / _FILE, time.monotonic(), threading.Event()

    def say() -> None:
        # A full disk must not end the stage's work.
        with suppress(StorageError):
            write_json(path, {**row, "seconds": time.monotonic() - start, "ended": "killed", "utc_time": utc_now()})

    def go_on_saying() -> None:
        while not done.wait(_EVERY_SECONDS):
            say()

    def stop() -> None:
        done.set()
        thread.join()

    is_written = True

    def end(ends: Mapping[str, JSON]) -> None:
        nonlocal is_written
        # Nothing is said after the row has its time, so a kill before the file is gone counts the call once.
        stop()
        is_written = False
        run.stages_table.append([{**row, **ends, "utc_time": utc_now()}])
        is_written = True

    say()
    thread = threading.Thread(target=go_on_saying, name="stage-at-work", daemon=True)
    thread.start()
    try:
        yield end
    finally:
        stop()
        if is_written:
            # The stage's own error must not be hidden by this one.
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _left(run: Run, rows: pd.DataFrame) -> dict[str, Any] | None:
    """What a killed call left; None if there is nothing, or its end was written just before the kill."""
    try:
        left: Any = read_json(run.path / _FILE)
        if left["seconds"] < LEAST_SECONDS:
            return None
        if len(rows) and (rows["utc_time"] >= left["utc_time"]).any():
            return None
    except (StorageError, KeyError, TypeError):
        return None
    return dict(left)
