"""Formats by name: the device that writes and judges them, and what is said where there is none."""

import importlib.util
import sys
from pathlib import Path

import pytest

from hardware import backends
from hardware.device import find_backend, get_device, list_devices
from hardware.errors import DeviceError
from hardware.formats import device_for_format, format_name

PAIRS = [(name, precision) for name in ("onnx", "openvino", "litert", "executorch") for precision in ("fp32", "int8")]


@pytest.mark.parametrize(("name", "precision"), [*PAIRS, ("cmsis", "int8")])
def test_a_format_has_a_device_that_writes_it_in_that_precision(name: str, precision: str) -> None:
    try:
        device_id = device_for_format(name, precision=precision)
    except DeviceError as e:
        if "cannot be written" not in str(e):
            raise
        pytest.skip(str(e))
    device = get_device(device_id)
    assert (format_name(device.backend), device.spec.precision) == (name, precision)


def test_on_a_machine_with_several_runtimes_of_a_format_the_measured_cpu_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aaa_runtimes.py").write_text(
        "from dataclasses import replace\n"
        "from hardware.backends.onnxruntime_cpu import BACKEND\n"
        "ESTIMATE = replace(BACKEND, name='aaa-estimate-cpu', provenance='estimated')\n"
        "BACKENDS = (ESTIMATE, replace(BACKEND, name='aaa-gpu'))\n"
    )
    monkeypatch.setattr(backends, "__path__", [str(tmp_path), *backends.__path__])
    try:
        assert {"aaa-estimate-cpu", "aaa-gpu"} <= {status.device_id for status in list_devices()}
        assert device_for_format("onnx", precision="fp32") == "onnxruntime-cpu"
        assert device_for_format("onnx", precision="int8") == "onnxruntime-cpu-int8"
        monkeypatch.setattr(type(find_backend("onnxruntime-cpu")), "missing", unplugged)
        assert device_for_format("onnx", precision="fp32") == "aaa-gpu"
    finally:
        sys.modules.pop("hardware.backends.aaa_runtimes", None)


def unplugged(backend: object) -> str | None:
    return "it was unplugged" if getattr(backend, "name", "") == "onnxruntime-cpu" else None


@pytest.mark.parametrize(("name", "precision"), [("tflite", "fp32"), ("onnx", "int4"), ("cmsis", "fp32"), ("", "fp32")])
def test_what_no_backend_writes_is_refused_with_what_there_is(name: str, precision: str) -> None:
    with pytest.raises(DeviceError, match=rf"no backend writes '{name}' files in '{precision}', there are: ") as caught:
        device_for_format(name, precision=precision)
    assert "onnx in fp32, onnx in int8" in str(caught.value)
    assert "nas export RUN --format" in caught.value.hint


def test_a_missing_runtime_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_openvino(name: str, package: str | None = None) -> object:
        return None if name == "openvino" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_openvino)
    with pytest.raises(
        DeviceError, match="'openvino' files cannot be written in 'fp32' here: openvino-cpu: "
    ) as caught:
        device_for_format("openvino", precision="fp32")
    assert "openvino" in str(caught.value)
    assert caught.value.hint.startswith("pip install openvino")
