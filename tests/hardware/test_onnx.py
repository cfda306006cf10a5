import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from hardware.artifacts.onnx import export_onnx, open_in_one_piece, open_onnx
from hardware.errors import MeasurementError, StorageError
from hardware.testing import INPUT_SHAPE, example_network
from tests.hardware.onnx_files import WEIGHTS, save, save_convolution, save_split, save_unknown, tensor_info


class Resizing(nn.Module):
    """Raw images in, normalised and resized inside, as the exported candidates do it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = example_network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate((x - 4.9) / 6.0, size=(20, 20), mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.network(x)
        return logits


@pytest.mark.parametrize("size", [8, 12, 28])
def test_preprocessing_inside_the_file_computes_what_torch_computes(tmp_path: Path, size: int) -> None:
    module = Resizing().eval()
    artifact = export_onnx(module, example=torch.zeros(1, 1, size, size), path=tmp_path / "m.onnx")
    x = np.random.default_rng(0).uniform(0, 16, (1, 1, size, size)).astype(np.float32)
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": x})
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert artifact == open_onnx(artifact.path)


def test_the_batch_of_the_example_is_fixed(tmp_path: Path) -> None:
    artifact = export_onnx(example_network(), example=torch.zeros(7, *INPUT_SHAPE), path=tmp_path / "m.onnx")
    assert artifact.input_shape == (7, *INPUT_SHAPE)
    assert artifact.output_shape == (7, 10)


def test_a_module_in_training_mode_is_exported_for_evaluation_and_left_in_its_mode(tmp_path: Path) -> None:
    module = example_network().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    example = torch.zeros(1, *INPUT_SHAPE)
    artifact = export_onnx(module, example=example, path=tmp_path / "a.onnx")
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert artifact.sha256 == export_onnx(module.eval(), example=example, path=tmp_path / "b.onnx").sha256


def test_a_module_that_fails_is_named_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"Conv2d cannot be exported to ONNX .*\(1, 1, 12, 12\)") as caught:
        export_onnx(nn.Conv2d(3, 8, 3), example=torch.zeros(1, *INPUT_SHAPE), path=tmp_path / "m.onnx")
    assert caught.value.hint
    assert caught.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"file/m\.onnx"):
        export_onnx(example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=tmp_path / "file" / "m.onnx")


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL"])
def test_a_foreign_file_is_described(kind: str, tmp_path: Path) -> None:
    number = getattr(TensorProto, kind)
    artifact = open_onnx(save_convolution(tmp_path / "m.onnx", shape=(2, 3, 8, 8), kind=number))
    assert artifact.input_shape == (2, 3, 8, 8)
    assert np.dtype(artifact.input_dtype) == helper.tensor_dtype_to_np_dtype(number)
    assert artifact.output_shape == (2, 4, 6, 6)
    assert artifact.precision == "fp32"


def test_of_several_outputs_the_first_is_described_even_if_the_file_does_not_tell_its_shape(tmp_path: Path) -> None:
    assert open_onnx(save_convolution(tmp_path / "two.onnx", two_outputs=True)).output_shape == (1, 4, 6, 6)
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    assert open_onnx(save(tmp_path / "m.onnx", inputs=[tensor_info("x", 2, 3)], nodes=nodes)).output_shape == (2, 3)


@pytest.mark.parametrize(("kind", "precision"), [(np.float16, "fp16"), (np.float64, "fp64")])
def test_weights_of_another_width_are_another_precision(kind: type, precision: str, tmp_path: Path) -> None:
    assert open_onnx(save_convolution(tmp_path / "m.onnx", weights=WEIGHTS.astype(kind))).precision == precision


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DynamicQuantizeLinear"])
def test_a_file_that_quantises_is_of_int8(operator: str, tmp_path: Path) -> None:
    inputs, outputs = ["x", "scale", "zero"], ["q"]
    if operator == "DynamicQuantizeLinear":
        inputs, outputs = ["x"], ["q", "scale", "zero"]
    weights = [helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]), helper.make_tensor("zero", 2, [], [128])]
    nodes = [
        helper.make_node(operator, inputs, outputs),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    path = save(
        tmp_path / "m.onnx",
        inputs=[tensor_info("x", 1, 3)],
        nodes=nodes,
        weights=weights if operator == "QuantizeLinear" else [],
    )
    assert open_onnx(path).precision == "int8"


def test_an_old_file_that_lists_weights_as_inputs_has_one_input(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        inputs=[tensor_info("x", 2, 3), tensor_info("w", 3)],
        nodes=[helper.make_node("Add", ["x", "w"], ["y"])],
        weights=[helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])],
    )
    assert open_onnx(path).input_shape == (2, 3)


def test_open_sizes_are_named_and_the_command_that_is_proposed_fixes_them(tmp_path: Path) -> None:
    path = save_convolution(tmp_path / "my model.onnx", shape=("batch", 3, 8, 8))
    with pytest.raises(MeasurementError, match=r"'pixels' has the open shape \(batch, 3, 8, 8\)") as caught:
        open_onnx(path)
    assert "dynamic axes" in caught.value.hint
    command = shlex.split(caught.value.hint.partition("or: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True, timeout=120)
    assert open_onnx(tmp_path / "my model-fixed.onnx").input_shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("value", "spelled", "hint"),
    [
        (tensor_info("pixels", "n", 3, "height", None), "(n, 3, height, ?)", "--input_shape 1,3,SIZE2,SIZE3 "),
        (tensor_info("pixels", 1, -1), "(1, -1)", "--input_shape 1,SIZE1 "),
        (helper.make_tensor_value_info("pixels", TensorProto.FLOAT, None), "(unknown)", "for an input of fixed shape"),
    ],
)
def test_sizes_that_only_the_user_knows_are_left_to_fill_in(
    value: onnx.ValueInfoProto, spelled: str, hint: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.onnx", inputs=[value], nodes=[helper.make_node("Relu", ["pixels"], ["y"])])
    with pytest.raises(MeasurementError) as caught:
        open_onnx(path)
    assert f"input 'pixels' has the open shape {spelled}" in str(caught.value)
    assert hint in caught.value.hint


def test_several_inputs_are_refused_and_named(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        inputs=[tensor_info("left", 2), tensor_info("right", 2)],
        nodes=[helper.make_node("Add", ["left", "right"], ["y"])],
    )
    with pytest.raises(MeasurementError, match=r"2 inputs \(left \(2\), right \(2\)\)"):
        open_onnx(path)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (tensor_info("words", 1, 3, kind=TensorProto.STRING), "elements of type string"),
        (tensor_info("words", 1, 3, kind=TensorProto.BFLOAT16), "elements of type bfloat16"),
        (tensor_info("words", 1, 3, kind=TensorProto.INT4), "elements of type int4"),
        (tensor_info("words", 1, 3, kind=TensorProto.COMPLEX64), "elements of type complex64"),
        (helper.make_tensor_sequence_value_info("words", TensorProto.FLOAT, [1, 3]), "is a sequence"),
    ],
)
def test_an_input_that_is_no_tensor_of_numbers_is_named(value: onnx.ValueInfoProto, named: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", inputs=[value], nodes=[helper.make_node("Identity", ["words"], ["y"])])
    with pytest.raises(MeasurementError, match=f"input 'words' .*{named}") as caught:
        open_onnx(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("operator", "domain", "named"),
    [
        ("Frobnicate", "", "operator 'Frobnicate' (node 'the-node') of domain ai.onnx does not exist in opset 17"),
        ("Frobnicate", "ai.onnx.ml", "of domain ai.onnx.ml does not exist in opset 3"),
        ("Scatter", "", "operator 'Scatter' (node 'the-node') of domain ai.onnx does not exist in opset 17"),
        ("Relu", "com.acme", "of domain com.acme has no opset, the file declares only opset 17 of ai.onnx, opset 3"),
    ],
)
def test_an_operator_that_does_not_exist_is_named_with_domain_and_opset(
    operator: str, domain: str, named: str, tmp_path: Path
) -> None:
    path = save_unknown(tmp_path / "m.onnx", operator=operator, domain=domain, domains={"ai.onnx.ml": 3})
    with pytest.raises(MeasurementError) as caught:
        open_onnx(path)
    assert named in str(caught.value)
    assert caught.value.hint


def test_an_operator_that_does_not_exist_is_found_in_a_branch(tmp_path: Path) -> None:
    def branch(operator: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(operator, ["x"], ["b"])], operator, [], [tensor_info("b", 1, 3)])

    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch("Abs"), else_branch=branch("Frobnicate"))
    path = save(
        tmp_path / "m.onnx",
        inputs=[tensor_info("x", 1, 3)],
        nodes=[node],
        weights=[helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
    )
    with pytest.raises(MeasurementError, match="'Frobnicate'"):
        open_onnx(path)


def test_an_operator_that_the_file_itself_defines_is_no_unknown_one(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("com.acme", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    path = save(
        tmp_path / "m.onnx",
        inputs=[tensor_info("x", 1, 3)],
        nodes=[helper.make_node("Mine", ["x"], ["y"], domain="com.acme")],
        outputs=[tensor_info("y", 1, 3)],
        domains={"com.acme": 1},
        functions=[function],
    )
    assert open_onnx(path).output_shape == (1, 3)


@pytest.mark.parametrize(
    ("opset", "ir_version", "named"), [(99, 8, "opset 99 of domain ai.onnx"), (17, 99, "IR version 99")]
)
def test_a_file_from_the_future_is_refused_with_what_is_known(
    opset: int, ir_version: int, named: str, tmp_path: Path
) -> None:
    path = save(
        tmp_path / "m.onnx",
        inputs=[tensor_info("x", 1, 3)],
        nodes=[helper.make_node("Relu", ["x"], ["y"])],
        opset=opset,
        ir_version=ir_version,
    )
    with pytest.raises(MeasurementError, match=rf"m\.onnx has {named}, onnx {onnx.__version__} knows up to") as caught:
        open_onnx(path)
    assert "opset_version=17" in caught.value.hint


def test_weights_in_other_files_are_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="keeps weights in other files: w"):
        open_onnx(save_split(tmp_path / "split.onnx"))


def test_a_file_with_weights_in_other_files_is_copied_into_one(tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    path = save_split(tmp_path / "split.onnx")
    before = path.read_bytes()
    artifact = open_in_one_piece(path, folder=tmp_path / "copies")
    assert artifact.path == tmp_path / "copies" / "split.onnx"
    assert path.read_bytes() == before
    (weights,) = onnx.load(artifact.path, load_external_data=False).graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(weights), WEIGHTS)
    whole = save_convolution(tmp_path / "whole.onnx")
    assert open_in_one_piece(whole, folder=tmp_path / "copies") == open_onnx(whole)


def test_other_files_that_are_missing_short_or_elsewhere_are_named(tmp_path: Path) -> None:
    path = save_split(tmp_path / "split.onnx")
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"split\.onnx and the files with its weights \(weights\.bin\).*100 bytes"):
        open_in_one_piece(path, folder=tmp_path)
    weights.unlink()
    with pytest.raises(StorageError, match=r"split\.onnx .*missing: weights\.bin") as caught:
        open_in_one_piece(path, folder=tmp_path)
    assert str(tmp_path) in caught.value.hint
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../../../../../../../etc/passwd"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(StorageError, match="etc/passwd"):
        open_in_one_piece(path, folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a network", None])
def test_a_torn_or_foreign_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    artifact = export_onnx(example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=tmp_path / "m.onnx")
    whole = artifact.path.read_bytes()
    artifact.path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(StorageError, match=r"m\.onnx is damaged or no ONNX file"):
        open_onnx(artifact.path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.onnx"):
        open_onnx(tmp_path / "absent.onnx")
    with pytest.raises(StorageError, match=r"absent\.onnx"):
        open_in_one_piece(tmp_path / "absent.onnx", folder=tmp_path)
