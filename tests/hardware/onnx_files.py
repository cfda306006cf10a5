"""Tiny ONNX files, put together operator by operator, as others may have written them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def tensor_info(name: str, *shape: int | str | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def save(
    path: Path,
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto] = (),
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    domains: dict[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    ir_version: int = 8,
) -> Path:
    """Write a graph; without `outputs` its output is "y", of a shape that is not told."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        list(inputs),
        list(outputs) or [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=list(weights),
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **(domains or {})}.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))
    path.write_bytes(model.SerializeToString())
    return path


def save_convolution(
    path: Path,
    *,
    shape: Sequence[int | str | None] = (1, 3, 8, 8),
    kind: int = TensorProto.FLOAT,
    two_outputs: bool = False,
    opset: int = 17,
    weights: np.ndarray = WEIGHTS,
) -> Path:
    """A convolution and a ReLU, from "pixels" (1, 3, 8, 8) to "y" (1, 4, 6, 6); integers are cast first."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=helper.np_dtype_to_tensor_dtype(weights.dtype)),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["z"]),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    return save(
        path,
        inputs=[tensor_info("pixels", *shape, kind=kind)],
        nodes=[*nodes, helper.make_node("Abs", ["c"], ["a"])] if two_outputs else nodes,
        outputs=[tensor_info(name, None, 4, None, None) for name in (("y", "a") if two_outputs else ("y",))],
        weights=[numpy_helper.from_array(weights, "w")],
        opset=opset,
        ir_version=7 if opset < 13 else 10,
    )


def save_unknown(path: Path, *, operator: str, domain: str = "", domains: dict[str, int] | None = None) -> Path:
    """One operator, of whatever name."""
    return save(
        path,
        inputs=[tensor_info("x", 1, 3)],
        nodes=[helper.make_node(operator, ["x"], ["y"], name="the-node", domain=domain)],
        outputs=[tensor_info("y", 1, 3)],
        domains=domains,
    )


def save_split(path: Path) -> Path:
    """A convolution whose weights are in the file "weights.bin" beside it."""
    whole = onnx.load(save_convolution(path))
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path
