"""Measuring networks on a device: lease, load, interleaved rounds, fencing, result."""

import logging
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware.artifacts.artifact import Artifact
from hardware.clock import Clock, SystemClock
from hardware.device import Device
from hardware.errors import MeasurementError
from hardware.host import HostState, look_at_host
from hardware.lease import Lease, UnitLock
from hardware.measurement import CostMeasurement
from hardware.protocol import MeasurementProtocol, get_protocol
from hardware.timing import InterleavedTimes, RunnerTimes, time_interleaved

if TYPE_CHECKING:
    import torch

    from hardware.backends.backend import Session

_LOG = logging.getLogger(__name__)

MAX_DRIFT = 0.05
# A lease outlives its last sign of life, one each round, by this much or by ten rounds.
_MIN_TTL_S = 120.0
_TTL_ROUNDS = 10


def measure(
    device: Device,
    network: "torch.nn.Module | Artifact",
    *,
    protocol: str | MeasurementProtocol = "standard",
    example: "torch.Tensor | None" = None,
    rng: np.random.Generator | None = None,
    owner: str = "",
    lock_directory: Path | None = None,
    timeout_s: float | None = None,
) -> CostMeasurement:
    """Measure one network, alone on the device's physical unit.

    Args:
        device: from `get_device`.
        network: an artifact, or a torch module, which is built into one first.
        protocol: a name, or settings of your own.
        example: an input for a module, its batch that of the device; not needed for an artifact.
        rng: for the input values and the bootstrap; a fixed seed if None.
        owner: who measures, for the messages to others who wait.
        lock_directory: where the unit's lock files lie; the host's common place if None.
        timeout_s: how long to wait for the unit; None waits for ever.

    Raises:
        DeviceError, MeasurementError, StorageError: as `measure_many`; also for a module that cannot be built, and
            for one without an example.
    """
    with ExitStack() as stack:
        if isinstance(network, Artifact):
            artifact = network
        else:
            if example is None:
                raise MeasurementError(
                    f"{type(network).__name__} needs an example input to be built for {device.spec.device_id}",
                    hint="pass example=torch.zeros(batch, channels, height, width)",
                )
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archsmith-")))
            lock = UnitLock(device.spec.physical_unit(), directory=lock_directory)
            # Building computes, so it must not disturb somebody else's measurement.
            with lock.computing(owner=owner or f"build for {device.spec.device_id}", timeout_s=timeout_s):
                path = directory / f"network.{device.backend.artifact_format}"
                artifact = device.backend.build(network, example=example, path=path)
        found = measure_many(
            device,
            {"network": artifact},
            reference=artifact,
            protocol=protocol,
            rng=np.random.default_rng(0) if rng is None else rng,
            owner=owner,
            lock_directory=lock_directory,
            timeout_s=timeout_s,
        )
    return found["network"]


def measure_many(
    device: Device,
    artifacts: Mapping[str, Artifact],
    *,
    reference: Artifact,
    protocol: str | MeasurementProtocol = "standard",
    rng: np.random.Generator,
    owner: str = "",
    on_progress: Callable[[int, int], None] | None = None,
    lock_directory: Path | None = None,
    timeout_s: float | None = None,
) -> dict[str, CostMeasurement]:
    """Measure networks together, in interleaved rounds, alone on the device's physical unit.

    All networks are loaded at the same time. If the reference drifts by more than 5 % the whole session is measured
    once more; if it drifts again, the numbers are returned marked as suspect.

    Args:
        device: from `get_device`.
        artifacts: by any name, for example the arch id.
        reference: takes part in every round, so that drift of the machine is seen; may be one of `artifacts`.
        protocol: a name, or settings of your own.
        rng: for the order, the input values and the bootstrap.
        owner: who measures, for the messages to others who wait.
        on_progress: called after each round with (rounds done, rounds at most); ends with two equal numbers.
        lock_directory: where the unit's lock files lie; the host's common place if None.
        timeout_s: how long to wait for the unit; None waits for ever.

    Returns:
        One measurement a name.

    Raises:
        DeviceError: the unit is in use for longer than `timeout_s`, or the lease was lost: nothing counts then.
        MeasurementError: a network does not load, does not fit the device or fails; the message names it.
        StorageError: an artifact's file is missing or another one.
    """
    if not artifacts:
        return {}
    settings = get_protocol(protocol) if isinstance(protocol, str) else protocol
    lock = UnitLock(device.spec.physical_unit(), directory=lock_directory)
    owner = owner or f"measure on {device.spec.device_id}"
    with lock.measuring(owner=owner, ttl_s=_first_ttl_s(settings), timeout_s=timeout_s) as lease:
        host = look_at_host()
        with _loaded(device, artifacts, reference=reference, rng=rng) as (runners, reference_name):
            time_all = partial(
                _time,
                runners,
                reference=reference_name,
                protocol=settings,
                rng=rng,
                lease=lease,
                on_progress=on_progress,
            )
            times = time_all()
            if abs(times.drift) > MAX_DRIFT:
                _LOG.warning("%s drifted by %.1f %%, measuring once more", device.spec.device_id, 100 * times.drift)
                times = time_all()
        lease.check()
        session_id = secrets.token_hex(6)
        return {
            name: _to_measurement(
                times.times[name],
                device=device,
                artifact=artifact,
                drift=times.drift,
                protocol=settings,
                host=host,
                lease_token=lease.token,
                session_id=session_id,
            )
            for name, artifact in artifacts.items()
        }


@contextmanager
def _loaded(
    device: Device, artifacts: Mapping[str, Artifact], *, reference: Artifact, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Callable[[], None]], str]]:
    """Load everything; yield what to run by name, and the name of the reference."""
    reference_name = next((name for name, other in artifacts.items() if other.sha256 == reference.sha256), "reference")
    while reference_name in artifacts and artifacts[reference_name].sha256 != reference.sha256:
        reference_name = f"the {reference_name}"
    with ExitStack() as stack:
        runners: dict[str, Callable[[], None]] = {}
        for name, artifact in {**artifacts, reference_name: reference}.items():
            session: Session = device.backend.load(artifact, spec=device.spec)
            stack.callback(session.close)
            session.set_input(_random_input(artifact, rng=rng))
            runners[name] = session.run
        yield runners, reference_name


def _time(
    runners: Mapping[str, Callable[[], None]],
    *,
    reference: str,
    protocol: MeasurementProtocol,
    rng: np.random.Generator,
    lease: Lease,
    on_progress: Callable[[int, int], None] | None,
) -> InterleavedTimes:
    clock: Clock = SystemClock()
    last_s = clock.monotonic_s()
    num_done = 0

    def after_round(num_rounds: int) -> None:
        nonlocal last_s, num_done
        now_s = clock.monotonic_s()
        lease.renew(ttl_s=max(_MIN_TTL_S, _TTL_ROUNDS * (now_s - last_s)))
        last_s, num_done = now_s, num_rounds
        if on_progress is not None:
            on_progress(num_rounds, protocol.max_rounds)

    # The first round has no round before it to judge by.
    lease.renew(ttl_s=_first_ttl_s(protocol))
    times = time_interleaved(
        runners, reference=reference, protocol=protocol, rng=rng, clock=clock, on_round=after_round
    )
    if on_progress is not None:
        on_progress(num_done, num_done)
    return times


def _first_ttl_s(protocol: MeasurementProtocol) -> float:
    return max(5 * _MIN_TTL_S, 2 * protocol.max_seconds)


def _to_measurement(
    times: RunnerTimes,
    *,
    device: Device,
    artifact: Artifact,
    drift: float,
    protocol: MeasurementProtocol,
    host: HostState,
    lease_token: int,
    session_id: str,
) -> CostMeasurement:
    raw_ms = times.raw_ns / 1e6
    suspect = abs(drift) > MAX_DRIFT
    return CostMeasurement(
        measurement_id=secrets.token_hex(6),
        session_id=session_id,
        device_id=device.spec.device_id,
        provenance="measured",
        p50=float(np.median(times.round_medians_ns)) / 1e6,
        p90=float(np.quantile(raw_ms, 0.9)),
        p99=float(np.quantile(raw_ms, 0.99)),
        low=times.low_ns / 1e6,
        high=times.high_ns / 1e6,
        level=protocol.level,
        num_rounds=raw_ms.shape[0],
        runs_per_round=raw_ms.shape[1],
        warmup_runs=protocol.warmup_runs,
        converged=times.converged,
        drift=drift,
        suspect=suspect,
        suspect_reason=f"the reference network drifted by {100 * drift:+.1f} % in two sessions" if suspect else "",
        raw_ms=tuple(tuple(runs) for runs in raw_ms.tolist()),
        artifact_sha256=artifact.sha256,
        protocol=protocol.name,
        threads=device.spec.threads,
        batch=device.spec.batch,
        precision=device.spec.precision,
        versions=device.backend.versions(),
        cpu_model=host.cpu_model,
        governor=host.governor,
        load_average=host.load_average,
        involuntary_switches=times.involuntary_switches,
        lease_token=lease_token,
        utc_time=SystemClock().now_utc(),
    )


def _random_input(
    artifact: Artifact, *, rng: np.random.Generator
) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    dtype = np.dtype(artifact.input_dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 128, size=artifact.input_shape).astype(dtype)
    return rng.standard_normal(artifact.input_shape).astype(dtype)
