"""ONNX files that others wrote, on the devices that take them."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.artifacts.onnx import open_onnx
from hardware.backends.backend import OnnxImporter
from hardware.device import Device
from hardware.errors import DeviceError, MeasurementError
from hardware.files import sha256_file
from hardware.formats import onnx_devices, onnx_importer
from tests.hardware.onnx_files import save, save_convolution, save_unknown, tensor_info

CALIBRATION = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RUNTIMES = ["onnxruntime-cpu", "openvino-cpu"]


def device_of(device_id: str) -> Device:
    if device_id.startswith("openvino"):
        pytest.importorskip("openvino")
    return get_device(device_id)


def imported(
    device: Device, source: Artifact, *, calibration: torch.Tensor | None = None, name: str = "made"
) -> Artifact:
    path = source.path.with_name(name)
    precision = device.spec.precision
    return onnx_importer(device).import_onnx(source, path=path, precision=precision, calibration=calibration)


def predicted(device: Device, artifact: Artifact, x: np.ndarray) -> np.ndarray:
    session = device.backend.load(artifact, spec=device.spec)
    session.set_input(x)
    session.run()
    found = session.predict(x)
    session.close()
    return found


def expected(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["y"], {"pixels": x})[0]
    return found


@pytest.mark.parametrize("device_id", RUNTIMES)
@pytest.mark.parametrize("two_outputs", [False, True])
def test_a_foreign_file_computes_what_it_says(device_id: str, two_outputs: bool, tmp_path: Path) -> None:
    device = device_of(device_id)
    source = open_onnx(save_convolution(tmp_path / "theirs.onnx", two_outputs=two_outputs))
    before = sha256_file(source.path)
    artifact = imported(device, source)
    x = CALIBRATION[:1].numpy()
    assert np.allclose(predicted(device, artifact, x), expected(source.path, x), atol=1e-4)
    assert sha256_file(source.path) == before
    assert artifact.format == device.backend.artifact_format


@pytest.mark.parametrize("device_id", RUNTIMES)
@pytest.mark.parametrize("kind", ["INT64", "UINT8", "BOOL", "FLOAT16", "DOUBLE"])
def test_inputs_of_other_numbers_are_taken_and_no_others_instead(device_id: str, kind: str, tmp_path: Path) -> None:
    device = device_of(device_id)
    source = open_onnx(save_convolution(tmp_path / "theirs.onnx", kind=getattr(TensorProto, kind)))
    artifact = imported(device, source)
    assert artifact.input_dtype == source.input_dtype
    x = (CALIBRATION[:1].numpy() > 0).astype(source.input_dtype)
    assert np.allclose(predicted(device, artifact, x), expected(source.path, x), atol=1e-2)
    with pytest.raises(MeasurementError, match=rf"takes {source.input_dtype} of shape .*, got float32"):
        predicted(device, artifact, x.astype(np.float32))


@pytest.mark.parametrize("device_id", RUNTIMES)
def test_a_file_is_made_int8_with_calibration_inputs(device_id: str, tmp_path: Path) -> None:
    device = device_of(f"{device_id}-int8")
    source = open_onnx(save_convolution(tmp_path / "theirs.onnx"))
    artifact = imported(device, source, calibration=CALIBRATION)
    assert (source.precision, artifact.precision) == ("fp32", "int8")
    x = CALIBRATION[:1].numpy()
    wanted = expected(source.path, x)
    difference = np.abs(predicted(device, artifact, x) - wanted).max() / np.abs(wanted).max()
    # Not too close either: the file would be in fp32.
    assert 1e-4 < difference < 0.1
    with pytest.raises(MeasurementError, match="without calibration inputs"):
        imported(device, source, name="other")


@pytest.mark.parametrize("device_id", RUNTIMES)
def test_a_file_of_int8_stays_what_it_is(device_id: str, tmp_path: Path) -> None:
    quantised = imported(
        device_of("onnxruntime-cpu-int8"),
        open_onnx(save_convolution(tmp_path / "theirs.onnx")),
        calibration=CALIBRATION,
        name="int8.onnx",
    )
    device = device_of(f"{device_id}-int8")
    artifact = imported(device, open_onnx(quantised.path))
    assert artifact.precision == "int8"
    x = CALIBRATION[:1].numpy()
    wanted = expected(quantised.path, x)
    assert np.abs(predicted(device, artifact, x) - wanted).max() <= 0.05 * np.abs(wanted).max()
    plain = device_of(device_id)
    with pytest.raises(DeviceError, match="computes in int8"):
        predicted(plain, imported(plain, open_onnx(quantised.path), name="again"), x)


@pytest.mark.parametrize("device_id", RUNTIMES)
def test_a_batch_of_several_is_calibrated_in_batches(device_id: str, tmp_path: Path) -> None:
    device = device_of(f"{device_id}-int8")
    device = dataclasses.replace(device, spec=dataclasses.replace(device.spec, batch=16))
    source = open_onnx(save_convolution(tmp_path / "theirs.onnx", shape=(16, 3, 8, 8)))
    artifact = imported(device, source, calibration=CALIBRATION)
    x = CALIBRATION[:16].numpy()
    wanted = expected(source.path, x)
    assert np.abs(predicted(device, artifact, x) - wanted).max() <= 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("device_id", RUNTIMES)
def test_an_operator_that_a_runtime_lacks_is_named_with_its_domain_and_what_the_file_asks_for(
    device_id: str, tmp_path: Path
) -> None:
    device = device_of(device_id)
    path = save_unknown(tmp_path / "theirs.onnx", operator="Frobnicate", domain="com.acme", domains={"com.acme": 3})
    with pytest.raises(MeasurementError, match=r"theirs\.onnx.*com\.acme[.:]Frobnicate") as caught:
        predicted(device, imported(device, open_onnx(path)), np.zeros((1, 3), dtype=np.float32))
    assert "opset 17 of ai.onnx, opset 3 of com.acme, IR version 8" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_an_opset_that_onnx_runtime_does_not_know_yet_is_named(tmp_path: Path) -> None:
    device, opset = get_device("onnxruntime-cpu"), onnx.defs.onnx_opset_version()
    source = open_onnx(save_convolution(tmp_path / "theirs.onnx", opset=opset))
    refusal: MeasurementError | None = None
    try:
        device.backend.load(source, spec=device.spec).close()
    except MeasurementError as e:
        refusal = e
    if refusal is None:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} knows the newest opset")
    assert f"the file has opset {opset} of ai.onnx" in str(refusal)
    assert "/onnxruntime_src" not in str(refusal)
    assert "opset_version=17" in refusal.hint


@pytest.mark.parametrize("device_id", RUNTIMES)
def test_a_file_with_nothing_to_quantise_is_refused(device_id: str, tmp_path: Path) -> None:
    device = device_of(f"{device_id}-int8")
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = save(tmp_path / "m.onnx", inputs=[tensor_info("x", 1, 3)], nodes=nodes, outputs=[tensor_info("y", 1, 3)])
    with pytest.raises(MeasurementError, match=r"m\.onnx has (no convolution|nothing)") as caught:
        imported(device, open_onnx(path), calibration=torch.randn(8, 3))
    assert "fp32" in caught.value.hint
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_an_opset_without_int8_is_refused_by_onnx_runtime(tmp_path: Path) -> None:
    source = open_onnx(save_convolution(tmp_path / "m.onnx", opset=11))
    with pytest.raises(MeasurementError, match=r"opset 11 of domain ai\.onnx, int8 needs 13") as caught:
        imported(get_device("onnxruntime-cpu-int8"), source, calibration=CALIBRATION)
    assert "opset_version=17" in caught.value.hint


def test_devices_that_take_no_onnx_files_name_their_format_and_those_that_do() -> None:
    takers = onnx_devices()
    assert {"onnxruntime-cpu", "onnxruntime-cpu-int8"} <= set(takers)
    assert not [name for name in takers if name.startswith(("torch", "litert", "executorch", "ethos", "cortex"))]
    for device_id, spelled in (("torch-cpu", "torch"), ("torch-cpu-int8", "torch"), ("litert-cpu", "litert")):
        try:
            device = get_device(device_id)
        except DeviceError as e:
            pytest.skip(str(e))
        assert not isinstance(device.backend, OnnxImporter)
        with pytest.raises(DeviceError, match=f"device '{device_id}' takes {spelled} files") as caught:
            onnx_importer(device)
        assert ", ".join(takers) in str(caught.value)
        assert "--device onnxruntime-cpu" in caught.value.hint


def test_a_device_of_the_file_takes_onnx_files_as_its_backend_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = tmp_path / "devices.yaml"
    fleet.write_text("devices: [{id: mine, backend: onnxruntime-cpu, where: local}]", encoding="utf-8")
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(fleet))
    assert "mine" in onnx_devices()
