"""`nas devices measure FILE.onnx`: files of others on ONNX Runtime and OpenVINO, and what is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from experiments.errors import DataError
from experiments.measure_file import MOST_CALIBRATION_INPUTS, read_calibration
from hardware.artifacts.onnx import open_onnx
from hardware.records import FILES, measurement_table
from tests.experiments.conftest import InProcess
from tests.hardware.onnx_files import WEIGHTS, save, save_convolution, save_split, save_unknown, tensor_info

INPUTS = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def needs(device_id: str) -> None:
    if device_id.startswith("openvino"):
        pytest.importorskip("openvino")


@pytest.mark.parametrize("device_id", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_file_with_weights_beside_it_and_two_outputs_is_measured(
    device_id: str, nas: InProcess, tmp_path: Path
) -> None:
    needs(device_id)
    onnx.save(
        onnx.load(save_convolution(tmp_path / "theirs.onnx", two_outputs=True)),
        tmp_path / "theirs.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    result = nas("devices", "measure", "theirs.onnx", "--device", device_id, "--protocol", "quick", "--format", "json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert (document["device_id"], document["precision"], document["unit"]) == (device_id, "fp32", "ms")
    rows = measurement_table(device_id, space_id=FILES).read()
    assert rows["candidate_id"].tolist() == ["theirs.onnx"]
    assert rows["p50"].tolist() == [document["p50"]]


@pytest.mark.slow
@pytest.mark.parametrize("device_id", ["onnxruntime-cpu-int8", "openvino-cpu-int8"])
def test_a_file_is_measured_in_int8_with_calibration_inputs(device_id: str, nas: InProcess, tmp_path: Path) -> None:
    needs(device_id)
    source = open_onnx(save_convolution(tmp_path / "theirs.onnx"))
    np.savez(tmp_path / "inputs.npz", INPUTS)
    arguments = ("--device", device_id, "--calibration", "inputs.npz", "--protocol", "quick", "--format", "json")
    result = nas("devices", "measure", "theirs.onnx", *arguments)
    assert result.code == 0, result.err
    assert json.loads(result.out)["precision"] == "int8"
    rows = measurement_table(device_id, space_id=FILES).read()
    # Under the name of the file that was given, whatever it was made into.
    assert rows["arch_id"].tolist() == [source.sha256[:12]]
    assert rows["artifact_sha256"].tolist() != [source.sha256]


def make_files(folder: Path) -> None:
    """A file for everything that can be wrong."""
    save_convolution(folder / "good.onnx")
    save_convolution(folder / "open.onnx", shape=("n", 3, "height", 8))
    save_convolution(folder / "four.onnx", shape=(4, 3, 8, 8))
    save_convolution(folder / "half.onnx", weights=WEIGHTS.astype(np.float16))
    save_convolution(folder / "bytes.onnx", kind=TensorProto.UINT8)
    save_unknown(folder / "acme.onnx", operator="Frobnicate", domain="com.acme", domains={"com.acme": 3})
    save_unknown(folder / "unknown.onnx", operator="Frobnicate")
    relu = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    add = [onnx.helper.make_node("Add", ["left", "right"], ["y"])]
    save(folder / "future.onnx", inputs=[tensor_info("x", 1, 3)], nodes=relu, opset=99)
    save(folder / "pair.onnx", inputs=[tensor_info("left", 1, 2), tensor_info("right", 1, 2)], nodes=add)
    save(folder / "words.onnx", inputs=[tensor_info("x", 1, 3, kind=TensorProto.STRING)], nodes=relu)
    save_split(folder / "lost.onnx")
    (folder / "weights.bin").unlink()
    (folder / "torn.onnx").write_bytes((folder / "good.onnx").read_bytes()[:-100])
    (folder / "letter.onnx").write_text("Dear reader", encoding="utf-8")
    np.save(folder / "inputs.npy", INPUTS)


@pytest.mark.parametrize(
    ("arguments", "code", "named", "hint"),
    [
        (("absent.onnx",), 2, "there is no file absent.onnx", "check the path"),
        (("letter.onnx",), 1, "letter.onnx is damaged or no ONNX file", "restore it"),
        (("torn.onnx",), 1, "torn.onnx is damaged or no ONNX file", "restore it"),
        (("lost.onnx",), 1, "missing: weights.bin", "copy what is missing to"),
        (("open.onnx",), 1, "input 'pixels' has the open shape (n, 3, height, 8)", "--input_shape 1,3,SIZE2,8"),
        (("acme.onnx",), 1, "com.acme:Frobnicate", "opset_version=17"),
        (("acme.onnx", "--device", "openvino-cpu"), 1, "com.acme.Frobnicate", "another runtime"),
        (
            ("unknown.onnx",),
            1,
            "'Frobnicate' (node 'the-node') of domain ai.onnx does not exist in opset 17",
            "replace",
        ),
        (("future.onnx",), 1, "opset 99 of domain ai.onnx", "opset_version=17"),
        (("pair.onnx",), 1, "2 inputs (left (1, 2), right (1, 2))", "one tensor"),
        (("words.onnx",), 1, "elements of type string", "float32"),
        (("four.onnx",), 2, "takes 4 inputs at once", "--batch 4"),
        (("half.onnx",), 2, "computes in fp16, device 'onnxruntime-cpu' in fp32", "export it in one of fp32, int8"),
        (("good.onnx", "--device", "torch-cpu"), 4, "takes torch files", "--device onnxruntime-cpu"),
        (("good.onnx", "--calibration", "inputs.npy"), 2, "nothing of it is calibrated", "leave --calibration out"),
        (("good.onnx", "--device", "onnxruntime-cpu-int8"), 2, "real inputs", "(N, 3, 8, 8): --calibration FILE.npy"),
        (
            ("bytes.onnx", "--device", "onnxruntime-cpu-int8", "--calibration", "inputs.npy"),
            2,
            "takes uint8, only networks that take float32 are made int8",
            "--device onnxruntime-cpu",
        ),
        (
            ("good.onnx", "--device", "onnxruntime-cpu-int8", "--calibration", "absent.npy"),
            2,
            "there is no file absent.npy",
            "check the path",
        ),
        (("smallest", "--calibration", "inputs.npy"), 2, "--calibration goes with an ONNX file", ""),
    ],
)
def test_what_cannot_be_measured_is_said_with_what_to_type(
    nas: InProcess, home: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, named: str, hint: str
) -> None:
    for word in arguments:
        needs(word)
    make_files(tmp_path)
    result = nas("devices", "measure", *arguments)
    assert named in result.err
    assert hint in result.err
    assert result.code == code
    assert result.out == ""
    assert not (home / "measurements").exists()


def test_a_file_of_int8_is_measured_only_as_what_it_is(nas: InProcess, tmp_path: Path) -> None:
    weights = [
        onnx.helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
        onnx.helper.make_tensor("zero", TensorProto.UINT8, [], [128]),
    ]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    save(tmp_path / "int8.onnx", inputs=[tensor_info("x", 1, 3)], nodes=nodes, weights=weights)
    np.save(tmp_path / "inputs.npy", INPUTS)
    refused = nas("devices", "measure", "int8.onnx")
    assert "computes in int8, device 'onnxruntime-cpu' in fp32" in refused.err
    assert "--device onnxruntime-cpu-int8" in refused.err
    assert refused.code == 2
    int8 = ("devices", "measure", "int8.onnx", "--device", "onnxruntime-cpu-int8", "--protocol", "quick")
    superfluous = nas(*int8, "--calibration", "inputs.npy")
    assert "measured in int8 as it is" in superfluous.err
    assert superfluous.code == 2
    assert nas(*int8).code == 0


def test_calibration_inputs_of_any_numbers_are_read_up_to_a_limit(tmp_path: Path) -> None:
    network = open_onnx(save_convolution(tmp_path / "theirs.onnx"))
    values = np.random.default_rng(0).integers(0, 256, (MOST_CALIBRATION_INPUTS + 9, 3, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "many.npy", values)
    found = read_calibration(tmp_path / "many.npy", network=network).numpy()
    assert found.dtype == np.float32
    assert np.array_equal(found, values[:MOST_CALIBRATION_INPUTS])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (INPUTS[0], r"has shape \(3, 8, 8\), calibration inputs of theirs\.onnx have \(N, 3, 8, 8\)"),
        (INPUTS[:, :, 1:], r"has shape \(40, 3, 7, 8\)"),
        (INPUTS[:0], r"has shape \(0, 3, 8, 8\)"),
        (np.float32(3), r"has shape \(\)"),
        (np.full((2, 3, 8, 8), np.nan, dtype=np.float32), "not finite"),
        (np.full((2, 3, 8, 8), "a"), "elements of type <U1"),
        (np.full((2, 3, 8, 8), None), "no array of numpy"),
    ],
)
def test_calibration_inputs_that_do_not_fit_are_refused(values: np.ndarray, named: str, tmp_path: Path) -> None:
    network = open_onnx(save_convolution(tmp_path / "theirs.onnx"))
    np.save(tmp_path / "wrong.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=rf"wrong\.npy .*{named}|wrong\.npy is {named}") as caught:
        read_calibration(tmp_path / "wrong.npy", network=network)
    assert "numpy.save" in caught.value.hint


def test_files_that_hold_no_single_array_are_refused(tmp_path: Path) -> None:
    network = open_onnx(save_convolution(tmp_path / "theirs.onnx"))
    np.savez(tmp_path / "two.npz", images=INPUTS, labels=np.zeros(40))
    with pytest.raises(DataError, match=r"two\.npz has the arrays \['images', 'labels'\]"):
        read_calibration(tmp_path / "two.npz", network=network)
    whole = (tmp_path / "two.npz").read_bytes()
    for name, content in (("torn.npz", whole[:200]), ("empty.npy", b""), ("letter.npy", b"Dear reader")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} is no array of numpy"):
            read_calibration(tmp_path / name, network=network)
