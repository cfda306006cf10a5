"""What an ONNX file of anybody's computes: its counts, and the same file with a normalisation put before it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.onnx import open_onnx
from hardware.artifacts.onnx_checks import only_input, opsets
from hardware.errors import MeasurementError
from hardware.files import staged_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

_CONVOLUTIONS, _PRODUCTS = ("Conv", "ConvTranspose"), ("Gemm", "MatMul")
_NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
# They multiply too, or hide graphs of their own, in ways that are not counted here.
_UNCOUNTED = {"LSTM", "GRU", "RNN", "Einsum", "Attention", "If", "Loop", "Scan", "DequantizeLinear"}
_UNCOUNTED |= {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
_FEWEST_OPSET = 7
_PREFIX = "archsmith_"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxCounts:
    """Counts of a file, for one of the inputs that it takes at once; None where an operator is not known well enough.

    Attributes:
        macs: multiply-accumulate operations of convolutions and matrix products.
        params: elements of the weights and biases of convolutions, matrix products and normalisations (a running mean
            or variance is none).
    """

    macs: int | None
    params: int | None


def count_onnx(path: Path) -> OnnxCounts:
    """Count a file that `open_onnx` accepts."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    nodes = list(model.graph.node)
    if model.functions or any(node.op_type in _UNCOUNTED or node.domain not in ("", "ai.onnx") for node in nodes):
        return OnnxCounts(macs=None, params=None)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            weights[node.output[0]] = tuple(node.attribute[0].t.dims)
    graph = model.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: _shape(value) for value in values} | weights
    macs = [_macs(node, shapes=shapes) for node in nodes]
    batch = shapes[only_input(model, path=path).name][0]
    counted = sum(count for count in macs if count is not None)
    return OnnxCounts(macs=None if None in macs else counted // batch, params=_params(nodes, weights=weights))


def _shape(value: "onnx.ValueInfoProto") -> tuple[int, ...]:
    return tuple(int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def _macs(node: "onnx.NodeProto", *, shapes: "Mapping[str, tuple[int, ...]]") -> int | None:
    """Of one operator; None if a shape that it needs is open (a size of 0) or missing."""
    if node.op_type not in (*_CONVOLUTIONS, *_PRODUCTS):
        return 0
    given, weight = (shapes.get(name, ()) for name in node.input[:2])
    made = shapes.get(node.output[0], ())
    if not all(shape and min(shape) > 0 for shape in (given, weight, made)):
        return None
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(given) * math.prod(weight[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(made) * given[0 if transposed else -1]


def _params(nodes: "Sequence[onnx.NodeProto]", *, weights: "Mapping[str, tuple[int, ...]]") -> int | None:
    """None if a convolution gets its weights from another operator."""
    used: set[str] = set()
    products: set[str] = set()
    for node in nodes:
        if node.op_type in _CONVOLUTIONS and node.input[1] not in weights:
            return None
        if node.op_type in (*_CONVOLUTIONS, *_PRODUCTS, *_NORMS):
            # The inputs after the third are the statistics of a BatchNormalization.
            used.update(node.input[:3])
            products.add(node.output[0])
        elif node.op_type == "Add" and products.intersection(node.input):
            used.update(node.input)  # a bias
    return sum(math.prod(weights[name]) for name in used if name in weights)


def normalised_inside(source: Artifact, *, mean: "Sequence[float]", std: "Sequence[float]", path: Path) -> Artifact:
    """Write a file that computes `source` of (x - mean) / std, channel by channel.

    Args:
        source: takes normalised float32 inputs (N, C, ...); left as it is.
        mean: one a channel.
        std: above zero, one a channel.
        path: written whole or not at all.

    Raises:
        MeasurementError: the file's opset is too old.
        StorageError: the file cannot be written.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source.path)
    opset = opsets(model).get("", 0)
    if opset < _FEWEST_OPSET:
        raise MeasurementError(
            f"{source.path} has opset {opset} of domain ai.onnx, a normalisation can be put before {_FEWEST_OPSET} or "
            "more",
            hint="export it again with opset_version=17",
        )
    graph, value = model.graph, only_input(model, path=source.path)
    per_channel = (1, -1, *(1 for _ in source.input_shape[2:]))
    for name, numbers in (("mean", mean), ("std", std)):
        array = np.asarray(numbers, dtype=np.float32).reshape(per_channel)
        graph.initializer.append(numpy_helper.from_array(array, name=_PREFIX + name))
    inner, raw = value.name, f"{_PREFIX}raw"
    before = [
        helper.make_node("Sub", [raw, f"{_PREFIX}mean"], [f"{_PREFIX}centred"], name=f"{_PREFIX}sub"),
        helper.make_node("Div", [f"{_PREFIX}centred", f"{_PREFIX}std"], [inner], name=f"{_PREFIX}div"),
    ]
    value.name = raw
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *after])
    with staged_file(path) as temporary:
        onnx.save(model, temporary)
    return open_onnx(path)
