"""Connecting to Ray: an embedded instance that leaves nothing behind, or a running cluster."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import ray

from experiments.errors import ClusterError
from experiments.ray.embedded import start_embedded
from experiments.ray.environment import package_directories
from experiments.ray.failures import last_line

_DIAL_SECONDS = 5.0
_UNREACHABLE_HINT = (
    "start a head (ray start --head) and check the address, or leave the address out to use this machine alone"
)
_TOKEN_HINT = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token"  # noqa: S105

# Ray may wait for ever for a cluster that does not answer, so a process that can be killed asks first.
_PROBE = (
    "import logging, sys, ray\n"
    "ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)\n"
    "ray.cluster_resources()\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A connected Ray cluster.

    Attributes:
        address: host:port of its head.
        num_nodes: machines (or instances) that are alive.
        cpus: CPUs of all of them, whoever uses them.
    """

    address: str
    num_nodes: int
    cpus: int


@contextmanager
def connect(address: str | None = None, *, num_cpus: int | None = None, timeout_s: float = 60.0) -> Iterator[Cluster]:
    """Connect this process to Ray for the length of a `with` block.

    An embedded instance ends with the block, and also within seconds after this process was killed. Enter it in a
    thread that lives at least as long: the kernel ends Ray's daemons with the thread that started them. If this process
    is connected already and no address is given, that connection is used and left open.

    Args:
        address: "host:port" of a running cluster, or "auto" on one of its machines; None starts an embedded instance.
        num_cpus: CPUs that an embedded instance gives out; those of the machine if None.
        timeout_s: how long starting or connecting may take.

    Raises:
        ClusterError: nothing answers at the address, an instance does not start, or arguments exclude each other.
    """
    if address is not None and num_cpus is not None:
        raise ClusterError(
            f"num_cpus={num_cpus} was given for the running cluster {address!r}, which has its own",
            hint="leave num_cpus out, or leave the address out to start an embedded instance",
        )
    if ray.is_initialized():
        if address is not None:
            raise ClusterError(
                f"this process is connected to Ray already, so it cannot connect to {address!r}",
                hint="end the other connection first (ray.shutdown()), or leave the address out",
            )
        yield _describe()
        return
    with ExitStack() as stack:
        if address is None:
            start_embedded(stack, num_cpus=num_cpus, timeout_s=timeout_s)
        else:
            _connect_running(stack, address=address, timeout_s=timeout_s)
        yield _describe()


def require_cpus(*, workers: int, threads: int, what: str, threads_key: str = "threads_per_worker") -> None:
    """Make sure that the connected cluster can ever run so many workers at once: Ray itself would wait for ever.

    Args:
        workers: workers that run at the same time.
        threads: CPUs of each; a worker does not span machines.
        what: the recipe's section, for the message.
        threads_key: of that section, what sets `threads`, for the hint.

    Raises:
        ClusterError: it has too few CPUs, or there is no connection.
    """
    if not ray.is_initialized():
        raise ClusterError(f"{what} needs a Ray connection", hint="call it inside `with connect():`")
    slots = sum(int(node["Resources"].get("CPU", 0)) // threads for node in ray.nodes() if node["Alive"])
    if slots < workers:
        raise ClusterError(
            f"{what} wants {workers} workers of {threads} CPUs each, but the {_describe().cpus} CPUs of the Ray "
            f"cluster have room for {slots}",
            hint=f"set {what}.workers to {slots} or less" if slots else f"lower {what}.{threads_key}",
        )


def _describe() -> Cluster:
    alive = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        num_nodes=len(alive),
        cpus=int(sum(node["Resources"].get("CPU", 0) for node in alive)),
    )


def _connect_running(stack: ExitStack, *, address: str, timeout_s: float) -> None:
    if address != "auto":
        _dial(address)
    _probe(address, timeout_s=timeout_s)
    # Ends only this process's job; the cluster runs on.
    stack.callback(ray.shutdown)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Our own code as it is here. Its dependencies have to be installed on the cluster's machines.
            runtime_env={"py_modules": package_directories(), "excludes": ["**/__pycache__"]},
        )
    # Whatever Ray raises here, bare Exception included, means the same.
    except Exception as e:
        raise _unreachable(address, said=str(e)) from e


def _dial(address: str) -> None:
    """Refuse at once what is no address, and what nobody listens on."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ClusterError(f"{address!r} is not the address of a Ray cluster", hint='give "host:port" or "auto"')
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_DIAL_SECONDS).close()
    except (OSError, OverflowError) as e:
        raise _unreachable(address, said=str(e)) from e


def _probe(address: str, *, timeout_s: float) -> None:
    # -P: a module of the current directory must not be taken for Ray.
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROBE, address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # The machine answers already, so a few seconds are enough for Ray's head to do so, too.
        env={**os.environ, "RAY_NUM_REDIS_GET_RETRIES": "5"},
    )
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as e:
        raise _unreachable(address, said=f"no answer within {timeout_s:g} s") from e
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise _unreachable(address, said=errors)


def _unreachable(address: str, *, said: str) -> ClusterError:
    # Ray tells of a wrong token deep inside a traceback whose end says nothing.
    is_locked = "AuthenticationError" in said or "InvalidAuthToken" in said
    reason = "it asks for a token that it was not given" if is_locked else last_line(said)
    return ClusterError(
        f"the Ray cluster at {address} cannot be used: {reason}", hint=_TOKEN_HINT if is_locked else _UNREACHABLE_HINT
    )
