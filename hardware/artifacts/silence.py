"""Converters and runtimes print; what they print is kept off the streams of the process, of which one carries JSON."""

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import IO

logger = logging.getLogger(__name__)

# The streams belong to the process: two threads that put them aside at once would put them back in the wrong order.
_STREAMS = threading.RLock()


class Heard:
    """What was printed while it was silent.

    Attributes:
        printed: by Python on standard output.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.printed = io.StringIO()

    def text(self) -> str:
        """All of it so far, C++ first."""
        self._file.seek(0)
        return self._file.read().decode(errors="replace") + self.printed.getvalue()


@contextlib.contextmanager
def silenced() -> Iterator[Heard]:
    """Keep the process silent while the block runs; what it would have printed is logged at the level DEBUG.

    C++ code prints to the file descriptors, so these are put aside, for all threads. Python's `sys.stderr` stays the
    same object: handlers of loggers that are made in the block (importing is enough for some packages) keep it.
    """
    with _STREAMS, contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(prefix="archsmith-"))
        heard = Heard(file)
        stack.callback(_log, heard)
        stack.enter_context(_put_aside(file))
        stack.enter_context(contextlib.redirect_stdout(heard.printed))
        stack.enter_context(_no_basic_configuration())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield heard


def essence(error: Exception) -> str:
    """What a converter says in one line, without the stack of torch's tracing that it adds."""
    return " ".join(str(error).partition("Original traceback")[0].split())


@contextlib.contextmanager
def _put_aside(file: IO[bytes]) -> Iterator[None]:
    _flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        for descriptor in kept:
            os.dup2(file.fileno(), descriptor)
        yield
    finally:
        _flush()
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Without a console there is none.
        if stream is not None:
            stream.flush()


@contextlib.contextmanager
def _no_basic_configuration() -> Iterator[None]:
    """`logging.warning` gives the root logger a handler for good if it has none."""
    root = logging.getLogger()
    handler = logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _log(heard: Heard) -> None:
    if text := heard.text().strip():
        logger.debug("a converter or runtime printed: %s", text)
