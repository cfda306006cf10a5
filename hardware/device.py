"""Devices by id: what can be measured on, found among the modules of hardware/backends."""

import hashlib
import importlib
import os
import pkgutil
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardware import backends
from hardware.errors import DeviceError

if TYPE_CHECKING:
    from hardware.backends.backend import DeviceBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """What exactly a cost refers to.

    Attributes:
        device_id: name that recipes and tables use, for example "onnxruntime-cpu".
        backend: name of the runtime's backend.
        precision: number format the network computes in.
        batch: images an inference takes, at least 1.
        threads: threads an inference may use, at least 1.
        location: "local", or later the address of another host.
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
    """A usable device: its description and the backend that runs networks on it."""

    spec: DeviceSpec
    backend: "DeviceBackend"


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


def get_device(device_id: str, *, threads: int = 1, batch: int = 1) -> Device:
    """Return a device of this machine.

    Args:
        device_id: one of `list_devices()`: a backend's name, with "-<precision>" for all but its first precision.
        threads: threads an inference may use, at most the cores that this process may use.
        batch: images an inference takes.

    Raises:
        DeviceError: unknown id (the message lists the known ones), a runtime that is missing, more threads than
            cores, or a number below 1.
    """
    found, broken = _discover()
    known = {name: (backend, precision) for backend in found for name, precision in _device_ids(backend)}
    if device_id not in known:
        because = f"; its module cannot be imported: {broken[device_id]}" if device_id in broken else ""
        raise DeviceError(
            f"unknown device {device_id!r}, known are {sorted(known)}{because}",
            hint="list the devices of this machine: nas devices list",
        )
    backend, precision = known[device_id]
    reason = backend.missing()
    if reason is not None:
        raise DeviceError(f"device {device_id!r} is not available: {reason}", hint=f"pip install {backend.requirement}")
    spec = DeviceSpec(device_id=device_id, backend=backend.name, precision=precision, batch=batch, threads=threads)
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if threads > num_cores:
        raise DeviceError(
            f"device {device_id!r}: threads is {threads}, this process may use {num_cores} cores",
            hint=f"set device.threads to {num_cores} or less",
        )
    return Device(spec=spec, backend=backend)


def list_devices() -> list[DeviceStatus]:
    """Return every device that a module of hardware/backends offers, available or not, by id."""
    found, broken = _discover()
    statuses = []
    for backend in found:
        reason = backend.missing()
        for device_id, _ in _device_ids(backend):
            statuses.append(
                DeviceStatus(
                    device_id=device_id,
                    backend=backend.name,
                    available=reason is None,
                    reason=reason or "",
                    hint="" if reason is None else f"pip install {backend.requirement}",
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
    return sorted(statuses, key=lambda status: status.device_id)


def _device_ids(backend: "DeviceBackend") -> list[tuple[str, str]]:
    """Device id and precision of everything a backend offers; its first precision goes without saying."""
    first, *others = backend.precisions
    return [(backend.name, first), *((f"{backend.name}-{precision}", precision) for precision in others)]


def _discover() -> tuple[list["DeviceBackend"], dict[str, str]]:
    """Import every module beside hardware/backends/backend.py; return the backends, and why modules failed."""
    found: list[DeviceBackend] = []
    broken: dict[str, str] = {}
    for module_info in pkgutil.iter_modules(backends.__path__):
        if module_info.name == "backend":
            continue
        try:
            module = importlib.import_module(f"{backends.__name__}.{module_info.name}")
            found.append(module.BACKEND)
        # One broken extension must not take the working devices away; its reason is shown in the list.
        except Exception as e:  # noqa: BLE001
            broken[module_info.name.replace("_", "-")] = f"{type(e).__name__}: {e}"
    return found, broken


def _machine_id() -> str:
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if path.is_file() and (text := path.read_text(encoding="ascii", errors="replace").strip()):
            return text
    # Containers without a machine id: the host name is all there is.
    return platform.node()
