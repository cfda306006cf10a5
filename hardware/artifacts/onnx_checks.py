"""What is looked at in ONNX files that anybody may have written, so that what is wrong is said by its name."""

import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import onnx

DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)
"""Element types of inputs that can be measured."""
_INT8_OPERATORS = {
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
}
_WIDTHS = {"FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}
# The domains whose operators the package onnx knows; the first has two names.
_KNOWN_DOMAINS = ("", "ai.onnx.ml")


def only_input(model: "onnx.ModelProto", *, path: Path) -> "onnx.ValueInfoProto":
    """Return the one input of a model, whose shape is fixed and whose elements are numbers.

    Raises:
        MeasurementError: there are several inputs or none, no output, an open size, or elements of another type; the
            message names inputs and sizes, the hint says how to fix them.
    """
    import onnx

    graph = model.graph
    # Old files list the weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or not graph.output:
        spelled = ", ".join(f"{value.name} {_spelled(value)}" for value in inputs)
        raise MeasurementError(
            f"{path} has {len(inputs)} inputs ({spelled}) and {len(graph.output)} outputs, "
            "only networks with one input can be measured",
            hint="wrap the network so that it takes one tensor, and export it again",
        )
    value: onnx.ValueInfoProto = inputs[0]
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise MeasurementError(
            f"{path}: input {value.name!r} is a {str(kind).removesuffix('_type')}, only tensors can be measured",
            hint="wrap the network so that it takes one tensor, and export it again",
        )
    dtype = dtype_of(value)
    if dtype not in DTYPES:
        raise MeasurementError(
            f"{path}: input {value.name!r} has elements of type {dtype}, can be measured: {', '.join(DTYPES)}",
            hint="export it again with an input of one of these types, best float32",
        )
    shape = shape_of(value)
    if not shape or min(shape) < 1:
        raise MeasurementError(
            f"{path}: input {value.name!r} has the open shape {_spelled(value)}, a measurement needs fixed sizes",
            hint=_how_to_fix(value, path=path),
        )
    return value


def dtype_of(value: "onnx.ValueInfoProto") -> str:
    """Return the numpy name of a tensor's element type; of those that numpy lacks, ONNX's own in lower case."""
    import onnx

    number = value.type.tensor_type.elem_type
    name = _type_name(number)
    return name.lower() if name in ("STRING", "UNDEFINED", "") else str(onnx.helper.tensor_dtype_to_np_dtype(number))


def shape_of(value: "onnx.ValueInfoProto") -> tuple[int, ...]:
    """Return a tensor's shape, -1 where a size is open; () also where nothing is known."""
    dims = value.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in dims)


def precision_of(model: "onnx.ModelProto") -> str:
    """Return the number format that a model computes in: "int8", "fp32", or that of its weights, for example "fp16"."""
    if any(node.op_type in _INT8_OPERATORS for node in model.graph.node):
        return "int8"
    # Scalars and vectors of other types are constants on the side.
    names = {_type_name(tensor.data_type) for tensor in model.graph.initializer if len(tensor.dims) > 1}
    return next((spelled for name, spelled in _WIDTHS.items() if name in names), "fp32")


def require_known_opset(model: "onnx.ModelProto", *, path: Path) -> None:
    """Refuse files that are newer than the installed package onnx: nobody here knows what their operators mean.

    Raises:
        MeasurementError: the message names domain and opset, or the IR version.
    """
    import onnx

    newest, version = onnx.defs.onnx_opset_version(), metadata.version("onnx")
    opset = opsets(model).get("", 0)
    hint = "export it again with an older opset: torch.onnx.export(..., opset_version=17), or: pip install -U onnx"
    if opset > newest:
        raise MeasurementError(
            f"{path} has opset {opset} of domain ai.onnx, onnx {version} knows up to {newest}", hint=hint
        )
    if model.ir_version > onnx.IR_VERSION:
        raise MeasurementError(
            f"{path} has IR version {model.ir_version}, onnx {version} knows up to {onnx.IR_VERSION}", hint=hint
        )


def require_known_operators(model: "onnx.ModelProto", *, path: Path) -> None:
    """Refuse operators that their opset does not have; those of other domains are the runtimes' own matter.

    Raises:
        MeasurementError: the message names the operator, its node, its domain and the opset.
    """
    import onnx

    versions = opsets(model)
    own = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in own:
            continue
        where = f"{path}: operator {node.op_type!r} (node {node.name!r}) of domain {domain or 'ai.onnx'}"
        if domain not in versions:
            raise MeasurementError(
                f"{where} has no opset, the file declares only {spelled_versions(model)}",
                hint="export it again: the exporter must write which opset of the domain it used",
            )
        if domain not in _KNOWN_DOMAINS:
            continue
        if (
            not onnx.defs.has(node.op_type, versions[domain], domain)
            or onnx.defs.get_schema(node.op_type, versions[domain], domain).deprecated
        ):
            raise MeasurementError(
                f"{where} does not exist in opset {versions[domain]}",
                hint="export it again with an opset that has the operator, or replace the operator in the network",
            )


def opsets(model: "onnx.ModelProto") -> dict[str, int]:
    """Return the opset of every domain that a model declares; "" is ai.onnx."""
    return {"" if one.domain == "ai.onnx" else one.domain: int(one.version) for one in model.opset_import}


def spelled_versions(model: "onnx.ModelProto") -> str:
    """Return what a runtime must know to run a model, for messages: "opset 17 of ai.onnx, IR version 8"."""
    spelled = [f"opset {version} of {domain or 'ai.onnx'}" for domain, version in opsets(model).items()]
    return ", ".join([*spelled, f"IR version {model.ir_version}"])


def spelled_versions_in(content: bytes) -> str:
    """As `spelled_versions`, of a file's content; empty if it cannot be read, or the package onnx is missing."""
    try:
        import onnx

        return spelled_versions(onnx.load_from_string(content))
    # It is for a message about something worse; protobuf's exceptions depend on its implementation.
    except Exception:  # noqa: BLE001
        return ""


def _type_name(number: int) -> str:
    """ONNX's name of an element type; "" for one that this version does not have."""
    import onnx

    names: dict[int, str] = {value: name for name, value in onnx.TensorProto.DataType.items()}
    return names.get(number, "")


def _nodes(graph: "onnx.GraphProto") -> "Iterator[onnx.NodeProto]":
    """All nodes, those of branches and loop bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _spelled(value: "onnx.ValueInfoProto") -> str:
    if not value.type.tensor_type.HasField("shape"):
        return "(unknown)"
    return f"({', '.join(_spelled_dim(dim) for dim in value.type.tensor_type.shape.dim)})"


def _spelled_dim(dim: "onnx.TensorShapeProto.Dimension") -> str:
    return str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"


def _how_to_fix(value: "onnx.ValueInfoProto", *, path: Path) -> str:
    """A command that sets the open sizes: the first to 1, the others to what only the user knows."""
    again = "export it again without dynamic axes"
    shape = shape_of(value)
    if not shape:
        return f"{again}, for an input of fixed shape"
    sizes = [str(size) if size > 0 else "1" if number == 0 else f"SIZE{number}" for number, size in enumerate(shape)]
    fixed = path.with_name(f"{path.stem}-fixed.onnx")
    command = f"--input_name {shlex.quote(value.name)} --input_shape {','.join(sizes)}"
    files = f"{shlex.quote(str(path))} {shlex.quote(str(fixed))}"
    return f"{again}, or: python -m onnxruntime.tools.make_dynamic_shape_fixed {command} {files}"
