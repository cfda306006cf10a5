"""The sweeper of an embedded Ray instance: a program of its own that outlives its driver by seconds.

Ray ties its daemons to the driver by a kernel signal and its workers to the daemons, but two agents are tied to nothing
that a SIGKILL of the driver reaches: they stayed for a minute (Ray 2.60). Workers that are in the middle of a
computation may stay, too. So the driver starts this program first, keeps the write end of its standard input open, and
never writes: end of file means that the driver has ended, however it did. Then every process that carries the
instance's mark in its environment is killed, and the instance's directory is removed.

Run as `python -I -S guard.py MARK DIRECTORY`; only the standard library, so that it costs a few megabytes.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "ARCHSMITH_RAY_INSTANCE"

_PAUSE_S = 0.1
# A dying daemon can still start a process, so one empty look is not enough.
_EMPTY_LOOKS = 3
_MOST_LOOKS = 100


def marked_processes(mark: str, *, proc: Path = Path("/proc")) -> list[int]:
    """Ids of all living processes of this user that were started with the mark in their environment.

    Args:
        mark: value of the environment variable `MARK`.
        proc: the process file system.
    """
    wanted = f"{MARK}={mark}".encode()
    found: list[int] = []
    # Only Linux has one; elsewhere Ray brings a guard of its own.
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # A process may end while it is looked at, and other users' processes are none of our business.
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def sweep(mark: str, *, directory: Path) -> None:
    """Kill every marked process, then remove `directory`.

    Args:
        mark: the instance's mark.
        directory: the instance's directory.
    """
    empty_looks = 0
    for _ in range(_MOST_LOOKS):
        found = marked_processes(mark)
        empty_looks = 0 if found else empty_looks + 1
        if empty_looks == _EMPTY_LOOKS:
            break
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait for the end of the driver, then sweep."""
    mark, directory = sys.argv[1:]
    sys.stdin.buffer.read()
    sweep(mark, directory=Path(directory))


if __name__ == "__main__":
    main()
