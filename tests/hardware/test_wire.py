import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import Count
from hardware.device import DeviceSpec
from hardware.errors import (
    DeviceError,
    HangingError,
    MeasurementError,
    StorageError,
    UnreachableError,
    UntrustedError,
)
from hardware.host import HostState, look_at_host
from hardware.onsite import MeasureJob, OnsiteResult
from hardware.protocol import PROTOCOLS, get_protocol
from hardware.timing import InterleavedTimes, RunnerTimes
from hardware.wire import (
    PACKAGE_VERSION,
    decode_line,
    encode_line,
    error_from_json,
    error_to_json,
    job_from_json,
    job_to_json,
    result_from_json,
    result_to_json,
    spec_from_json,
    spec_to_json,
)

ARTIFACT = Artifact(
    path=Path("/here/a b.onnx"),
    format="onnx",
    sha256="ab" * 32,
    size_bytes=7,
    input_shape=(1, 3, 8, 8),
    input_dtype="float32",
    output_shape=(1, -1),
    precision="int8",
)
SPEC = DeviceSpec(
    device_id="pi", backend="onnxruntime-cpu", precision="int8", batch=1, threads=2, location="ssh://pi:22"
)


def job(*, protocol: str = "quick", timeout_s: float | None = 1.5) -> MeasureJob:
    return MeasureJob(
        spec=SPEC,
        artifacts={"one": ARTIFACT, "two": dataclasses.replace(ARTIFACT, sha256="cd" * 32)},
        reference=ARTIFACT,
        protocol=get_protocol(protocol),
        seed=2**62 - 1,
        owner="tests",
        timeout_s=timeout_s,
    )


def result(raw_ns: np.ndarray | None = None) -> OnsiteResult:
    raw_ns = np.array([[1, 2**62], [3, 4]]) if raw_ns is None else raw_ns
    slowdown = np.full(len(raw_ns), 1 / 3)
    runner = RunnerTimes(raw_ns=raw_ns, slowdown=slowdown, warmup_runs=5, involuntary_switches=0, energy_mj=0.1)
    times = InterleavedTimes(times={"one": runner}, reference="one", probes_ns=np.array([1e-300, 0.1, 7e5]))
    return OnsiteResult(
        provenance="measured",
        times=times,
        versions={"onnxruntime": "1"},
        unit_name="host:x",
        host=look_at_host(),
        foreign_cores=None,
        stolen=0.1,
        waited_s=1.0,
        lease_token=3,
    )


def over_the_wire(value: Any) -> Any:
    """What arrives: everything that JSON cannot carry would be lost here."""
    return decode_line(encode_line({"value": value}))["value"]


def same(left: InterleavedTimes, right: InterleavedTimes) -> bool:
    """Equal to the last bit; arrays have no equality of their own."""
    arrays = [
        (left.probes_ns, right.probes_ns),
        *((left.times[name].raw_ns, right.times[name].raw_ns) for name in left.times),
        *((left.times[name].slowdown, right.times[name].slowdown) for name in left.times),
    ]
    return (
        list(left.times) == list(right.times)
        and left.reference == right.reference
        and all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in arrays)
        and all(left.times[name].warmup_runs == right.times[name].warmup_runs for name in left.times)
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("timeout_s", [None, 0.0, 1.5])
def test_a_job_arrives_as_it_was_but_for_the_places_of_its_files(protocol: str, timeout_s: float | None) -> None:
    sent = job(protocol=protocol, timeout_s=timeout_s)
    found = job_from_json(over_the_wire(job_to_json(sent)), locate=lambda sha256: Path("/there") / sha256)
    assert {artifact.path.parent for artifact in found.artifacts.values()} == {Path("/there")}
    there = dataclasses.replace(ARTIFACT, path=Path("/there") / ARTIFACT.sha256)
    assert found.reference == there
    assert list(found.artifacts) == ["one", "two"]
    assert dataclasses.replace(found, artifacts=sent.artifacts, reference=sent.reference) == sent
    assert "/here" not in json.dumps(job_to_json(sent))


def test_a_description_arrives_as_it_was() -> None:
    assert spec_from_json(over_the_wire(spec_to_json(SPEC))) == SPEC


@given(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2), min_size=1, max_size=5),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_result_arrives_exact_to_the_last_bit(raw: list[list[int]], foreign_cores: float | None) -> None:
    sent = dataclasses.replace(result(np.array(raw, dtype=np.int64)), foreign_cores=foreign_cores)
    found = result_from_json(over_the_wire(result_to_json(sent)))
    assert sent.times is not None
    assert found.times is not None
    assert same(found.times, sent.times)
    assert dataclasses.replace(found, times=None) == dataclasses.replace(sent, times=None)


def test_counts_arrive_as_they_were() -> None:
    count = Count(quantity="cycles", unit="cycles", value=871_131.0, also={"sram_bytes": 157_696.0})
    sent = dataclasses.replace(result(), provenance="estimated", times=None, counts={"one": count})
    assert result_from_json(over_the_wire(result_to_json(sent))) == sent


def test_a_host_without_a_governor_arrives() -> None:
    host = HostState(cpu_model="c", governor=None, clock_mhz=None, load_average=0.0, affinity=(0, 1))
    sent = dataclasses.replace(result(), host=host)
    assert result_from_json(over_the_wire(result_to_json(sent))).host == host


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return [path, *(leaf for key, below in value.items() for leaf in leaves(below, (*path, key)))]
    return [path]


def changed(value: Any, path: tuple[Any, ...], new: object) -> Any:
    """A copy with another value at a path, or without it."""
    copy = json.loads(json.dumps(value))
    node = copy
    for key in path[:-1]:
        node = node[key]
    if new is None:
        del node[path[-1]]
    else:
        node[path[-1]] = new
    return copy


# Free names, whose values alone matter; and what may be missing or null.
FREE = {"timeout_s", "foreign_cores", "governor", "clock_mhz", "times", "file"}


@pytest.mark.parametrize("path", [path for path in leaves(result_to_json(result())) if path and path[-1] not in FREE])
def test_a_result_with_a_field_of_the_wrong_type_is_refused(path: tuple[Any, ...]) -> None:
    for wrong in (["?"], {"?": 1}):
        with pytest.raises(UntrustedError, match="the other side sent"):
            result_from_json(changed(result_to_json(result()), path, wrong))


@pytest.mark.parametrize(
    "path", [path for path in leaves(job_to_json(job())) if path and path[-1] not in {*FREE, "one", "two"}]
)
def test_a_job_without_one_of_its_fields_is_refused(path: tuple[Any, ...]) -> None:
    with pytest.raises(UntrustedError, match="the other side sent"):
        job_from_json(changed(job_to_json(job()), path, None), locate=Path)


def test_unknown_fields_of_a_description_are_refused() -> None:
    with pytest.raises(UntrustedError, match="colour"):
        spec_from_json({**spec_to_json(SPEC), "colour": "red"})


def test_values_that_cannot_be_are_refused_by_those_who_know() -> None:
    with pytest.raises(DeviceError, match="threads is 0"):
        spec_from_json({**spec_to_json(SPEC), "threads": 0})


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1]", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 100_000, b"\xff"])
def test_a_line_that_is_no_json_object_is_refused(line: bytes) -> None:
    with pytest.raises(UntrustedError, match="no JSON"):
        decode_line(line)


def test_what_is_no_number_is_not_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_line({"a": float("nan")})


@pytest.mark.parametrize(
    "kind", [DeviceError, HangingError, MeasurementError, StorageError, UnreachableError, UntrustedError]
)
def test_errors_arrive_as_the_same_class_with_message_place_and_hint(kind: type[DeviceError]) -> None:
    found = error_from_json(over_the_wire(error_to_json(kind("it broke", hint="repair it"))), place="device 'pi'")
    assert type(found) is kind
    assert str(found) == "device 'pi': it broke"
    assert found.hint == "repair it"


def test_errors_of_others_arrive_as_device_errors_with_their_name() -> None:
    found = error_from_json(over_the_wire(error_to_json(KeyError("x"))), place="device 'pi'")
    assert type(found) is DeviceError
    assert str(found) == "device 'pi': KeyError: 'x'"
    assert found.hint


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == PACKAGE_VERSION
