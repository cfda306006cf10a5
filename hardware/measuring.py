"""Measuring networks on a device: the session on the device's host, and the records that are made of it."""

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import Count
from hardware.clock import SystemClock
from hardware.device import Device
from hardware.errors import MeasurementError
from hardware.judging import CROWDED_CORES, MAX_SLOWDOWN, OUTLIER_RULE, Judged
from hardware.lease import UnitLock
from hardware.measurement import CostMeasurement
from hardware.onsite import MeasureJob, OnsiteResult, measure_onsite
from hardware.protocol import MeasurementProtocol, get_protocol
from hardware.reference import build_reference
from hardware.timing import InterleavedTimes, RunnerTimes

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)


def measure(
    device: Device,
    network: "torch.nn.Module | Artifact",
    *,
    protocol: str | MeasurementProtocol = "standard",
    example: "torch.Tensor | None" = None,
    calibration: "torch.Tensor | None" = None,
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
        calibration: real inputs, for a module on an int8 device; see `DeviceBackend.build`.
        rng: for the input values and the bootstrap; a fixed seed if None.
        owner: who measures, for the messages to others who wait.
        lock_directory: where the unit's lock files lie; the host's common place if None.
        timeout_s: how long to wait for the unit; None waits for ever.

    Raises:
        DeviceError, MeasurementError, StorageError: as `measure_many`; also for a module that cannot be built, and
            for one without an example.
    """
    settings = get_protocol(protocol) if isinstance(protocol, str) else protocol
    lock = UnitLock(device.spec.physical_unit(), directory=lock_directory)
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        # Building computes, so it must not disturb somebody else's measurement.
        with lock.computing(owner=owner or f"build for {device.spec.device_id}", timeout_s=timeout_s):
            if isinstance(network, Artifact):
                artifact = network
            else:
                if example is None:
                    raise MeasurementError(
                        f"{type(network).__name__} needs an example input to be built for {device.spec.device_id}",
                        hint="pass example=torch.zeros(batch, channels, height, width)",
                    )
                path = Path(folder) / f"network.{device.backend.artifact_format}"
                artifact = device.backend.build(
                    network, example=example, path=path, precision=device.spec.precision, calibration=calibration
                )
            reference = reference_beside(device, artifact, folder=Path(folder))
        found = measure_many(
            device,
            {"network": artifact},
            reference=reference,
            protocol=settings,
            rng=np.random.default_rng(0) if rng is None else rng,
            owner=owner,
            lock_directory=lock_directory,
            timeout_s=timeout_s,
        )
    return found["network"]


def reference_beside(device: Device, artifact: Artifact, *, folder: Path) -> Artifact:
    """The reference for a network that is measured alone; devices that count need none, so it is the network there.

    Args:
        device: where it runs.
        artifact: what is measured.
        folder: where the reference's file goes.

    Raises:
        MeasurementError, StorageError: see `build_reference`.
    """
    return build_reference(device, folder=folder) if device.backend.provenance == "measured" else artifact


def measure_many(
    device: Device,
    artifacts: Mapping[str, Artifact],
    *,
    reference: Artifact,
    protocol: str | MeasurementProtocol = "standard",
    rng: np.random.Generator,
    owner: str = "",
    together: bool = True,
    reference_ms: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_session: Callable[[float], None] | None = None,
    lock_directory: Path | None = None,
    timeout_s: float | None = None,
) -> dict[str, CostMeasurement]:
    """Measure networks together, in interleaved rounds, alone on the device's physical unit.

    All networks are loaded at the same time. When the reference shows that the host drifted by more than 5 %, values
    are divided by its slowdown beside them and marked as corrected. What fails its own checks after that is measured
    once more; if it fails again, it is returned marked as suspect.

    Args:
        device: from `get_device`.
        artifacts: by any name, for example the arch id.
        reference: takes part in every round, so that drift of the machine is seen; may be one of `artifacts`.
        protocol: a name, or settings of your own.
        rng: for the order, the input values and the bootstrap.
        owner: who measures, for the messages to others who wait.
        together: whether all networks take part when some are measured again, so that one session has them all.
            Otherwise the second session's values are brought to the host's speed in the first.
        reference_ms: what the same reference took in an earlier session that this one is to be compared with, its
            `CostMeasurement.comparable_reference_ms`: values are divided by the host's slowdown since then. None: they
            are those of the host's speed now.
        on_progress: called after each round with (rounds done, rounds at most); ends with two equal numbers.
        on_session: called after each session with the seconds that the unit was taken for it, waiting left out.
        lock_directory: where the unit's lock files lie; the host's common place if None.
        timeout_s: how long to wait for the unit; None waits for ever.

    Returns:
        One measurement a name.

    Raises:
        DeviceError: the unit is in use for longer than `timeout_s`, or the lease was lost: nothing counts then; or the
            device's host cannot be reached.
        MeasurementError: a network does not load, does not fit the device or fails; the message names it.
        StorageError: an artifact's file is missing or another one.
    """
    if not artifacts:
        return {}
    settings = get_protocol(protocol) if isinstance(protocol, str) else protocol

    def session(chosen: Mapping[str, Artifact], *, reference_ms: float | None) -> dict[str, CostMeasurement]:
        job = MeasureJob(
            spec=device.spec,
            artifacts=chosen,
            reference=reference,
            protocol=settings,
            seed=int(rng.integers(2**62)),
            owner=owner or f"measure on {device.spec.device_id}",
            timeout_s=timeout_s,
        )
        began_s = time.perf_counter()
        if device.host is None:
            found = measure_onsite(device.backend, job, on_progress=on_progress, lock_directory=lock_directory)
        else:
            found = device.host.measure(job, on_progress=on_progress)
        if on_session is not None:
            on_session(time.perf_counter() - began_s - found.waited_s)
        return to_measurements(found, job=job, rng=rng, reference_ms=reference_ms)

    measurements = session(artifacts, reference_ms=reference_ms)
    suspects = [name for name, measurement in measurements.items() if measurement.suspect]
    if suspects:
        first = measurements[suspects[0]]
        _LOG.warning(
            "%d of %d measurements on %s are suspect (%s), measuring once more",
            len(suspects),
            len(artifacts),
            device.spec.device_id,
            first.suspect_reason,
        )
        if together:
            measurements = session(artifacts, reference_ms=reference_ms)
        else:
            again = {name: artifacts[name] for name in suspects}
            measurements |= session(again, reference_ms=first.comparable_reference_ms)
    return measurements


def to_measurements(
    found: OnsiteResult, *, job: MeasureJob, rng: np.random.Generator, reference_ms: float | None = None
) -> dict[str, CostMeasurement]:
    """Make the records of a session, wherever it ran.

    Args:
        found: by the device's host.
        job: what it was asked.
        rng: draws the bootstrap samples.
        reference_ms: see `measure_many`.
    """
    session_id, times = secrets.token_hex(6), found.times
    if times is None:
        numbers = {name: _numbers_of_count(found.counts[name]) for name in job.artifacts}
    else:
        judged = times.judged(protocol=job.protocol, rng=rng)
        numbers = {
            name: _numbers_of_times(times, name, judged[name], earlier_reference_ms=reference_ms)
            for name in job.artifacts
        }
    drift = 0.0 if times is None else times.drift
    return {
        name: _record(
            numbers[name],
            found=found,
            job=job,
            artifact=artifact,
            session_id=session_id,
            drift=drift,
        )
        for name, artifact in job.artifacts.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """What the records of timed and of counted networks differ in; `CostMeasurement` explains the names."""

    quantity: str = "latency"
    unit: str = "ms"
    p50: float
    p90: float
    p99: float
    low: float
    high: float
    also: Mapping[str, float] = field(default_factory=dict)
    times: RunnerTimes | None = None
    judged: Judged | None = None
    reference_ms: float | None = None
    host_slowdown: float = 1.0


def _numbers_of_times(
    session: InterleavedTimes, name: str, judged: Judged, *, earlier_reference_ms: float | None
) -> _Numbers:
    times = session.times[name]
    # Corrected where the network is: the two are divided by each other.
    reference_ms = session.reference_ms(corrected=judged.corrected)
    slower = 1.0 if earlier_reference_ms is None else reference_ms / earlier_reference_ms
    single_ms = times.raw_ns / 1e6 / slower
    if judged.corrected:
        single_ms = single_ms / times.slowdown[:, None]
    return _Numbers(
        p50=judged.median_ns / 1e6 / slower,
        p90=float(np.quantile(single_ms, 0.9)),
        p99=float(np.quantile(single_ms, 0.99)),
        low=judged.low_ns / 1e6 / slower,
        high=judged.high_ns / 1e6 / slower,
        also={} if times.energy_mj is None else {"energy_mj": times.energy_mj},
        times=times,
        judged=judged,
        reference_ms=reference_ms,
        host_slowdown=slower,
    )


def _numbers_of_count(count: Count) -> _Numbers:
    value = count.value
    return _Numbers(
        quantity=count.quantity,
        unit=count.unit,
        p50=value,
        p90=value,
        p99=value,
        low=value,
        high=value,
        also=count.also,
    )


def _crowd(found: OnsiteResult, *, threads: int) -> str | None:
    """Why the network cannot have had its cores for itself, if so."""
    num_cores = found.host.num_cores
    if found.foreign_cores is None or num_cores == 0:
        return None
    if found.foreign_cores + threads <= num_cores + CROWDED_CORES:
        return None
    return f"other processes used {found.foreign_cores:.1f} of {num_cores} cores, of which the network needs {threads}"


def _record(
    numbers: _Numbers,
    *,
    found: OnsiteResult,
    job: MeasureJob,
    artifact: Artifact,
    session_id: str,
    drift: float,
) -> CostMeasurement:
    times, judged, spec, protocol, host = numbers.times, numbers.judged, job.spec, job.protocol, found.host
    num_rounds, runs_per_round = (1, 1) if times is None else times.raw_ns.shape
    reasons = [] if judged is None else list(judged.reasons)
    if times is not None and (crowd := _crowd(found, threads=spec.threads)) is not None:
        reasons.append(crowd)
    if abs(numbers.host_slowdown - 1) > MAX_SLOWDOWN:
        reasons.append(f"the host has {numbers.host_slowdown:.2f} times the times of the session compared with")
    return CostMeasurement(
        measurement_id=secrets.token_hex(6),
        session_id=session_id,
        device_id=spec.device_id,
        quantity=numbers.quantity,
        unit=numbers.unit,
        provenance=found.provenance,
        p50=numbers.p50,
        p90=numbers.p90,
        p99=numbers.p99,
        low=numbers.low,
        high=numbers.high,
        level=protocol.level,
        quantile=protocol.quantile,
        also=numbers.also,
        num_rounds=num_rounds,
        runs_per_round=runs_per_round,
        warmup_runs=0 if times is None else times.warmup_runs + num_rounds * protocol.warmup_runs,
        converged=judged is None or judged.converged,
        drift=drift,
        corrected=judged is not None and (judged.corrected or numbers.host_slowdown != 1.0),
        num_outliers=0 if judged is None else judged.num_outliers,
        outlier_rule="" if judged is None else OUTLIER_RULE,
        suspect=bool(reasons),
        suspect_reason="; ".join(reasons),
        raw_ms=() if times is None else tuple(tuple(runs) for runs in (times.raw_ns / 1e6).tolist()),
        slowdown=() if times is None else tuple(times.slowdown.tolist()),
        reference_ms=numbers.reference_ms,
        host_slowdown=numbers.host_slowdown,
        artifact_sha256=artifact.sha256,
        protocol=protocol.name,
        threads=spec.threads,
        batch=spec.batch,
        precision=spec.precision,
        versions=found.versions,
        unit_name=found.unit_name,
        cpu_model=host.cpu_model,
        governor=host.governor,
        clock_mhz=host.clock_mhz,
        affinity=host.affinity,
        load_average=host.load_average,
        foreign_cores=found.foreign_cores,
        stolen=found.stolen,
        waited_s=found.waited_s,
        involuntary_switches=0 if times is None else times.involuntary_switches,
        lease_token=found.lease_token,
        utc_time=SystemClock().now_utc(),
    )
