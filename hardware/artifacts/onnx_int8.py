"""ONNX files in int8, made from torch modules and from files in fp32."""

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
from hardware.artifacts.onnx import export_onnx, open_onnx
from hardware.artifacts.onnx_checks import only_input, opsets
from hardware.errors import MeasurementError
from hardware.files import staged_file

if TYPE_CHECKING:
    import torch

# The first in which a weight has a scale for each of its channels.
_FEWEST_OPSET = 13


def quantize_onnx(
    module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor", path: Path
) -> Artifact:
    """Write a module as an ONNX file that computes in int8; input and output stay float32.

    Args:
        module: takes one tensor, returns one.
        example: an input; its shape, batch included, is fixed in the file.
        calibration: inputs (N, ...).
        path: written whole or not at all.

    Raises:
        MeasurementError: the module cannot be written as ONNX, or not be quantised; see `quantize_onnx_file`.
        StorageError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        plain = export_onnx(module, example=example, path=Path(folder) / "fp32.onnx")
        return quantize_onnx_file(plain, calibration=calibration, path=path, spelled=type(module).__name__)


def quantize_onnx_file(
    plain: Artifact, *, calibration: "torch.Tensor", path: Path, spelled: str | None = None
) -> Artifact:
    """Write an ONNX file in fp32 once more, so that it computes in int8; input and output stay as they are.

    Static post-training quantisation by ONNX Runtime: convolutions and linear layers get int8 weights a channel and
    uint8 activations whose ranges are those of `calibration`. Weights use 7 of their 8 bits, because processors without
    VNNI instructions add two products in 16 bits, which may overflow with 8.

    Args:
        plain: the file, with an input of float32; left as it is.
        calibration: inputs (N, ...).
        path: written whole or not at all.
        spelled: the network's name in messages; the file's if None.

    Raises:
        MeasurementError: the file's opset has no int8, nothing in it can be quantised, or ONNX Runtime stumbles over
            it; its words are in the text.
        StorageError: the file cannot be written.
    """
    import onnx
    from onnxruntime import quantization

    name = spelled or str(plain.path)
    model = onnx.load(plain.path)
    opset = opsets(model).get("", 0)
    if opset < _FEWEST_OPSET:
        raise MeasurementError(
            f"{name} has opset {opset} of domain ai.onnx, int8 needs {_FEWEST_OPSET} or more",
            hint="export it again with opset_version=17, or convert it: onnx.version_converter.convert_version",
        )
    batches = _Batches(only_input(model, path=plain.path).name, whole_batches(calibration, size=plain.input_shape[0]))
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        with staged_file(path) as temporary:
            try:
                with warnings.catch_warnings(), _quiet_root_logger():
                    warnings.simplefilter("ignore")
                    quantization.quant_pre_process(str(plain.path), str(prepared), skip_symbolic_shape=True)
                    quantization.quantize_static(
                        str(prepared),
                        str(temporary),
                        batches,
                        quant_format=quantization.QuantFormat.QDQ,
                        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                        per_channel=True,
                        reduce_range=True,
                        activation_type=quantization.QuantType.QUInt8,
                        weight_type=quantization.QuantType.QInt8,
                    )
                onnx.checker.check_model(str(temporary), full_check=True)
                quantised = open_onnx(temporary)
            except OSError:
                raise
            # The quantiser has no exceptions of its own: whatever it stumbles over comes out.
            except Exception as e:
                raise MeasurementError(
                    f"{name} cannot be quantised for ONNX Runtime: {e}",
                    hint="measure it in fp32, or look for operators that ONNX Runtime cannot quantise",
                ) from e
            if quantised.precision != "int8":
                raise MeasurementError(
                    f"{name} has no convolution and no linear layer that ONNX Runtime could quantise",
                    hint="measure it in fp32",
                )
    return open_onnx(path)


class _Batches:
    """The calibration inputs as ONNX Runtime wants them: one feed a call, None at the end."""

    def __init__(self, name: str, batches: Iterator[NDArray[Any]]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next feed."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


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
