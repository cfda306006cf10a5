"""Devices by id: what can be measured on, found among the modules of hardware/backends."""

import hashlib
import importlib
import os
import pkgutil
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hardware import backends
from hardware.errors import DeviceError, DeviceUsageError

if TYPE_CHECKING:
    from hardware.backends.backend import DeviceBackend
    from hardware.fleet import DeviceEntry
    from hardware.health import CheckableHost
    from hardware.onsite import DeviceHost

# How devices of one kind of place ("ray") are reached, by kind.
Connectors: TypeAlias = "Mapping[str, Callable[[DeviceEntry], CheckableHost]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """What exactly a cost refers to.

    Attributes:
        device_id: name that recipes and tables use, for example "onnxruntime-cpu".
        backend: name of the runtime's backend.
        precision: number format the network computes in.
        batch: images an inference takes, at least 1.
        threads: threads an inference may use, at least 1.
        location: "local", or the address of another host, for example "ssh://pi@10.0.0.7:22".
    """

    device_id: str
    backend: str
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    location: str = "local"

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("threads", self.threads)):
            if type(value) is not int or value < 1:
                raise DeviceError(
                    f"device {self.device_id!r}: {name} is {value!r}, expected an integer >= 1",
                    hint=f"set device.{name} to 1 or more",
                )

    def physical_unit(self) -> str:
        """Return the name of the hardware behind this device, "host:<12 hex>".

        Leases are keyed by it: two runtimes on one CPU disturb each other, whatever their device ids say.
        """
        # The machine id itself is meant to stay private, so a hash of it is shown.
        digest = hashlib.sha256(f"archsmith {_machine_id()}".encode()).hexdigest()
        return f"host:{digest[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A usable device.

    Attributes:
        spec: its description.
        backend: builds and runs networks of its kind here.
        host: measures where the device is; None for devices of this machine.
    """

    spec: DeviceSpec
    backend: "DeviceBackend"
    host: "DeviceHost | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """One line of `nas devices list`.

    Attributes:
        device_id: name to use in recipes.
        backend: name of the backend (of the module, if that cannot be imported).
        available: whether `get_device` gives it.
        reason: why not; empty if available.
        hint: what to type to make it available; empty if available.
        versions: runtime versions by package; empty if not available.
    """

    device_id: str
    backend: str
    available: bool
    reason: str
    hint: str
    versions: Mapping[str, str]


def get_device(
    device_id: str,
    *,
    threads: int | None = None,
    batch: int | None = None,
    connectors: "Connectors | None" = None,
    fleet: Path | None = None,
) -> Device:
    """Return a device of this machine, or one of `devices.yaml` (see `hardware.fleet`).

    A device in quarantine is given too, because not everything needs it to answer; measuring on it is refused.

    Args:
        device_id: one of `list_devices()`: a backend's name, with "-<precision>" for all but its first precision, or
            an id of the file.
        threads: threads an inference may use, at most the cores that this process may use; 1 if None. A device of the
            file has its own number, and takes no other.
        batch: images an inference takes; likewise.
        connectors: how places other than this machine and SSH are reached.
        fleet: a `devices.yaml` other than the usual one.

    Raises:
        DeviceError: unknown id (the message lists the known ones), a runtime that is missing, more threads than
            cores, a number below 1, an error in the file, or a place that nothing here can reach.
    """
    found, broken = discover()
    known = {name: (backend, precision) for backend in found for name, precision in device_ids(backend)}
    entries = _fleet_entries(known, path=fleet)
    if device_id in entries:
        from hardware.connections import open_device

        return open_device(entries[device_id], threads=threads, batch=batch, connectors=connectors)
    if device_id not in known:
        because = f"; its module cannot be imported: {broken[device_id]}" if device_id in broken else ""
        raise DeviceError(
            f"unknown device {device_id!r}, known are {sorted([*known, *entries])}{because}",
            hint="list the devices of this machine: nas devices list",
        )
    backend, precision = known[device_id]
    spec = DeviceSpec(
        device_id=device_id,
        backend=backend.name,
        precision=precision,
        batch=1 if batch is None else batch,
        threads=1 if threads is None else threads,
    )
    require_usable(backend, spec=spec)
    return Device(spec=spec, backend=backend)


def list_devices(*, connectors: "Connectors | None" = None) -> list[DeviceStatus]:
    """Return every device that a module of hardware/backends or `devices.yaml` offers, available or not, by id.

    Nothing is connected to: a device elsewhere counts as available unless it is in quarantine; see `check_device`.

    Args:
        connectors: see `get_device`.

    Raises:
        DeviceError: an error in the file.
    """
    found, broken = discover()
    statuses = []
    for backend in found:
        reason = backend.missing()
        for device_id, _ in device_ids(backend):
            statuses.append(
                DeviceStatus(
                    device_id=device_id,
                    backend=backend.name,
                    available=reason is None,
                    reason=reason or "",
                    hint="" if reason is None else install_hint(backend),
                    versions=backend.versions() if reason is None else {},
                )
            )
    for module, reason in broken.items():
        statuses.append(
            DeviceStatus(
                device_id=module,
                backend=module,
                available=False,
                reason=f"its module cannot be imported: {reason}",
                hint=f"repair or remove hardware/backends/{module}.py",
                versions={},
            )
        )
    entries = _fleet_entries([status.device_id for status in statuses])
    if entries:
        from hardware.connections import status_of

        statuses.extend(status_of(entry, connectors=connectors) for entry in entries.values())
    return sorted(statuses, key=lambda status: status.device_id)


def discover() -> tuple[list["DeviceBackend"], dict[str, str]]:
    """Import every module beside hardware/backends/backend.py.

    Returns:
        The backends, whether their runtimes are there or not, in the order of the modules' names; and by module ("-"
        for "_" in the name) why it cannot be imported.
    """
    found: list[DeviceBackend] = []
    broken: dict[str, str] = {}
    for module_info in pkgutil.iter_modules(backends.__path__):
        if module_info.name == "backend":
            continue
        try:
            module = importlib.import_module(f"{backends.__name__}.{module_info.name}")
            found.extend(module.BACKENDS if hasattr(module, "BACKENDS") else (module.BACKEND,))
        # One broken extension must not take the working devices away; its reason is shown in the list.
        except Exception as e:  # noqa: BLE001
            broken[module_info.name.replace("_", "-")] = f"{type(e).__name__}: {e}"
    return found, broken


def device_ids(backend: "DeviceBackend") -> list[tuple[str, str]]:
    """Return id and precision of every device of this machine that a backend offers.

    The first precision goes without saying: its device has the backend's name.
    """
    first, *others = backend.precisions
    return [(backend.name, first), *((f"{backend.name}-{precision}", precision) for precision in others)]


def fp32_sibling(device: Device) -> str | None:
    """The id of the device that differs from this one in nothing but computing in fp32; None if there is none.

    Raises:
        DeviceError: an error in `devices.yaml`.
    """
    spec = device.spec
    built_in = dict(device_ids(device.backend))
    if spec.device_id in built_in:
        others = [name for name, precision in built_in.items() if precision == "fp32"]
    else:
        wanted = replace(spec, precision="fp32")
        entries = _fleet_entries(built_in).values()
        others = [one.device_id for one in entries if replace(one.spec, device_id=spec.device_id) == wanted]
    return next((name for name in others if name != spec.device_id), None)


def install_hint(backend: "DeviceBackend") -> str:
    """Return what to type to install a backend's runtime.

    Backends that need more than pip say so in an attribute `install_hint`.
    """
    return str(getattr(backend, "install_hint", f"pip install {backend.requirement}"))


def find_backend(name: str) -> "DeviceBackend":
    """Return the backend with a name, whether its runtime is there or not.

    Raises:
        DeviceError: unknown name; the message lists the known ones.
    """
    found, broken = discover()
    for backend in found:
        if backend.name == name:
            return backend
    because = f"; its module cannot be imported: {broken[name]}" if name in broken else ""
    raise DeviceError(
        f"unknown backend {name!r}, known are {sorted(backend.name for backend in found)}{because}",
        hint="list the devices of this machine: nas devices list",
    )


def require_usable(backend: "DeviceBackend", *, spec: DeviceSpec) -> None:
    """Refuse a device that this machine cannot be.

    Raises:
        DeviceError: the runtime is missing, the precision unknown, or there are more threads than cores.
    """
    reason = backend.missing()
    if reason is not None:
        raise DeviceError(f"device {spec.device_id!r} is not available: {reason}", hint=install_hint(backend))
    require_precision(backend, spec=spec)
    if backend.provenance != "measured" and spec.threads > 1:
        raise DeviceError(
            f"device {spec.device_id!r}: threads is {spec.threads}, but its costs are {backend.provenance} for one",
            hint="leave threads at 1",
        )
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if spec.threads > num_cores:
        raise DeviceError(
            f"device {spec.device_id!r}: threads is {spec.threads}, this process may use {num_cores} cores",
            hint=f"set device.threads to {num_cores} or less",
        )


def require_precision(backend: "DeviceBackend", *, spec: DeviceSpec) -> None:
    """Refuse a precision that the backend does not have.

    Raises:
        DeviceError: the message lists those that it has.
    """
    if spec.precision not in backend.precisions:
        raise DeviceError(
            f"device {spec.device_id!r}: precision is {spec.precision!r}, {backend.name} has {backend.precisions}",
            hint=f"set precision to one of {', '.join(backend.precisions)}",
        )


def _fleet_entries(built_in: Iterable[str], *, path: Path | None = None) -> "dict[str, DeviceEntry]":
    """The devices of `devices.yaml` (of `path`, if given) by id; none if there is no such file."""
    from hardware.fleet import load_fleet

    entries = {entry.device_id: entry for entry in load_fleet(path)}
    for device_id in entries.keys() & set(built_in):
        raise DeviceUsageError(
            f"{entries[device_id].source}: the id {device_id!r} is that of a built-in device",
            hint="give the device another id",
        )
    return entries


def _machine_id() -> str:
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if path.is_file() and (text := path.read_text(encoding="ascii", errors="replace").strip()):
            return text
    # Containers without a machine id: the host name is all there is.
    return platform.node()
