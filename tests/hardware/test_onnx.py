from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from hardware.artifacts.onnx import export_onnx, open_onnx
from hardware.errors import MeasurementError, StorageError
from hardware.testing import INPUT_SHAPE, example_network


class Resizing(nn.Module):
    """Raw images in, normalised and resized inside, as the exported candidates do it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = example_network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate((x - 4.9) / 6.0, size=(20, 20), mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.network(x)
        return logits


def save(
    path: Path,
    *,
    rank: int = 2,
    inputs: list[Any],
    nodes: list[Any] | None = None,
    initializers: list[Any] | None = None,
) -> Path:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?"] * rank)
    nodes = [helper.make_node("Relu", [inputs[0].name], ["y"])] if nodes is None else nodes
    graph = helper.make_graph(nodes, "g", inputs, [output], initializer=initializers or [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def tensor_info(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


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


def test_a_foreign_file_is_described(tmp_path: Path) -> None:
    artifact = open_onnx(save(tmp_path / "m.onnx", inputs=[tensor_info("anything", 2, 3)]))
    assert (artifact.input_shape, artifact.input_dtype, artifact.output_shape) == ((2, 3), "float32", (2, 3))
    integers = open_onnx(
        save(
            tmp_path / "i.onnx",
            inputs=[tensor_info("q", 1, 4, kind=TensorProto.INT8)],
            nodes=[helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)],
        )
    )
    assert integers.input_dtype == "int8"


def test_an_old_file_that_lists_weights_as_inputs_has_one_input(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    inputs = [tensor_info("x", 2, 3), tensor_info("w", 3)]
    add = [helper.make_node("Add", ["x", "w"], ["y"])]
    assert open_onnx(save(tmp_path / "m.onnx", inputs=inputs, nodes=add, initializers=[weight])).input_shape == (2, 3)


def test_open_sizes_are_refused_and_spelled_out(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", inputs=[tensor_info("pixels", "batch", 3)])
    with pytest.raises(MeasurementError, match=r"'pixels' has the open shape \(batch, 3\)") as caught:
        open_onnx(path)
    assert "dynamic axes" in caught.value.hint


def test_several_inputs_are_refused_and_named(tmp_path: Path) -> None:
    inputs = [tensor_info("left", 2), tensor_info("right", 2)]
    path = save(tmp_path / "m.onnx", rank=1, inputs=inputs, nodes=[helper.make_node("Add", ["left", "right"], ["y"])])
    with pytest.raises(MeasurementError, match=r"2 inputs \(left \(2\), right \(2\)\)"):
        open_onnx(path)


def test_weights_in_other_files_are_refused_and_named(tmp_path: Path) -> None:
    artifact = export_onnx(example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=tmp_path / "m.onnx")
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(artifact.path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(MeasurementError, match="keeps weights in other files"):
        open_onnx(path)


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
