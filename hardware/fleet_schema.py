"""The schema of `devices.yaml`: everything is checked at once, unknown keys are refused, and problems have lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardware.device import DeviceSpec
from hardware.errors import DeviceUsageError
from hardware.fleet import DeviceEntry, LocalPlace, Place, RayPlace, SshPlace, Timeouts

_LARGEST_BYTES = 1_000_000
_HINT = "correct the file; `python -c 'import hardware.fleet; help(hardware.fleet)'` shows an example"

# The first character keeps a name from being read as an option by ssh.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=64)]
_Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:%-]*$", max_length=253)]
_Text = Annotated[str, Field(min_length=1, max_length=4096)]
_Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
# Also the name of a directory of measurements.
_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
_Count = Annotated[int, Field(ge=1, le=65_536)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Ssh(_Section):
    host: _Host
    port: Annotated[int, Field(ge=1, le=65_535)] = 22
    user: _Name | None = None
    identity: _Text | None = None
    known_hosts: _Text | None = None
    python: _Text = "python3"
    path: _Text | None = None


class _Ray(_Section):
    resource: _Text


class _Where(_Section):
    ssh: _Ssh | None = None
    ray: _Ray | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_place(cls, value: object) -> object:
        if value == "local":
            return {}
        if not isinstance(value, dict) or len(value) != 1 or not all(value.values()):
            raise ValueError("expected local, or one of {ssh: {host: ...}} and {ray: {resource: ...}}")
        return value


class _Timeouts(_Section):
    connect_s: _Seconds = Timeouts().connect_s
    call_s: _Seconds = Timeouts().call_s


class _Device(_Section):
    id: _Id
    backend: _Name
    precision: _Name = "fp32"
    threads: _Count = 1
    batch: _Count = 1
    where: _Where
    timeouts: _Timeouts | None = None

    @model_validator(mode="after")
    def _timeouts_need_a_connection(self) -> "_Device":
        if self.timeouts is not None and self.where == _Where.model_construct():
            raise ValueError("timeouts are for devices that are reached over a connection, this one is local")
        return self


class _File(_Section):
    devices: list[_Device]


def read_fleet(path: Path) -> tuple[DeviceEntry, ...]:
    """Return the devices of a file, in its order; paths in it are relative to its directory.

    Raises:
        DeviceUsageError: the file is missing or not as it should be; every problem is listed, with its line.
    """
    node, value = _read_yaml(path)
    if node is None:
        return ()
    problems = _repeated_keys(node, visited=set())
    if problems:
        raise _refused(path, problems)
    try:
        file = _File.model_validate(value)
    except ValidationError as e:
        raise _refused(path, [_problem(detail, node=node) for detail in e.errors(include_url=False)]) from e
    lines = [_line_of(node, ("devices", index, "id")) for index in range(len(file.devices))]
    problems = _repeated_ids([device.id for device in file.devices], lines=lines)
    if problems:
        raise _refused(path, problems)
    return tuple(_entry(device, path=path, line=line) for device, line in zip(file.devices, lines, strict=True))


def _entry(device: _Device, *, path: Path, line: int) -> DeviceEntry:
    place = _place(device.where, directory=path.parent)
    given = device.timeouts or _Timeouts()
    return DeviceEntry(
        spec=DeviceSpec(
            device_id=device.id,
            backend=device.backend,
            precision=device.precision,
            batch=device.batch,
            threads=device.threads,
            location=place.address,
        ),
        place=place,
        timeouts=Timeouts(connect_s=given.connect_s, call_s=given.call_s),
        source=f"{path}, line {line}",
    )


def _place(where: _Where, *, directory: Path) -> Place:
    if where.ray is not None:
        return RayPlace(resource=where.ray.resource)
    if where.ssh is None:
        return LocalPlace()

    def path_of(text: str | None) -> Path | None:
        return None if text is None else (directory / Path(text).expanduser()).absolute()

    ssh = where.ssh
    return SshPlace(
        host=ssh.host,
        port=ssh.port,
        user=ssh.user,
        identity=path_of(ssh.identity),
        known_hosts=path_of(ssh.known_hosts),
        python=ssh.python,
        path=ssh.path,
    )


def _read_yaml(path: Path) -> tuple[yaml.Node | None, object]:
    """The one document of a file: with its lines, and as plain values."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as e:
        raise DeviceUsageError(
            f"cannot read the devices in {path}: {e.strerror}", hint="check the path in $ARCHSMITH_DEVICES"
        ) from e
    if len(data) > _LARGEST_BYTES:
        raise _refused(path, [f"it is larger than {_LARGEST_BYTES:,} bytes"])
    try:
        loader = yaml.SafeLoader(data.decode("utf-8-sig"))
        try:
            node = loader.get_single_node()
            return node, None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        line = 1 if e.problem_mark is None else e.problem_mark.line + 1
        raise _refused(path, [f"line {line}: no valid YAML: {e.problem or e.context}"]) from e
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise _refused(path, [f"no valid YAML: {' '.join(str(e).split())[:200]}"]) from e


def _refused(path: Path, problems: Sequence[str]) -> DeviceUsageError:
    return DeviceUsageError(f"{path}: {'; '.join(problems)}", hint=_HINT)


def _repeated_keys(node: yaml.Node, *, visited: set[int]) -> list[str]:
    """YAML itself would silently keep the last of two equal keys."""
    problems: list[str] = []
    # An alias leads to a node again, maybe to one that it is part of.
    if id(node) in visited:
        return problems
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problems.append(f"line {line}: the key {key.value!r} is there already, on line {seen[key.value]}")
                seen[key.value] = line
            problems += _repeated_keys(value, visited=visited)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            problems += _repeated_keys(value, visited=visited)
    return problems


def _repeated_ids(ids: Sequence[str], *, lines: Sequence[int]) -> list[str]:
    seen: dict[str, int] = {}
    problems = []
    for device_id, line in zip(ids, lines, strict=True):
        if device_id in seen:
            problems.append(f"two devices have the id {device_id!r}, on line {seen[device_id]} and on line {line}")
        seen.setdefault(device_id, line)
    return problems


def _line_of(node: yaml.Node, location: Sequence[str | int]) -> int:
    """Line of the deepest part of `location` that exists."""
    for part in location:
        below: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            below = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            below = node.value[part]
        if below is None:
            break
        node = below
    return node.start_mark.line + 1


def _problem(detail: Any, *, node: yaml.Node) -> str:  # noqa: ANN401 - pydantic's own typed dictionary
    location = detail["loc"]
    place = ".".join(str(part) for part in location) or "the file"
    if detail["type"] == "extra_forbidden":
        said = "unknown key"
    elif detail["type"] == "missing":
        said = "is missing"
    else:
        said = f"got {detail['input']!r:.80}, {detail['msg'][:1].lower()}{detail['msg'][1:]}"
    return f"line {_line_of(node, location)}: {place}: {said}"
