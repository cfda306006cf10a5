"""An embedded Ray instance: its daemons are children of this process and never outlive it by more than seconds."""

import logging
import subprocess
import sys
import tempfile
import threading
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

import ray

from experiments.errors import ClusterError
from experiments.ray import guard
from experiments.ray.environment import THREAD_VARIABLES, ensure_token, temporary_environment
from experiments.ray.failures import last_line

_LOGGER = logging.getLogger(__name__)

# Architectures, scores and settings pass through it; data and weights are read from the run directory.
_OBJECT_STORE_BYTES = 128 * 2**20
_SHORT_PATH = 40
_GUARD_SECONDS = 20.0

# What Ray's processes inherit.
_RAY_ENVIRONMENT: dict[str, str | None] = {
    # Unset, Ray sets it to the CPUs that a worker has; set, it would keep what suits this process.
    **dict.fromkeys(THREAD_VARIABLES),
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers are started with their own thread settings, so those that Ray starts in advance would never be used.
    "RAY_prestart_worker_first_driver": "0",
    # One process of a hundred megabytes less: this machine is not taken away with a warning.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Process titles otherwise overwrite the environment in which the guard looks for its mark.
    "SPT_NOENV": "1",
}


def start_embedded(stack: ExitStack, *, num_cpus: int | None, timeout_s: float) -> None:
    """Start an instance and connect to it; closing `stack` ends it.

    Args:
        stack: takes what has to be ended.
        num_cpus: CPUs that the instance gives out; those of the machine if None.
        timeout_s: how long it may take.

    Raises:
        ClusterError: it does not come up, or there is no place for its files.
    """
    ensure_token()
    directory = _make_directory()
    mark = uuid.uuid4().hex
    # Isolated (-I) and without site-packages (-S): a few megabytes. A session of its own: Ctrl-C must not end it.
    sweeper = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, mark, str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    stack.callback(_sweep, sweeper)
    stack.callback(ray.shutdown, wait_for_processes=True)
    up, timed_out = threading.Event(), threading.Event()

    def give_up() -> None:
        if up.wait(timeout_s):
            return
        timed_out.set()
        _LOGGER.error("the embedded Ray instance is not up within %g s and is ended", timeout_s)
        while not up.is_set():
            guard.sweep(mark, directory=directory)

    # Ray can wait for ever for a daemon that does not come up. Without its processes it gives up; in the one case where
    # it does not raise then, it ends this process after a minute.
    threading.Thread(target=give_up, name="ray-start", daemon=True).start()
    try:
        with temporary_environment({**_RAY_ENVIRONMENT, guard.MARK: mark}):
            ray.init(
                # None instead would connect to whatever instance was started on this machine before.
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(directory),
            )
    # Whatever Ray raises here, bare Exception included, means the same.
    except Exception as e:
        reason = f"it was not up within {timeout_s:g} s" if timed_out.is_set() else last_line(str(e))
        raise ClusterError(
            f"the embedded Ray instance did not start: {reason}",
            hint="free memory and space in the directory for temporary files, then run the same command again; "
            "`nas doctor` says what of this machine works",
        ) from e
    finally:
        up.set()


def _make_directory() -> Path:
    """A new directory for sockets and logs: a socket's path has at most 107 bytes, and Ray needs 60 of them."""
    place = tempfile.gettempdir()
    if len(place) > _SHORT_PATH:
        place = "/tmp"  # noqa: S108  # mkdtemp makes a directory of this user only
    try:
        return Path(tempfile.mkdtemp(prefix="nas-ray-", dir=place))
    except OSError as e:
        raise ClusterError(
            f"no directory for Ray's sockets and logs can be made in {place}: {e.strerror}",
            hint="set TMPDIR to a directory that you may write to",
        ) from e


def _sweep(sweeper: "subprocess.Popen[bytes]") -> None:
    """Let the guard kill what is left of the instance and remove its directory; cheap when called again."""
    assert sweeper.stdin is not None
    sweeper.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        sweeper.wait(_GUARD_SECONDS)
