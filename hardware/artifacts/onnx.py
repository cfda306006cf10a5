"""ONNX files: written from torch modules, and opened from anywhere."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.evaluating import evaluating
from hardware.artifacts.onnx_checks import (
    dtype_of,
    only_input,
    precision_of,
    require_known_operators,
    require_known_opset,
    shape_of,
)
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

    The module is exported as in evaluation mode; every part of it is left in the mode it was in.

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
            with warnings.catch_warnings(), evaluating(module), torch.no_grad():
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


def open_onnx(path: Path) -> Artifact:
    """Describe an ONNX file, whoever wrote it. One with operators that quantise counts as int8.

    Raises:
        StorageError: the file is missing or no valid ONNX.
        MeasurementError: it has several inputs, an input of open size or without numbers, operators or opsets that do
            not exist, or weights in other files; the message names them.
    """
    import onnx

    sha256 = sha256_file(path)
    model = _read(path)
    external = [tensor.name for tensor in model.graph.initializer if tensor.data_location == tensor.EXTERNAL]
    if external:
        raise MeasurementError(
            f"{path} keeps weights in other files: {', '.join(external[:5])}",
            hint="save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
        )
    require_known_opset(model, path=path)
    value = only_input(model, path=path)
    require_known_operators(model, path=path)
    try:
        # Some exporters leave out the shapes of outputs, without which the checker does not go on.
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
    # Checker and shape inference each have their own exceptions, without a common base.
    except Exception as e:
        raise _damaged(path, e) from e
    return Artifact(
        path=path,
        format="onnx",
        sha256=sha256,
        size_bytes=path.stat().st_size,
        input_shape=shape_of(value),
        input_dtype=dtype_of(value),
        output_shape=shape_of(model.graph.output[0]),
        precision=precision_of(model),
    )


def open_in_one_piece(path: Path, *, folder: Path) -> Artifact:
    """Describe an ONNX file; if it keeps weights in other files, as large ones do, a copy of it all in `folder`.

    Args:
        path: the file.
        folder: where the copy goes, under the same name.

    Raises:
        StorageError, MeasurementError: see `open_onnx`; also if one of the other files is missing or too short, or all
            are too large for one file. The message names it.
    """
    import onnx

    external = [tensor for tensor in _read(path).graph.initializer if tensor.data_location == tensor.EXTERNAL]
    if not external:
        return open_onnx(path)
    names = sorted({entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"})
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise StorageError(
            f"{path} keeps its weights in other files, and not all are beside it, missing: {', '.join(missing[:5])}",
            hint=f"copy what is missing to {path.parent.resolve()}",
        )
    try:
        whole = onnx.load(path)
        onnx.save(whole, folder / path.name)
    # A file that is too short is a ValueError, a place outside the folder and more than 2 GiB have errors of their own.
    except Exception as e:
        raise StorageError(
            f"{path} and the files with its weights ({', '.join(names[:5])}) cannot be made into one file: {e}",
            hint="export it again; networks of more than 2 GiB cannot be measured",
        ) from e
    return open_onnx(folder / path.name)


def _read(path: Path) -> "onnx.ModelProto":
    """Parse a file; weights in other files stay there."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}", hint="check the path and its permissions") from e
    # Protobuf's exceptions depend on its implementation.
    except Exception as e:
        raise _damaged(path, e) from e
    # Nothing at all is a valid message too.
    if not model.ir_version or not model.graph.node:
        raise _damaged(path, "it has no operators")
    return model


def _damaged(path: Path, reason: object) -> StorageError:
    return StorageError(
        f"{path} is damaged or no ONNX file: {reason}", hint="write it again, or restore it from a copy"
    )
