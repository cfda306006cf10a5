"""bakenn's quantised graph as data: JSON and a safetensors file, which run no code when they are read."""

import dataclasses
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bakenn.ir import QuantizedGraph, TensorType

    from hardware.files import JSON


def encode_graph(graph: "QuantizedGraph") -> "tuple[JSON, bytes]":
    """Return a graph as a JSON value and its constants as the content of a safetensors file."""
    from safetensors.numpy import save

    value: JSON = {
        "name": graph.name,
        "arithmetic_profile": graph.arithmetic_profile,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "values": {name: _plain(dataclasses.asdict(tensor)) for name, tensor in graph.values.items()},
        "ops": [{"kind": type(op).__name__, **_plain(dataclasses.asdict(op))} for op in graph.ops],  # type: ignore[call-overload]
    }
    return value, save(dict(graph.constants))


def decode_graph(value: Any, constants: bytes) -> "QuantizedGraph":  # noqa: ANN401
    """Return the graph that `encode_graph` wrote.

    Raises:
        Exception: whatever bakenn, safetensors or Python say to a value that is no graph.
    """
    from bakenn import ir
    from safetensors.numpy import load

    kinds = {name: getattr(ir, name) for name in ir.__all__ if name.endswith("Op") and name != "Op"}
    graph = ir.QuantizedGraph(
        name=value["name"],
        values={name: _tensor_type(fields) for name, fields in value["values"].items()},
        # safetensors sorts by name; the order decides how the C constants are called.
        constants=load(constants),
        ops=tuple(
            kinds[fields["kind"]](**{name: _tuple(item) for name, item in fields.items() if name != "kind"})
            for fields in value["ops"]
        ),
        inputs=tuple(value["inputs"]),
        outputs=tuple(value["outputs"]),
        arithmetic_profile=value["arithmetic_profile"],
    )
    ir.verify_graph(graph)
    return graph


def _tensor_type(fields: dict[str, Any]) -> "TensorType":
    from bakenn.ir import DType, Layout, PerAxisQParams, PerTensorQParams, TensorType

    qparams = {name: _tuple(item) for name, item in fields["qparams"].items()}
    return TensorType(
        shape=tuple(fields["shape"]),
        dtype=DType(fields["dtype"]),
        layout=Layout(fields["layout"]),
        qparams=PerAxisQParams(**qparams) if "axis" in qparams else PerTensorQParams(**qparams),
    )


def _plain(item: Any) -> Any:  # noqa: ANN401
    if isinstance(item, Enum):
        return item.value
    if isinstance(item, dict):
        return {name: _plain(part) for name, part in item.items()}
    return [_plain(part) for part in item] if isinstance(item, (list, tuple)) else item


def _tuple(item: Any) -> Any:  # noqa: ANN401
    return tuple(_tuple(part) for part in item) if isinstance(item, list) else item
