"""LiteRT files (.tflite), converted from torch modules by litert-torch and quantised by ai-edge-quantizer.

Inputs with height and width, or time, are channels last in the file, as everything that runs LiteRT wants them; an
`Artifact` tells the shape as torch has it, channels first. Inputs without such axes, (N, F), and outputs are the same
in both.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.calibration import whole_batches
from hardware.artifacts.folding import with_folded_batch_norms
from hardware.artifacts.resizing import resizes_as_convolutions
from hardware.artifacts.silence import essence, silenced
from hardware.errors import MeasurementError
from hardware.files import sha256_file, write_bytes

if TYPE_CHECKING:
    import torch

FORMAT = "tflite"
_SIGNATURE, _INPUT = "serving_default", "args_0"


def export_litert(module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
    """Write a module for LiteRT in fp32.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input, channels first; its shape, batch included, is fixed in the file.
        path: written whole or not at all.

    Raises:
        MeasurementError: the module does not run on the example, or has something that litert-torch does not know.
        StorageError: the file cannot be written.
    """
    write_bytes(path, _converted(module, example=example, for_accelerators=False))
    return open_litert(path)


def quantize_litert(
    module: "torch.nn.Module",
    *,
    example: "torch.Tensor",
    calibration: "torch.Tensor",
    path: Path,
    for_accelerators: bool = False,
) -> Artifact:
    """Write a module for LiteRT in int8; input and output stay float32.

    Static post-training quantisation by ai-edge-quantizer: activations int8 a tensor with the whole range of
    `calibration` (the quantiser's own choice, a moving average of ranges, cuts off what lies outside: the outputs of a
    network with squeeze-excite and hard-swish were off by 29 % instead of 2 %), weights int8 a channel.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input, channels first; its shape, batch included, is fixed in the file.
        calibration: inputs (N, ...), N >= 1.
        path: written whole or not at all.
        for_accelerators: resize by convolutions, see `hardware.artifacts.resizing`.

    Raises:
        MeasurementError: as `export_litert`, or the network cannot be quantised.
        StorageError: the file cannot be written.
    """
    content = _converted(module, example=example, for_accelerators=for_accelerators)
    batches = whole_batches(calibration, size=len(example))
    try:
        quantised = _quantised(content, [channels_last(batch) for batch in batches])
    # The quantiser has no exceptions of its own.
    except Exception as e:
        raise MeasurementError(
            f"{type(module).__name__} cannot be quantised for LiteRT: {e}",
            hint="measure it in fp32, or look for operators that ai-edge-quantizer cannot quantise",
        ) from e
    write_bytes(path, quantised)
    return open_litert(path)


def open_litert(path: Path) -> Artifact:
    """Describe a LiteRT file, whoever wrote it; its input is taken for channels last. int8 tensors make it int8.

    Raises:
        StorageError: the file is missing.
        MeasurementError: it is no LiteRT file, has several inputs, or its input or output is not float32.
    """
    from ai_edge_litert.interpreter import Interpreter

    sha256 = sha256_file(path)
    content = path.read_bytes()
    try:
        with silenced():
            interpreter = Interpreter(model_content=content, num_threads=1)
    except (ValueError, RuntimeError) as e:
        raise MeasurementError(
            f"{path} is no LiteRT file: {e}", hint="convert the network again with the device's backend"
        ) from e
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    spelled = [f"{np.dtype(tensor['dtype'])} {tuple(tensor['shape'])}" for tensor in (*inputs, *outputs[:1])]
    if len(inputs) != 1 or any(not text.startswith("float32") for text in spelled):
        raise MeasurementError(
            f"{path} has {len(inputs)} inputs; they and its output are {spelled}, "
            "only networks from one float32 tensor to float32 can be measured",
            hint="wrap the network so that it takes and returns one float32 tensor, and convert it again",
        )
    shape = tuple(int(size) for size in inputs[0]["shape"])
    return Artifact(
        path=path,
        format=FORMAT,
        sha256=sha256,
        size_bytes=len(content),
        input_shape=shape if len(shape) < 3 else (shape[0], shape[-1], *shape[1:-1]),
        input_dtype="float32",
        output_shape=tuple(int(size) for size in outputs[0]["shape"]),
        precision="int8" if any(t["dtype"] is np.int8 for t in interpreter.get_tensor_details()) else "fp32",
    )


def channels_last(x: NDArray[Any]) -> NDArray[Any]:
    """An input as the file takes it: channels at the end, in one piece of memory."""
    return np.ascontiguousarray(x if x.ndim < 3 else np.moveaxis(x, 1, -1))


def _converted(module: "torch.nn.Module", *, example: "torch.Tensor", for_accelerators: bool) -> bytes:
    import torch

    resizing = resizes_as_convolutions() if for_accelerators else contextlib.nullcontext()
    try:
        with silenced(), torch.no_grad():
            import litert_torch

            evaluated = with_folded_batch_norms(module)
            # The module's own words about a wrong example are clearer than the converter's.
            evaluated(example)
            x = example
            if example.ndim > 2:
                evaluated = litert_torch.to_channel_last_io(evaluated, args=[0]).eval()
                x = example.movedim(1, -1).contiguous()
            with resizing, tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
                written = Path(folder) / "network.tflite"
                litert_torch.convert(evaluated, (x,)).export(str(written))
                return written.read_bytes()
    # torch.export raises whatever the module's own forward raises, the converter several types of its own.
    except Exception as e:
        raise MeasurementError(
            f"{type(module).__name__} cannot be converted to LiteRT for an input of shape {tuple(example.shape)}: "
            f"{essence(e)}",
            hint="check that the module takes one tensor of this shape, and that its operators exist in LiteRT",
        ) from e


def _quantised(content: bytes, batches: list[NDArray[Any]]) -> bytes:
    with silenced():
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.calibrator import CalibrationMode, Calibrator
        from ai_edge_quantizer.qtyping import TFLOperationName
        from ai_edge_quantizer.quantizer import Quantizer
        from ai_edge_quantizer.recipe_manager import RecipeManager
        from ai_edge_quantizer.utils.qsv_utils import min_max_update

        recipe = RecipeManager()
        recipe.add_static_config(
            regex=".*",
            operation_name=TFLOperationName.ALL_SUPPORTED,
            activation_num_bits=8,
            weight_num_bits=8,
        )
        for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            recipe.add_quantization_config(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
        calibrator = Calibrator(
            content,
            num_threads=1,
            # The same ranges as by the default mode, in an eighth of the time.
            mode=CalibrationMode.CALIBRATION_PROFILER_BASED,
            qsv_update_func=min_max_update,
        )
        calibrator.calibrate({_SIGNATURE: [{_INPUT: batch} for batch in batches]}, recipe)
        quantizer = Quantizer(content, recipe.get_quantization_recipe())
        quantised = quantizer.quantize(calibrator.get_model_qsvs()).quantized_model
    assert quantised is not None
    return bytes(quantised)
