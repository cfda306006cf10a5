"""The devices of `devices.yaml`: what they are and where. Standard library only; a file is parsed when there is one.

devices:
  - id: laptop-4                      # this machine, with other numbers than the built-in devices
    backend: onnxruntime-cpu
    threads: 4
    where: local
  - id: pi
    backend: onnxruntime-cpu
    precision: fp32                   # what is left out here and below is like this
    threads: 1
    batch: 1
    where: {ssh: {host: 10.0.0.7, port: 22, user: pi, identity: ~/.ssh/id_ed25519, known_hosts: known_hosts,
                  python: /opt/agent/bin/python, path: /opt/archsmith}}
    timeouts: {connect_s: 10, call_s: 600}
  - id: node
    backend: onnxruntime-cpu
    where: {ray: {resource: "device:node"}}
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware.device import DeviceSpec
from hardware.errors import DeviceError

FLEET_VARIABLE = "ARCHSMITH_DEVICES"
FLEET_FILE = "devices.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlace:
    """This machine."""

    kind: Literal["local"] = "local"

    @property
    def address(self) -> str:
        """What `DeviceSpec.location` says."""
        return "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class SshPlace:
    """A machine that is reached by SSH.

    Attributes:
        host: name or address.
        port: of the SSH server.
        user: who to be there; ssh's own choice if None.
        identity: private key; ssh's own choice if None.
        known_hosts: file with the host's key; ssh's own files if None.
        python: interpreter there that has numpy and the one runtime.
        path: directory there that holds the packages `hardware` and `searchspaces`; None where they are installed.
    """

    host: str
    port: int = 22
    user: str | None = None
    identity: Path | None = None
    known_hosts: Path | None = None
    python: str = "python3"
    path: str | None = None
    kind: Literal["ssh"] = "ssh"

    @property
    def address(self) -> str:
        """What `DeviceSpec.location` says."""
        return f"ssh://{'' if self.user is None else f'{self.user}@'}{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPlace:
    """The node of the Ray cluster that has a custom resource, for example "device:node"."""

    resource: str
    kind: Literal["ray"] = "ray"

    @property
    def address(self) -> str:
        """What `DeviceSpec.location` says."""
        return f"ray://{self.resource}"


Place = LocalPlace | SshPlace | RayPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a device may take.

    Attributes:
        connect_s: until its agent has answered for the first time.
        call_s: from one message of the agent to the next: it sends one a second while rounds go on, and while it waits
            for the unit, so this is the longest that loading everything or one round may take.
    """

    connect_s: float = 30.0
    call_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry:
    """One device of the file.

    Attributes:
        spec: what it is.
        place: where it is.
        timeouts: how long it may take; without meaning for this machine.
        source: file and line, for messages.
    """

    spec: DeviceSpec
    place: Place
    timeouts: Timeouts
    source: str

    @property
    def device_id(self) -> str:
        """The id that recipes and tables use."""
        return self.spec.device_id


def fleet_path() -> Path | None:
    """Where the file is: $ARCHSMITH_DEVICES, else ./devices.yaml if that exists, else None."""
    named = os.environ.get(FLEET_VARIABLE)
    if named:
        return Path(named)
    return Path(FLEET_FILE) if Path(FLEET_FILE).is_file() else None


def load_fleet(path: Path | None = None) -> tuple[DeviceEntry, ...]:
    """Return the devices of a file, in its order.

    Args:
        path: the file; `fleet_path()` if None.

    Raises:
        DeviceError: the file is missing or not as it should be; every problem is listed, with its line.
    """
    path = fleet_path() if path is None else path
    if path is None:
        return ()
    # pydantic is not there on devices, and needs a tenth of a second: it waits until there is something to check.
    from hardware.fleet_schema import read_fleet

    return read_fleet(path)


def find_entry(device_id: str, *, path: Path | None = None) -> DeviceEntry:
    """Return one device of a file.

    Args:
        device_id: its id.
        path: the file; `fleet_path()` if None.

    Raises:
        DeviceError: as `load_fleet`, or there is no such device; the message lists those that there are.
    """
    path = fleet_path() if path is None else path
    entries = load_fleet(path)
    for entry in entries:
        if entry.device_id == device_id:
            return entry
    raise DeviceError(
        f"unknown device {device_id!r}, {path or FLEET_FILE} has {[entry.device_id for entry in entries]}",
        hint="list the devices: nas devices list",
    )
