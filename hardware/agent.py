"""The agent: measures on a host that has Python, numpy and one runtime, and speaks JSON lines on its standard streams.

    python -m hardware.agent [--lock-directory DIR]

It says hello first. Every request is one line with a number and what to do; it is answered by one line with that number
and a result or an error, and by lines with events before that. It ends, and with it every lease that it holds, when its
input is closed, when its parent dies, or when a call takes longer than its caller said that it would wait.
"""

import argparse
import base64
import binascii
import ctypes
import fcntl
import hashlib
import os
import platform
import queue
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hardware.device import find_backend, require_usable
from hardware.errors import StorageError, UntrustedError
from hardware.files import JSON
from hardware.lease import UnitLock
from hardware.onsite import MeasureJob, measure_onsite, now_and_then
from hardware.selftest import self_test
from hardware.wire import (
    PACKAGE_VERSION,
    WIRE_VERSION,
    decode_line,
    encode_line,
    error_to_json,
    job_from_json,
    result_to_json,
    spec_from_json,
)

# Every line costs the device a moment of computing, in the middle of what is measured.
_SECONDS_BETWEEN_LINES = 1.0
_SECONDS_BETWEEN_WAITING_LINES = 2.0
# After the input was closed: for a clean end, before the process ends itself.
_GRACE_S = 1.0
_MAX_REQUEST_BYTES = 64 * 2**20
_PR_SET_PDEATHSIG = 1
_FOLDER_PREFIX = "archsmith-agent-"
# Younger folders may not be locked yet.
_FOLDER_AGE_S = 60.0


class Channel:
    """The two ends of the connection, out of reach for whatever runtimes print and read."""

    def __init__(self) -> None:
        """Take over standard input and output: from here on they are empty, and standard error."""
        self._input, self._output = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
        self.closed = threading.Event()

    def send(self, message: Mapping[str, JSON]) -> None:
        """Write a line; raises `BrokenPipeError` when nobody listens any more."""
        view = memoryview(encode_line(message))
        with self._lock:
            while view:
                view = view[os.write(self._output, view) :]

    def requests(self) -> Iterator[bytes]:
        """Yield the lines of the requests until the input is closed."""
        threading.Thread(target=self._read, daemon=True).start()
        while (line := self._lines.get()) is not None:
            yield line

    def _read(self) -> None:
        buffer = bytearray()
        while len(buffer) <= _MAX_REQUEST_BYTES and (data := os.read(self._input, 2**20)):
            buffer += data
            if b"\n" in data:
                *lines, rest = bytes(buffer).split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    self._lines.put(line)
        self.closed.set()
        self._lines.put(None)


class Agent:
    """Does what requests say, one after the other."""

    def __init__(self, channel: Channel, *, directory: Path, lock_directory: Path | None) -> None:
        """Serve a channel; files are kept in `directory`."""
        self._channel, self._directory, self._lock_directory = channel, directory, lock_directory
        self._files: dict[str, Path] = {}

    def serve(self) -> None:
        """Say hello, and answer requests until the input is closed or somebody says bye."""
        self._channel.send(
            {
                "hello": "archsmith-agent",
                "wire": WIRE_VERSION,
                "version": PACKAGE_VERSION,
                "python": platform.python_version(),
                "pid": os.getpid(),
            }
        )
        for line in self._channel.requests():
            request: Mapping[str, Any] = {}
            try:
                request = decode_line(line)
                reply = {"number": request.get("number"), "result": self._answer(request)}
            except BrokenPipeError:
                raise
            # Whatever went wrong is for the caller to see, and the agent goes on.
            except Exception as e:  # noqa: BLE001
                traceback.print_exc()
                reply = {"number": request.get("number"), "error": error_to_json(e)}
            self._channel.send(reply)
            if request.get("do") == "bye":
                return

    def _answer(self, request: Mapping[str, Any]) -> dict[str, JSON]:
        do = request.get("do")
        if do == "put":
            return self._put(request)
        if do == "measure":
            return self._measure(request)
        if do == "check":
            spec = spec_from_json(request.get("spec"))
            items = self_test(find_backend(spec.backend), spec=spec, lock_directory=self._lock_directory)
            return {"items": [asdict(item) for item in items]}
        if do == "bye":
            return {}
        raise UntrustedError(
            f"the agent cannot do {do!r}, only put, measure, check and bye",
            hint="install the same version of archsmith on both sides",
        )

    def _put(self, request: Mapping[str, Any]) -> dict[str, JSON]:
        """Append a piece to a file; with the last one the whole file is checked."""
        sha256, name, last = str(request.get("sha256")), str(request.get("name")), request.get("last") is True
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise UntrustedError(f"{sha256!r} is no SHA-256", hint="send 64 hex digits")
        path = self._directory / f"{sha256[:12]}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)[-80:]}"
        again = "send the file again; if that does not help, check the connection and the memory of the device"
        try:
            content = base64.b64decode(str(request.get("base64")), validate=True)
            with path.open("wb" if request.get("first") is True else "ab") as stream:
                stream.write(content)
            if not last:
                return {}
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except binascii.Error as e:
            raise StorageError(f"{name} was changed in transfer: {e}", hint=again) from e
        except OSError as e:
            raise StorageError(
                f"cannot write {path} on the device: {e.strerror}", hint="free some disk space on the device"
            ) from e
        if digest != sha256:
            path.unlink()
            raise StorageError(
                f"{name} was changed in transfer: its SHA-256 is {digest[:12]}..., sent was {sha256[:12]}...",
                hint=again,
            )
        self._files[sha256] = path
        return {"sha256": digest}

    def _locate(self, sha256: str) -> Path:
        if sha256 not in self._files:
            raise StorageError(f"the file {sha256[:12]}... was not sent to the device", hint="put it there first")
        return self._files[sha256]

    def _measure(self, request: Mapping[str, Any]) -> dict[str, JSON]:
        job = job_from_json(request.get("job"), locate=self._locate)
        patience_s, number = float(request.get("patience_s") or 600.0), request.get("number")
        backend = find_backend(job.spec.backend)
        require_usable(backend, spec=job.spec)
        started = threading.Event()

        def send(done: int, total: int) -> None:
            self._channel.send({"number": number, "event": "progress", "done": done, "total": total})

        told = now_and_then(send, seconds=_SECONDS_BETWEEN_LINES)

        def on_progress(done: int, total: int) -> None:
            started.set()
            _end_in(patience_s)
            told(done, total)

        with self._telling_that_we_wait(job, number=number, started=started, patience_s=patience_s):
            found = measure_onsite(backend, job, on_progress=on_progress, lock_directory=self._lock_directory)
        return {
            "onsite": result_to_json(found),
            "sha256": {name: artifact.sha256 for name, artifact in job.artifacts.items()},
        }

    @contextmanager
    def _telling_that_we_wait(
        self, job: MeasureJob, *, number: JSON, started: threading.Event, patience_s: float
    ) -> Iterator[None]:
        """Say now and then that the unit is in use; nothing more is said from the moment on that it is ours."""
        lock = UnitLock(job.spec.physical_unit(), directory=self._lock_directory)

        def tell() -> None:
            while not started.wait(_SECONDS_BETWEEN_WAITING_LINES):
                status = lock.status()
                if status.measuring is not None and status.measuring.pid == os.getpid():
                    return
                _end_in(patience_s)
                holder = status.measuring or next(iter(status.computing), None)
                self._channel.send({"number": number, "event": "waiting", "holder": str(holder or "")})

        _end_in(patience_s)
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            started.set()
            teller.join()
            _end_in(0)


def main(arguments: list[str] | None = None) -> int:
    """Serve standard input and output."""
    parser = argparse.ArgumentParser(prog="python -m hardware.agent", description="Measures on this host.")
    parser.add_argument("--lock-directory", type=Path, help="where lock files lie; by default the host's common place")
    options = parser.parse_args(arguments)
    _end_with_parent()
    # The system's own handler ends the process even when a runtime hangs and never comes back to Python.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    channel = Channel()
    with _own_folder() as folder:
        threading.Thread(target=_end_after_input, args=(channel.closed, folder), daemon=True).start()
        # Nobody listens any more: that is an end like any other, and the lease is given back already.
        with suppress(BrokenPipeError):
            Agent(channel, directory=folder, lock_directory=options.lock_directory).serve()
    return 0


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Make a folder for the files of this connection; those of agents that were killed are removed."""
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as folder:
        # Locked as long as this process lives; what it runs does not inherit it.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        for other in Path(folder).parent.glob(f"{_FOLDER_PREFIX}*"):
            # Others may be removing it too, or it belongs to another user.
            with suppress(OSError):
                if time.time() - other.lstat().st_mtime > _FOLDER_AGE_S:
                    _remove_if_left(other)
        try:
            yield Path(folder)
        finally:
            os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _end_after_input(closed: threading.Event, folder: Path) -> None:
    """End the process when nobody is there any more, whatever it does; the system frees its locks."""
    closed.wait()
    time.sleep(_GRACE_S)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _end_in(seconds: float) -> None:
    """End the process after so many seconds unless this is called again; 0 calls it off."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _end_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, even if it is stopped; elsewhere the closed input must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


if __name__ == "__main__":
    sys.exit(main())
