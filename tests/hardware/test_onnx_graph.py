"""Counts of ONNX files, against the space's own, and normalisations put into them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from hardware.artifacts.onnx import export_onnx, open_onnx
from hardware.artifacts.onnx_graph import count_onnx, normalised_inside
from hardware.cost import analytic_costs
from hardware.errors import MeasurementError
from searchspaces import get_space
from tests.hardware.onnx_files import WEIGHTS, save, save_convolution, tensor_info


class Resized(nn.Module):
    """Resizes what it is given, as the networks of a run do."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.network(x)
        return logits


def test_macs_of_a_subnet_are_those_that_its_space_counts(tmp_path: Path) -> None:
    space = get_space("mbconv-small", resolutions=[12], width=0.25, stem_stride=1)
    for arch in (space.smallest, space.largest):
        network = Resized(space.build_supernet(num_classes=10).extract(arch).eval(), 12)
        path = tmp_path / f"{arch.arch_id}.onnx"
        channels = space.input_shape(arch)[0]
        export_onnx(network, example=torch.zeros(1, channels, 8, 8), path=path)
        expected = analytic_costs(space.op_table(space.genomes([arch]), num_classes=10))
        counts = count_onnx(path)
        assert counts.macs == expected.macs_N[0]
        # Each normalisation is folded into its convolution: one bias a channel instead of scale and shift.
        assert counts.params is not None
        assert 0.8 * expected.params_N[0] < counts.params <= expected.params_N[0]


def test_counts_are_of_one_input_and_of_products_too(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    export_onnx(network, example=torch.zeros(2, 3, 8, 8), path=tmp_path / "two.onnx")
    counts = count_onnx(tmp_path / "two.onnx")
    assert counts.macs == 4 * 36 * 27 + 4 * 36 * 5
    assert counts.params == sum(parameter.numel() for parameter in network.parameters())


def test_what_cannot_be_counted_is_none(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="com.example")]
    path = save(tmp_path / "m.onnx", inputs=[tensor_info("x", 1, 4)], nodes=nodes, domains={"com.example": 1})
    counts = count_onnx(path)
    assert (counts.macs, counts.params) == (None, None)


def test_a_normalisation_goes_into_the_file(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(WEIGHTS, name="w")]
    nodes = [helper.make_node("Conv", ["pixels", "w"], ["y"])]
    inputs = [tensor_info("pixels", 1, 3, 8, 8)]
    source = open_onnx(save(tmp_path / "plain.onnx", inputs=inputs, nodes=nodes, weights=weights))
    mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    made = normalised_inside(source, mean=mean, std=std, path=tmp_path / "inside.onnx")
    assert made.input_shape == source.input_shape
    x = np.random.default_rng(0).uniform(0, 16, (1, 3, 8, 8)).astype(np.float32)
    prepared = (x - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    expected = onnxruntime.InferenceSession(source.path).run(None, {"pixels": prepared.astype(np.float32)})[0]
    name = onnx.load(made.path).graph.input[0].name
    found = onnxruntime.InferenceSession(made.path).run(None, {name: x})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert count_onnx(made.path) == count_onnx(source.path)


def test_a_normalisation_needs_an_opset_that_broadcasts(tmp_path: Path) -> None:
    source = open_onnx(save_convolution(tmp_path / "old.onnx", opset=6))
    with pytest.raises(MeasurementError, match="opset 6"):
        normalised_inside(source, mean=(0.0,) * 3, std=(1.0,) * 3, path=tmp_path / "inside.onnx")
    assert not (tmp_path / "inside.onnx").exists()
