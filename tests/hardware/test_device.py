import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from hardware import backends, get_device, list_devices
from hardware.device import Device, DeviceSpec, find_backend, fp32_sibling
from hardware.errors import DeviceError


def test_every_listed_device_that_is_available_can_be_got() -> None:
    statuses = list_devices()
    assert "onnxruntime-cpu" in [status.device_id for status in statuses]
    assert [status.device_id for status in statuses] == sorted(status.device_id for status in statuses)
    for status in statuses:
        assert status.available == (not status.reason) == (not status.hint)
        if status.available:
            device = get_device(status.device_id)
            assert device.spec.device_id == status.device_id
            assert device.spec.backend == device.backend.name == status.backend
            assert status.versions == device.backend.versions()


def device(device_id: str, backend: str, **settings: object) -> Device:
    spec = DeviceSpec(device_id=device_id, backend=backend, **settings)  # type: ignore[arg-type]
    return Device(spec=spec, backend=find_backend(backend))


def test_the_fp32_sibling_differs_in_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp32_sibling(device("onnxruntime-cpu-int8", "onnxruntime-cpu", precision="int8")) == "onnxruntime-cpu"
    assert fp32_sibling(device("onnxruntime-cpu", "onnxruntime-cpu")) is None
    assert fp32_sibling(device("cortex-m4", "cortex-m4", precision="int8")) is None
    entry = "  - {{id: {}, backend: onnxruntime-cpu, precision: {}, threads: {}, where: {{ssh: {{host: pi}}}}}}\n"
    devices = [("one", "fp32", 1), ("two", "fp32", 2), ("quick", "int8", 2), ("four", "int8", 4)]
    (tmp_path / "devices.yaml").write_text("devices:\n" + "".join(entry.format(*one) for one in devices))
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(tmp_path / "devices.yaml"))
    assert fp32_sibling(get_device("quick")) == "two"
    assert fp32_sibling(get_device("four")) is None


def test_threads_and_batch_go_into_the_spec() -> None:
    spec = get_device("onnxruntime-cpu", threads=1, batch=8).spec
    assert spec == DeviceSpec(
        device_id="onnxruntime-cpu", backend="onnxruntime-cpu", precision="fp32", batch=8, threads=1, location="local"
    )


def test_an_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DeviceError, match=r"'abacus', known are \[.*'onnxruntime-cpu'") as caught:
        get_device("abacus")
    assert "nas devices list" in caught.value.hint


@pytest.mark.parametrize("field", ["threads", "batch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_numbers_below_one_are_refused(field: str, value: int) -> None:
    with pytest.raises(DeviceError, match=f"{field} is {value}"):
        DeviceSpec(device_id="d", backend="b", **{field: value})  # type: ignore[arg-type]


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(DeviceError, match="threads is 100000, this process may use"):
        get_device("onnxruntime-cpu", threads=100_000)


def test_a_missing_runtime_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_runtime(name: str, package: str | None = None) -> object:
        return None if name == "onnxruntime" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_runtime)
    with pytest.raises(DeviceError, match="onnxruntime are not installed") as caught:
        get_device("onnxruntime-cpu")
    assert "pip install" in caught.value.hint
    (status,) = [status for status in list_devices() if status.device_id == "onnxruntime-cpu"]
    assert not status.available
    assert "onnxruntime" in status.reason
    assert status.versions == {}


def test_a_new_module_in_the_folder_is_a_new_device_and_a_broken_one_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_runtime.py").write_text(
        "from dataclasses import replace\n"
        "from hardware.backends import onnxruntime_cpu\n"
        "BACKEND = replace(onnxruntime_cpu.BACKEND, name='toy-runtime')\n"
    )
    (tmp_path / "broken_runtime.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    try:
        assert get_device("toy-runtime").spec.precision == "fp32"
        assert get_device("toy-runtime-int8").spec.precision == "int8"
        (broken,) = [status for status in list_devices() if status.device_id == "broken-runtime"]
        assert not broken.available
        assert "a_module_that_nobody_has" in broken.reason
        assert get_device("onnxruntime-cpu").spec.device_id == "onnxruntime-cpu"
        with pytest.raises(DeviceError, match="a_module_that_nobody_has"):
            get_device("broken-runtime")
    finally:
        for name in ("toy_runtime", "broken_runtime"):
            sys.modules.pop(f"hardware.backends.{name}", None)


def test_devices_of_one_host_share_their_physical_unit() -> None:
    spec = get_device("onnxruntime-cpu").spec
    unit = spec.physical_unit()
    assert re.fullmatch(r"host:[0-9a-f]{12}", unit)
    assert dataclasses.replace(spec, device_id="other", backend="other").physical_unit() == unit
    machine_id = Path("/etc/machine-id")
    if machine_id.is_file() and machine_id.read_text().strip():
        assert unit.removeprefix("host:") not in machine_id.read_text()


def test_a_spec_cannot_be_changed() -> None:
    spec = get_device("onnxruntime-cpu").spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.threads = 2  # type: ignore[misc]
