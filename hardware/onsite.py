"""The part of a measurement that runs on the device's own host: lease, loading, rounds, what else the host did.

Needs numpy and the one runtime, nothing else: the agent (`hardware.agent`) runs it where nothing more is installed.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import Count, CountingSession, DeviceBackend, Provenance, Session
from hardware.clock import Clock, SystemClock
from hardware.energy import energy_reader
from hardware.host import CpuTimes, HostState, look_at_cpu_times, look_at_host
from hardware.lease import Lease, UnitLock
from hardware.protocol import MeasurementProtocol
from hardware.timing import InterleavedTimes, time_interleaved

if TYPE_CHECKING:
    from hardware.device import DeviceSpec

OnProgress = Callable[[int, int], None]

# A lease outlives its last sign of life, one each round, by this much or by ten rounds.
_MIN_TTL_S = 120.0
_TTL_ROUNDS = 10

# The system counts processor time in ticks of 10 ms: of a shorter session it tells nothing.
_LEAST_ELAPSED_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureJob:
    """What a host is asked to measure.

    Attributes:
        spec: the device.
        artifacts: files on that host, by name.
        reference: takes part in every round, so that drift of the machine is seen; may be one of `artifacts`.
        protocol: how long and how often.
        seed: of the order and the input values.
        owner: who measures, for the messages to others who wait.
        timeout_s: how long to wait for the unit; None waits for ever.
    """

    spec: "DeviceSpec"
    artifacts: Mapping[str, Artifact]
    reference: Artifact
    protocol: MeasurementProtocol
    seed: int
    owner: str
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnsiteResult:
    """What a host found.

    Attributes:
        provenance: of the backend.
        times: of measured devices: the networks and the reference; None on others.
        counts: of simulated and estimated devices, by name; empty on measured ones.
        versions: of the runtime there.
        unit_name: the physical unit.
        host: the machine when the session began.
        foreign_cores: processor time of other processes, as a number of cores; None if the system does not tell, or
            the session was too short.
        stolen: share of the time in which the hypervisor took processors away.
        waited_s: for the lease.
        lease_token: of the lease.
    """

    provenance: Provenance
    times: InterleavedTimes | None = None
    counts: Mapping[str, Count] = field(default_factory=dict)
    versions: Mapping[str, str]
    unit_name: str
    host: HostState
    foreign_cores: float | None
    stolen: float
    waited_s: float
    lease_token: int


class DeviceHost(Protocol):
    """Where a device is: runs jobs there."""

    def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
        """Run a job; see `measure_onsite` for what is raised, and `DeviceError` if the host cannot be reached."""


def measure_onsite(
    backend: DeviceBackend,
    job: MeasureJob,
    *,
    on_progress: OnProgress | None = None,
    lock_directory: Path | None = None,
) -> OnsiteResult:
    """Measure on this host, alone on the device's physical unit.

    Args:
        backend: of the device.
        job: what to measure.
        on_progress: called after each round with (rounds done, rounds at most); ends with two equal numbers.
        lock_directory: where the unit's lock files lie; the host's common place if None.

    Raises:
        DeviceError: the unit is in use for longer than the job allows, or the lease was lost: nothing counts then.
        MeasurementError: a network does not load, does not fit the device or fails; the message names it.
        StorageError: an artifact's file is missing or another one.
    """
    unit = job.spec.physical_unit()
    lock = UnitLock(unit, directory=lock_directory)
    asked_s = time.monotonic()
    with lock.measuring(owner=job.owner, ttl_s=_first_ttl_s(job.protocol), timeout_s=job.timeout_s) as lease:
        waited_s = time.monotonic() - asked_s
        host, before, started_s = look_at_host(), look_at_cpu_times(), time.monotonic()
        if backend.provenance == "measured":
            times, counts = _time(backend, job, lease=lease, on_progress=on_progress), {}
        else:
            times, counts = None, _count(backend, job, lease=lease, on_progress=on_progress)
        foreign_cores, stolen = _company(before, look_at_cpu_times(), elapsed_s=time.monotonic() - started_s)
        lease.check()
        return OnsiteResult(
            provenance=backend.provenance,
            times=times,
            counts=counts,
            versions=backend.versions(),
            unit_name=unit,
            host=host,
            foreign_cores=foreign_cores,
            stolen=stolen,
            waited_s=waited_s,
            lease_token=lease.token,
        )


def _time(backend: DeviceBackend, job: MeasureJob, *, lease: Lease, on_progress: OnProgress | None) -> InterleavedTimes:
    clock: Clock = SystemClock()
    last_s = started_s = clock.monotonic_s()
    num_done = 0

    def after_round(num_rounds: int) -> None:
        nonlocal last_s, num_done
        now_s = clock.monotonic_s()
        lease.renew(ttl_s=max(_MIN_TTL_S, _TTL_ROUNDS * (now_s - last_s)))
        last_s, num_done = now_s, num_rounds
        if on_progress is not None:
            on_progress(num_rounds, _most_rounds(job.protocol, num_rounds=num_rounds, elapsed_s=now_s - started_s))

    rng = np.random.default_rng(job.seed)
    with _loaded(backend, job, rng=rng) as (runners, reference):
        # The first round has no round before it to judge by.
        lease.renew(ttl_s=_first_ttl_s(job.protocol))
        started_s = clock.monotonic_s()
        times = time_interleaved(
            runners,
            reference=reference,
            protocol=job.protocol,
            rng=rng,
            clock=clock,
            on_round=after_round,
            energy=energy_reader(job.spec.backend),
        )
    if on_progress is not None:
        on_progress(num_done, num_done)
    return times


def now_and_then(tell: OnProgress, *, seconds: float) -> OnProgress:
    """Pass on the first and the last progress of a job, and what lies between at most every so many seconds."""
    last_s = -math.inf

    def on_progress(done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if done == total or now_s - last_s >= seconds:
            last_s = now_s
            tell(done, total)

    return on_progress


def _most_rounds(protocol: MeasurementProtocol, *, num_rounds: int, elapsed_s: float) -> int:
    """Rounds of a session that ends at a cap, of rounds or of seconds, if the rest is as fast as the first ones."""
    affordable = protocol.max_rounds if elapsed_s <= 0 else math.ceil(num_rounds * protocol.max_seconds / elapsed_s)
    return max(num_rounds, protocol.min_rounds, min(protocol.max_rounds, affordable))


def _count(
    backend: DeviceBackend, job: MeasureJob, *, lease: Lease, on_progress: OnProgress | None
) -> dict[str, Count]:
    counts = {}
    for number, (name, artifact) in enumerate(job.artifacts.items(), start=1):
        session = cast(CountingSession, backend.load(artifact, spec=job.spec))
        try:
            counts[name] = session.count()
        finally:
            session.close()
        lease.renew(ttl_s=_first_ttl_s(job.protocol))
        if on_progress is not None:
            on_progress(number, len(job.artifacts))
    return counts


@contextmanager
def _loaded(
    backend: DeviceBackend, job: MeasureJob, *, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Callable[[], None]], str]]:
    """Load everything; yield what to run by name, and the name of the reference."""
    artifacts, reference = job.artifacts, job.reference
    reference_name = next((name for name, other in artifacts.items() if other.sha256 == reference.sha256), "reference")
    while reference_name in artifacts and artifacts[reference_name].sha256 != reference.sha256:
        reference_name = f"the {reference_name}"
    with ExitStack() as stack:
        runners: dict[str, Callable[[], None]] = {}
        for name, artifact in {**artifacts, reference_name: reference}.items():
            session: Session = backend.load(artifact, spec=job.spec)
            stack.callback(session.close)
            session.set_input(_random_input(artifact, rng=rng))
            runners[name] = session.run
        yield runners, reference_name


def _random_input(artifact: Artifact, *, rng: np.random.Generator) -> NDArray[Any]:
    dtype = np.dtype(artifact.input_dtype)
    if np.issubdtype(dtype, np.integer):
        # Positions in a table of any size, if that is what they are.
        return rng.integers(0, 2, size=artifact.input_shape).astype(dtype)
    return rng.standard_normal(artifact.input_shape).astype(dtype)


def _first_ttl_s(protocol: MeasurementProtocol) -> float:
    return max(5 * _MIN_TTL_S, 2 * min(protocol.max_seconds, 3600.0))


def _company(before: CpuTimes, after: CpuTimes, *, elapsed_s: float) -> tuple[float | None, float]:
    """Cores that other processes used, and the share of time that the hypervisor took."""
    stolen = max(0.0, after.stolen_s - before.stolen_s) / elapsed_s
    if before.busy_s is None or after.busy_s is None or elapsed_s < _LEAST_ELAPSED_S:
        return None, stolen
    foreign_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return max(0.0, foreign_s) / elapsed_s, stolen
