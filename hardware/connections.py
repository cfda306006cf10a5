"""From an entry of `devices.yaml` to a device that can be measured on, listed and checked."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hardware.device import (
    Connectors,
    Device,
    DeviceStatus,
    find_backend,
    get_device,
    require_precision,
    require_usable,
)
from hardware.errors import DeviceError, StorageError
from hardware.fleet import DeviceEntry, LocalPlace, SshPlace
from hardware.health import GuardedHost, HealthBook
from hardware.remote import SshHost, require_key_files
from hardware.selftest import CheckItem, self_test

if TYPE_CHECKING:
    from hardware.backends.backend import DeviceBackend


def open_device(
    entry: DeviceEntry,
    *,
    threads: int | None = None,
    batch: int | None = None,
    connectors: "Connectors | None" = None,
) -> Device:
    """Return the device of an entry; nothing is connected yet.

    Args:
        entry: from `load_fleet`.
        threads: what the caller believes; any other number than the entry's is refused.
        batch: likewise.
        connectors: see `get_device`.

    Raises:
        DeviceError: another number of threads or another batch, an unknown backend or precision, a
            place that nothing here can reach, or a local device that this machine cannot be.
    """
    for name, asked, given in (("threads", threads, entry.spec.threads), ("batch", batch, entry.spec.batch)):
        if asked is not None and asked != given:
            raise DeviceError(
                f"device {entry.device_id!r} has {name} {given}, asked for was {asked}",
                hint=f"set device.{name} to {given}, or change {entry.source}",
            )
    backend = find_backend(entry.spec.backend)
    require_precision(backend, spec=entry.spec)
    if isinstance(entry.place, LocalPlace):
        require_usable(backend, spec=entry.spec)
        return Device(spec=entry.spec, backend=backend)
    host = _connect(entry, backend=backend, connectors=connectors or {})
    return Device(spec=entry.spec, backend=backend, host=host)


def status_of(entry: DeviceEntry, *, connectors: "Connectors | None" = None) -> DeviceStatus:
    """Return the line of `nas devices list` of an entry; nothing is connected."""
    reason = hint = ""
    versions: Mapping[str, str] = {}
    try:
        device = open_device(entry, connectors=connectors)
        if device.host is None:
            versions = device.backend.versions()
        else:
            require_key_files(entry)
            HealthBook().require_admitted(entry.device_id)
    except (DeviceError, StorageError) as e:
        reason, hint = str(e), e.hint
    return DeviceStatus(
        device_id=entry.device_id,
        backend=entry.spec.backend,
        available=not reason,
        reason=reason,
        hint=hint,
        versions={} if reason else versions,
    )


def check_device(device_id: str, *, connectors: "Connectors | None" = None) -> tuple[CheckItem, ...]:
    """Check a device where it is; one in quarantine is admitted again if all items are ok.

    Args:
        device_id: of `list_devices()`.
        connectors: see `get_device`.

    Raises:
        DeviceError: unknown id, or the device cannot be reached or trusted; it stays in quarantine then.
        StorageError: the device's health cannot be written.
    """
    device = get_device(device_id, connectors=connectors)
    if device.host is None:
        return self_test(device.backend, spec=device.spec)
    assert isinstance(device.host, GuardedHost)
    return device.host.check(device.spec)


def _connect(entry: DeviceEntry, *, backend: "DeviceBackend", connectors: "Connectors") -> GuardedHost:
    if isinstance(entry.place, SshPlace):
        return GuardedHost(SshHost(entry, backend=backend), device_id=entry.device_id)
    if entry.place.kind not in connectors:
        raise DeviceError(
            f"device {entry.device_id!r} is at {entry.place.address}, and nothing here can reach "
            f"{entry.place.kind}, only local, ssh and {sorted(connectors)}",
            hint=f"pass a connector for {entry.place.kind!r}, or use it in a run that has a {entry.place.kind} cluster",
        )
    return GuardedHost(connectors[entry.place.kind](entry), device_id=entry.device_id)
