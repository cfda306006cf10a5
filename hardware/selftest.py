"""What a host can find out about itself before anything is measured on it; run there by the agent, or here."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import DeviceBackend
from hardware.device import DeviceSpec, require_usable
from hardware.errors import DeviceError, MeasurementError
from hardware.lease import UnitLock

_CLOCK_READINGS = 20_000
_COARSEST_NS = 10_000
_NO_NETWORK = b"this is no network"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckItem:
    """One thing that was checked.

    Attributes:
        name: what.
        ok: whether measuring can work.
        detail: what was found.
    """

    name: str
    ok: bool
    detail: str


def self_test(
    backend: DeviceBackend,
    *,
    spec: DeviceSpec,
    lock_directory: Path | None = None,
    timer_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[CheckItem, ...]:
    """Check this host; takes no lease for longer than a moment, and waits for nobody.

    Args:
        backend: of the device.
        spec: the device.
        lock_directory: where the unit's lock files lie; the host's common place if None.
        timer_ns: what runs are timed with.
    """
    return (_check_clock(timer_ns), _check_runtime(backend, spec=spec), _check_lock(spec, directory=lock_directory))


def _check_clock(timer_ns: Callable[[], int]) -> CheckItem:
    readings = [timer_ns() for _ in range(_CLOCK_READINGS)]
    steps = [after - before for before, after in pairwise(readings)]
    backwards, forwards = [step for step in steps if step < 0], [step for step in steps if step > 0]
    if backwards:
        text = f"went backwards {len(backwards)} times in {len(steps)} readings, by up to {-min(backwards)} ns"
        return CheckItem(name="clock", ok=False, detail=text)
    if not forwards:
        return CheckItem(name="clock", ok=False, detail=f"stood still over {len(steps)} readings")
    finest_ns = min(forwards)
    return CheckItem(name="clock", ok=finest_ns <= _COARSEST_NS, detail=f"monotonic, steps of {finest_ns} ns")


def _check_runtime(backend: DeviceBackend, *, spec: DeviceSpec) -> CheckItem:
    """A file that is no network makes the runtime load, and refuse: whatever else happens is a broken runtime."""
    try:
        require_usable(backend, spec=spec)
        with tempfile.TemporaryDirectory(prefix="archsmith-check-") as folder:
            path = Path(folder) / f"no-network.{backend.artifact_format}"
            path.write_bytes(_NO_NETWORK)
            backend.load(_describe(path, backend=backend, spec=spec), spec=spec).close()
    except MeasurementError:
        versions = ", ".join(f"{name} {version}" for name, version in backend.versions().items())
        return CheckItem(name="runtime", ok=True, detail=f"{backend.name} loads ({versions})")
    # A broken runtime may raise anything; what it was is the finding.
    except Exception as e:  # noqa: BLE001
        return CheckItem(name="runtime", ok=False, detail=f"{type(e).__name__}: {e}")
    return CheckItem(name="runtime", ok=False, detail=f"{backend.name} loaded a file that is no network")


def _describe(path: Path, *, backend: DeviceBackend, spec: DeviceSpec) -> Artifact:
    return Artifact(
        path=path,
        format=backend.artifact_format,
        sha256=hashlib.sha256(_NO_NETWORK).hexdigest(),
        size_bytes=len(_NO_NETWORK),
        input_shape=(spec.batch, 1),
        input_dtype="float32",
        output_shape=(spec.batch, 1),
        precision=spec.precision,
    )


def _check_lock(spec: DeviceSpec, *, directory: Path | None) -> CheckItem:
    unit = spec.physical_unit()
    lock = UnitLock(unit, directory=directory)
    try:
        status = lock.status()
        if status.measuring is None and not status.waiting:
            with lock.computing(owner="check", timeout_s=0):
                pass
            return CheckItem(name="lock", ok=True, detail=f"{unit} can be locked")
        holders = [str(status.measuring)] if status.measuring else [str(waiter) for waiter in status.waiting]
        return CheckItem(name="lock", ok=True, detail=f"{unit} is in use by {holders[0]}")
    except DeviceError as e:
        return CheckItem(name="lock", ok=False, detail=str(e))
