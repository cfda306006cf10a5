"""Jobs and results as JSON, for hosts that are reached over a connection; both sides use these functions.

Numbers of arrays travel as base64 of little-endian bytes: raw times are exact, and a fifth of the size of digits.
"""

import base64
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import PROVENANCES, Count
from hardware.device import DeviceSpec
from hardware.errors import (
    DeviceError,
    HangingError,
    MeasurementError,
    StorageError,
    UnreachableError,
    UntrustedError,
)
from hardware.files import JSON
from hardware.host import HostState
from hardware.onsite import MeasureJob, OnsiteResult
from hardware.protocol import MeasurementProtocol
from hardware.timing import InterleavedTimes, RunnerTimes
from searchspaces.errors import Hinted

# Raised whenever a message changes its meaning; both sides must agree.
WIRE_VERSION = 2
# The version in pyproject.toml, which is not there where only the sources were copied to.
PACKAGE_VERSION = "0.1.0"
MAX_LINE_BYTES = 256 * 2**20
CHUNK_BYTES = 2**20

Message = Mapping[str, Any]
_Flat = TypeVar("_Flat", DeviceSpec, MeasurementProtocol, HostState, Count)

_DTYPES = ("int64", "float64")
_ERRORS: Mapping[str, type[Hinted]] = {
    kind.__name__: kind
    for kind in (DeviceError, HangingError, MeasurementError, StorageError, UnreachableError, UntrustedError)
}


def encode_line(message: Mapping[str, JSON]) -> bytes:
    """One message as one line."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """The message in a line.

    Raises:
        UntrustedError: it is no JSON object.
    """
    try:
        message = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as e:
        raise _malformed(f"a line that is no JSON: {line[:80]!r}") from e
    if not isinstance(message, dict):
        raise _malformed(f"a line that is no JSON object: {line[:80]!r}")
    return message


def error_to_json(error: Exception) -> dict[str, JSON]:
    """An error with its type, message and hint."""
    hint = (
        error.hint if isinstance(error, Hinted) else "look into the log above, and check the device: nas devices check"
    )
    return {"type": type(error).__name__, "message": str(error), "hint": hint}


def error_from_json(value: Message, *, place: str) -> Hinted:
    """The error that the other side raised, of the same class; a `DeviceError` for a class that is not ours.

    Args:
        value: by `error_to_json`.
        place: where it happened, as the message calls it.
    """
    name, message, hint = (_take(value, key, str) for key in ("type", "message", "hint"))
    if name in _ERRORS:
        return _ERRORS[name](f"{place}: {message}", hint=hint)
    return DeviceError(f"{place}: {name}: {message}", hint=hint)


def job_to_json(job: MeasureJob) -> dict[str, JSON]:
    """A job; of the artifacts' paths only the names of the files."""
    return {
        "spec": _flat_to_json(job.spec),
        "artifacts": {name: _artifact_to_json(artifact) for name, artifact in job.artifacts.items()},
        "reference": _artifact_to_json(job.reference),
        "protocol": _flat_to_json(job.protocol),
        "seed": job.seed,
        "owner": job.owner,
        "timeout_s": job.timeout_s,
    }


def job_from_json(value: object, *, locate: Callable[[str], Path]) -> MeasureJob:
    """The job that `job_to_json` wrote.

    Args:
        value: JSON.
        locate: gives the path of the file with a SHA-256, or raises.

    Raises:
        UntrustedError: something is missing, too much or of the wrong type.
        DeviceError, MeasurementError: a device or protocol that cannot be, or whatever `locate` raises.
    """
    message = _mapping(value, "a job")
    timeout_s = message.get("timeout_s")
    return MeasureJob(
        spec=_flat_from_json(DeviceSpec, message.get("spec")),
        artifacts={
            str(name): _artifact_from_json(artifact, locate=locate)
            for name, artifact in _take(message, "artifacts", dict).items()
        },
        reference=_artifact_from_json(message.get("reference"), locate=locate),
        protocol=_flat_from_json(MeasurementProtocol, message.get("protocol")),
        seed=_take(message, "seed", int),
        owner=_take(message, "owner", str),
        timeout_s=None if timeout_s is None else _number(message, "timeout_s"),
    )


def spec_to_json(spec: DeviceSpec) -> dict[str, JSON]:
    """A device's description."""
    return _flat_to_json(spec)


def spec_from_json(value: object) -> DeviceSpec:
    """The description that `spec_to_json` wrote.

    Raises:
        UntrustedError: something is missing, too much or of the wrong type.
        DeviceError: a number below 1.
    """
    return _flat_from_json(DeviceSpec, value)


def result_to_json(result: OnsiteResult) -> dict[str, JSON]:
    """A result, exact to the last bit."""
    return {
        "provenance": result.provenance,
        "times": None if result.times is None else _times_to_json(result.times),
        "counts": {name: _flat_to_json(count) for name, count in result.counts.items()},
        "versions": dict(result.versions),
        "unit_name": result.unit_name,
        "host": _flat_to_json(result.host),
        "foreign_cores": result.foreign_cores,
        "stolen": result.stolen,
        "waited_s": result.waited_s,
        "lease_token": result.lease_token,
    }


def result_from_json(value: object) -> OnsiteResult:
    """The result that `result_to_json` wrote. Its form is checked, not whether it can be true.

    Raises:
        UntrustedError: something is missing, too much or of the wrong type.
    """
    message = _mapping(value, "a result")
    provenance, times = _take(message, "provenance", str), message.get("times")
    if provenance not in PROVENANCES:
        raise _malformed(f"the provenance {provenance!r}")
    versions = _take(message, "versions", dict)
    if not all(isinstance(version, str) for version in versions.values()):
        raise _malformed(f"the versions {versions!r}")
    return OnsiteResult(
        provenance=next(known for known in PROVENANCES if known == provenance),
        times=None if times is None else _times_from_json(_mapping(times, "times")),
        counts={str(name): _flat_from_json(Count, count) for name, count in _take(message, "counts", dict).items()},
        versions=versions,
        unit_name=_take(message, "unit_name", str),
        host=_flat_from_json(HostState, message.get("host")),
        foreign_cores=None if message.get("foreign_cores") is None else _number(message, "foreign_cores"),
        stolen=_number(message, "stolen"),
        waited_s=_number(message, "waited_s"),
        lease_token=_take(message, "lease_token", int),
    )


def _times_to_json(times: InterleavedTimes) -> dict[str, JSON]:
    return {
        "reference": times.reference,
        "probes_ns": _array_to_json(times.probes_ns),
        "times": {
            name: {
                "raw_ns": _array_to_json(runner.raw_ns),
                "slowdown": _array_to_json(runner.slowdown),
                "warmup_runs": runner.warmup_runs,
                "involuntary_switches": runner.involuntary_switches,
                "energy_mj": runner.energy_mj,
            }
            for name, runner in times.times.items()
        },
    }


def _times_from_json(message: Message) -> InterleavedTimes:
    return InterleavedTimes(
        times={str(name): _runner_from_json(runner) for name, runner in _take(message, "times", dict).items()},
        reference=_take(message, "reference", str),
        probes_ns=_array(message, "probes_ns", dtype="float64", ndim=1),
    )


def _runner_from_json(value: object) -> RunnerTimes:
    message = _mapping(value, "the times of a network")
    return RunnerTimes(
        raw_ns=_array(message, "raw_ns", dtype="int64", ndim=2),
        slowdown=_array(message, "slowdown", dtype="float64", ndim=1),
        warmup_runs=_take(message, "warmup_runs", int),
        involuntary_switches=_take(message, "involuntary_switches", int),
        energy_mj=None if message.get("energy_mj") is None else _number(message, "energy_mj"),
    )


def _array_to_json(array: NDArray[Any]) -> dict[str, JSON]:
    assert array.dtype.name in _DTYPES
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "base64": base64.b64encode(little.tobytes()).decode(),
    }


def _array(message: Message, key: str, *, dtype: str, ndim: int) -> NDArray[Any]:
    value = _mapping(message.get(key), key)
    shape = _take(value, "shape", list)
    ints = all(type(size) is int and size >= 0 for size in shape)
    try:
        content = base64.b64decode(_take(value, "base64", str), validate=True)
    except ValueError as e:
        raise _malformed(f"{key} that is no base64") from e
    if value.get("dtype") != dtype or len(shape) != ndim or not ints or len(content) != 8 * math.prod(shape):
        raise _malformed(
            f"{key} of type {value.get('dtype')!r} and shape {shape} in {len(content)} bytes, expected {dtype}"
        )
    return np.frombuffer(content, dtype=np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)


def _artifact_to_json(artifact: Artifact) -> dict[str, JSON]:
    return {
        "file": artifact.path.name,
        "format": artifact.format,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "input_shape": list(artifact.input_shape),
        "input_dtype": artifact.input_dtype,
        "output_shape": list(artifact.output_shape),
        "precision": artifact.precision,
    }


def _artifact_from_json(value: object, *, locate: Callable[[str], Path]) -> Artifact:
    message = _mapping(value, "an artifact")
    shapes = {key: _take(message, key, list) for key in ("input_shape", "output_shape")}
    if not all(type(size) is int for shape in shapes.values() for size in shape):
        raise _malformed(f"the shapes {shapes}")
    sha256 = _take(message, "sha256", str)
    return Artifact(
        path=locate(sha256),
        format=_take(message, "format", str),
        sha256=sha256,
        size_bytes=_take(message, "size_bytes", int),
        input_shape=tuple(shapes["input_shape"]),
        input_dtype=_take(message, "input_dtype", str),
        output_shape=tuple(shapes["output_shape"]),
        precision=_take(message, "precision", str),
    )


def _flat_to_json(value: DeviceSpec | MeasurementProtocol | HostState | Count) -> dict[str, JSON]:
    return {name: list(item) if isinstance(item, tuple) else item for name, item in asdict(value).items()}


def _flat_from_json(kind: type[_Flat], value: object) -> _Flat:
    message, hints = _mapping(value, f"a {kind.__name__}"), get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    if set(message) != names:
        raise _malformed(f"a {kind.__name__} with {sorted(message)}, expected {sorted(names)}")
    arguments: dict[str, Any] = {}
    for name, item in message.items():
        if not _fits(item, hints[name]):
            raise _malformed(f"{name} {item!r} in a {kind.__name__}, expected {hints[name]}")
        arguments[name] = tuple(item) if isinstance(item, list) else item
    return kind(**arguments)


def _fits(item: object, hint: object) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return any(_fits(item, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(item, list) and all(_fits(part, arguments[0]) for part in item)
    if origin is not None:
        return isinstance(item, dict) and all(_fits(part, arguments[1]) for part in item.values())
    if hint is float:
        return type(item) in (int, float)
    return type(item) is hint


def _take(message: Message, key: str, kind: type[Any]) -> Any:  # noqa: ANN401 - of the type that was asked for
    value = message.get(key)
    if type(value) is not kind:
        raise _malformed(f"{key} {value!r:.80}, expected {kind.__name__}")
    return value


def _number(message: Message, key: str) -> float:
    value = message.get(key)
    if type(value) not in (int, float):
        raise _malformed(f"{key} {value!r:.80}, expected a number")
    assert isinstance(value, int | float)
    return value


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(f"{value!r:.80} for {what}")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _malformed(what: str) -> UntrustedError:
    return UntrustedError(
        f"the other side sent {what}", hint="install the same version of archsmith on both sides, then check the device"
    )
