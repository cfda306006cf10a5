"""Devices on the nodes of a Ray cluster: measuring runs where the node's custom resource says that the device is.

A device host joins the cluster with `ray start --address ADDRESS --resources '{"device:NAME": 1}'`. Ray's resources are
logical: that nobody else measures or computes there is the business of the unit's own lock, which the job takes there.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hardware.device import DeviceSpec, find_backend
from hardware.errors import DeviceError, HangingError, UnreachableError
from hardware.fleet import DeviceEntry, RayPlace
from hardware.health import CheckableHost
from hardware.onsite import MeasureJob, OnProgress, OnsiteResult, measure_onsite, now_and_then
from hardware.selftest import CheckItem, self_test
from searchspaces.errors import Hinted

if TYPE_CHECKING:
    import ray

_T = TypeVar("_T")

_POLL_S = 0.5
_TELL_S = 1.0


def ray_connectors() -> Mapping[str, Callable[[DeviceEntry], CheckableHost]]:
    """How `get_device` reaches devices that `devices.yaml` places on Ray nodes; nothing is connected yet."""
    return {"ray": RayDeviceHost}


class RayDeviceHost:
    """Runs jobs on the Ray node of a device; this process must be connected to the cluster when it does."""

    def __init__(self, entry: DeviceEntry) -> None:
        assert isinstance(entry.place, RayPlace)
        self._entry, self._resource = entry, entry.place.resource

    def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
        """Send the files, measure there, return what was found; see `DeviceHost.measure`.

        The job tells of progress between rounds, at most once a second, and waits for that to arrive: nothing is on its
        way while a network is timed.

        Raises:
            UnreachableError: not connected, no node has the device, or the node was lost.
            HangingError: no answer within `timeouts.call_s` after the job had the unit for as long as it may.
            DeviceError, MeasurementError, StorageError: as `measure_onsite`.
        """
        files = {name: artifact.read_checked() for name, artifact in job.artifacts.items()}
        return self._call(
            _measure, job, files, job.reference.read_checked(), patience_s=_patience(job), on_progress=on_progress
        )

    def check(self, spec: DeviceSpec) -> tuple[CheckItem, ...]:
        """Let the node check itself.

        Raises:
            UnreachableError, HangingError: as `measure`.
        """
        return self._call(_check, spec, patience_s=0.0)

    def _call(
        self,
        function: Callable[..., _T],
        *arguments: object,
        patience_s: float,
        on_progress: OnProgress | None = None,
    ) -> _T:
        import ray

        self._require_node()
        remote = ray.remote(num_cpus=0, max_retries=0, resources={self._resource: 1})(function)
        try:
            progress = None if on_progress is None else _Progress(on_progress)
            reference = remote.remote(*arguments, **({} if progress is None else {"told": progress.actor}))
            deadline_s = time.monotonic() + self._entry.timeouts.connect_s + self._entry.timeouts.call_s + patience_s
            while time.monotonic() < deadline_s:
                ready, _ = ray.wait([reference], timeout=_POLL_S)
                if progress is not None:
                    progress.pass_on()
                if ready:
                    return cast(_T, _answer(reference))
        except (ray.exceptions.RayError, ConnectionError) as e:
            raise UnreachableError(
                f"device {self._entry.device_id!r} was lost on the Ray cluster: {type(e).__name__}: {e}",
                hint=f"look at its node, then: nas devices check {self._entry.device_id}",
            ) from e
        ray.cancel(reference, force=True)
        raise HangingError(
            f"device {self._entry.device_id!r} on the Ray cluster has not answered for "
            f"{self._entry.timeouts.call_s + patience_s:g} s",
            hint=f"look at its node, then: nas devices check {self._entry.device_id}",
        )

    def _require_node(self) -> None:
        import ray

        if not ray.is_initialized():
            # The caller's omission, not the device's failure.
            raise DeviceError(
                f"device {self._entry.device_id!r} is on a Ray cluster, and there is no connection to one",
                hint="give the same command the cluster's address: --address HOST:PORT",
            )
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(self._resource in resources for resources in alive):
            known = sorted({name for resources in alive for name in resources if name.startswith("device:")})
            raise UnreachableError(
                f"no node of the Ray cluster has the resource {self._resource!r}, there are {known}",
                hint=f"on the device's host: ray start --address ADDRESS --resources '{{\"{self._resource}\": 1}}'",
            )


class _Told:
    """An actor that keeps the newest progress of a job: a task cannot call the driver."""

    def __init__(self) -> None:
        self._newest: tuple[int, int] | None = None

    def tell(self, done: int, total: int) -> None:
        self._newest = (done, total)

    def newest(self) -> tuple[int, int] | None:
        return self._newest


class _Progress:
    """Passes a job's progress on; ends its actor when it is dropped."""

    def __init__(self, on_progress: OnProgress) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._on_progress = on_progress
        self._last: tuple[int, int] | None = None
        # Beside the driver, and there before the job begins: a process that starts would disturb the device.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self.actor = cast(Any, ray.remote(num_cpus=0)(_Told).options(scheduling_strategy=here).remote())
        ray.get(self.actor.newest.remote())

    def pass_on(self) -> None:
        """Tell what is new."""
        import ray

        newest: tuple[int, int] | None = ray.get(self.actor.newest.remote())
        if newest is not None and newest != self._last:
            self._on_progress(*newest)
            self._last = newest


def _patience(job: MeasureJob) -> float:
    """How long a well device may need: waiting for the unit, and the protocol's longest session."""
    return (job.timeout_s if job.timeout_s is not None else 3600.0) + min(job.protocol.max_seconds, 86_400.0)


def _answer(reference: "ray.ObjectRef[object]") -> object:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as e:
        # The device's own words, as the class that they were said with.
        if isinstance(e.cause, Hinted):
            raise e.cause from None
        raise DeviceError(
            f"measuring failed on the Ray node: {e.cause}", hint="look at the node's log, then measure again"
        ) from e


def _measure(job: MeasureJob, files: Mapping[str, bytes], reference: bytes, *, told: object = None) -> OnsiteResult:
    """Runs on the node."""
    import ray

    def tell(done: int, total: int) -> None:
        ray.get(cast(Any, told).tell.remote(done, total))

    on_progress = None if told is None else now_and_then(tell, seconds=_TELL_S)
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        artifacts = {}
        for number, (name, content) in enumerate(files.items()):
            path = Path(folder) / f"{number}-{job.artifacts[name].path.name}"
            path.write_bytes(content)
            artifacts[name] = replace(job.artifacts[name], path=path)
        path = Path(folder) / f"reference-{job.reference.path.name}"
        path.write_bytes(reference)
        here = replace(job, artifacts=artifacts, reference=replace(job.reference, path=path))
        return measure_onsite(find_backend(job.spec.backend), here, on_progress=on_progress)


def _check(spec: DeviceSpec) -> tuple[CheckItem, ...]:
    return self_test(find_backend(spec.backend), spec=spec)
