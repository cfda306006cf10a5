"""ONNX files: written from torch modules, and opened from anywhere."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.calibration import whole_batches
from hardware.errors import MeasurementError, StorageError
from hardware.files import sha256_file, staged_file

if TYPE_CHECKING:
    import onnx
    import torch

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
# Read by every runtime of the last three years, and the first that has all operators of our networks.
OPSET = 17


def export_onnx(module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
    """Write a module as one ONNX file with the input "image" and the output "logits".

    The module is exported as in evaluation mode and left in the mode it was in.

    Args:
        module: takes one tensor, returns one.
        example: an input; its shape, batch included, is fixed in the file.
        path: written whole or not at all.

    Returns:
        The description of the file.

    Raises:
        MeasurementError: the module cannot be written as ONNX.
        StorageError: the file cannot be written.
    """
    import onnx
    import torch

    with staged_file(path) as temporary:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                # The exporter says that it is the old one, and that traced shapes are constants: both on purpose.
                warnings.simplefilter("ignore")
                # The new exporter (dynamo=True) takes 1-5 s for a network, this one 18-100 ms, and profiling
                # exports hundreds. Both give the same operators for the layers that our networks are made of.
                torch.onnx.export(
                    module,
                    (example,),
                    temporary,
                    dynamo=False,
                    input_names=[INPUT_NAME],
                    output_names=[OUTPUT_NAME],
                    opset_version=OPSET,
                    do_constant_folding=True,
                )
            onnx.checker.check_model(str(temporary), full_check=True)
        except OSError:
            raise
        # The exporter raises whatever the module's own forward raises, and several types of its own.
        except Exception as e:
            raise MeasurementError(
                f"{type(module).__name__} cannot be exported to ONNX for an input of shape {tuple(example.shape)}: {e}",
                hint="check that the module takes one tensor of this shape, and that its layers exist in ONNX",
            ) from e
    return open_onnx(path)


def quantize_onnx(
    module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor", path: Path
) -> Artifact:
    """Write a module as an ONNX file that computes in int8; input and output stay float32.

    Static post-training quantisation by ONNX Runtime: convolutions and linear layers get int8 weights a channel and
    uint8 activations whose ranges are those of `calibration`. Weights use 7 of their 8 bits, because processors without
    VNNI instructions add two products in 16 bits, which may overflow with 8.

    Args:
        module: takes one tensor, returns one.
        example: an input; its shape, batch included, is fixed in the file.
        calibration: inputs (N, ...).
        path: written whole or not at all.

    Raises:
        MeasurementError: the module cannot be written as ONNX, or not be quantised.
        StorageError: the file cannot be written.
    """
    import onnx
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        plain = export_onnx(module, example=example, path=Path(folder) / "fp32.onnx")
        prepared = Path(folder) / "prepared.onnx"
        with staged_file(path) as temporary:
            try:
                with warnings.catch_warnings(), _quiet_root_logger():
                    warnings.simplefilter("ignore")
                    quantization.quant_pre_process(str(plain.path), str(prepared), skip_symbolic_shape=True)
                    quantization.quantize_static(
                        str(prepared),
                        str(temporary),
                        _Batches(whole_batches(calibration, size=plain.input_shape[0])),
                        quant_format=quantization.QuantFormat.QDQ,
                        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                        per_channel=True,
                        reduce_range=True,
                        activation_type=quantization.QuantType.QUInt8,
                        weight_type=quantization.QuantType.QInt8,
                    )
                onnx.checker.check_model(str(temporary), full_check=True)
            except OSError:
                raise
            # The quantiser has no exceptions of its own: whatever it stumbles over comes out.
            except Exception as e:
                raise MeasurementError(
                    f"{type(module).__name__} cannot be quantised for ONNX Runtime: {e}",
                    hint="measure it in fp32, or look for operators that ONNX Runtime cannot quantise",
                ) from e
    return open_onnx(path)


class _Batches:
    """The calibration inputs as ONNX Runtime wants them: one feed a call, None at the end."""

    def __init__(self, batches: Iterator[NDArray[Any]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next feed."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """The quantiser advises through the root logger to do what was done on the line before."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def open_onnx(path: Path) -> Artifact:
    """Describe an ONNX file, whoever wrote it. Files with QuantizeLinear operators count as int8.

    Raises:
        StorageError: the file is missing or no valid ONNX.
        MeasurementError: it has several inputs, an input of unknown size, or weights in other files; the message
            names them.
    """
    import onnx

    sha256 = sha256_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
        external = [tensor.name for tensor in model.graph.initializer if tensor.data_location == tensor.EXTERNAL]
        # The checker looks for those other files; they are refused below, wherever they are.
        if not external:
            onnx.checker.check_model(model)
            model = onnx.shape_inference.infer_shapes(model)
    # Protobuf, checker and shape inference each have their own exceptions, without a common base.
    except Exception as e:
        raise StorageError(
            f"{path} is damaged or no ONNX file: {e}", hint="write it again, or restore it from a copy"
        ) from e
    if external:
        raise MeasurementError(
            f"{path} keeps weights in other files: {', '.join(external[:5])}",
            hint="save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
        )
    value = _only_input(model.graph, path=path)
    input_shape = _shape(value)
    if not input_shape or min(input_shape) < 1:
        raise MeasurementError(
            f"{path}: input {value.name!r} has the open shape {_spelled(value)}, a measurement needs fixed sizes",
            hint="fix the sizes when exporting: no dynamic axes",
        )
    return Artifact(
        path=path,
        format="onnx",
        sha256=sha256,
        size_bytes=path.stat().st_size,
        input_shape=input_shape,
        input_dtype=str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        output_shape=_shape(model.graph.output[0]),
        precision="int8" if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else "fp32",
    )


def _only_input(graph: "onnx.GraphProto", *, path: Path) -> "onnx.ValueInfoProto":
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
    return value


def _shape(value: "onnx.ValueInfoProto") -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in dims)


def _spelled(value: "onnx.ValueInfoProto") -> str:
    dims = value.type.tensor_type.shape.dim
    return f"({', '.join(str(dim.dim_value) if dim.HasField('dim_value') else dim.dim_param or '?' for dim in dims)})"
