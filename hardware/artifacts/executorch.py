"""ExecuTorch programs (.pte), lowered from torch modules for the XNNPACK delegate."""

from pathlib import Path
from typing import TYPE_CHECKING

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.calibration import whole_batches
from hardware.artifacts.folding import with_folded_batch_norms
from hardware.artifacts.silence import essence, silenced
from hardware.errors import MeasurementError
from hardware.files import sha256_file, write_bytes

if TYPE_CHECKING:
    import torch
    from executorch.runtime import Method, Program

FORMAT = "pte"


def export_executorch(module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
    """Write a module as an ExecuTorch program in fp32.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input; its shape, batch included, is fixed in the file.
        path: written whole or not at all.

    Raises:
        MeasurementError: the module does not run on the example, or has something that ExecuTorch does not know.
        StorageError: the file cannot be written.
    """
    return _write(module, example=example, calibration=None, path=path)


def quantize_executorch(
    module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor", path: Path
) -> Artifact:
    """Write a module as an ExecuTorch program in int8; input and output stay float32.

    Static post-training quantisation with XNNPACK's quantiser: activations int8 a tensor with the whole range of
    `calibration`, weights int8 a channel. Operators that XNNPACK has in fp32 only stay in fp32.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input; its shape, batch included, is fixed in the file.
        calibration: inputs (N, ...), N >= 1.
        path: written whole or not at all.

    Raises:
        MeasurementError: as `export_executorch`, or the module cannot be quantised.
        StorageError: the file cannot be written.
    """
    return _write(module, example=example, calibration=calibration, path=path)


def load_program(content: bytes, *, path: Path) -> "tuple[Program, Method]":
    """Return a program and its one method, which must not outlive the program; `path` is for the message.

    Raises:
        MeasurementError: the content is no program, or has operators that the runtime lacks; the runtime's words are
            in the text.
    """
    with silenced() as heard:
        from executorch.runtime import Runtime

        try:
            program = Runtime.get().load_program(content)
            method = program.load_method("forward")
        # The runtime raises RuntimeError and others; what is wrong it prints.
        except Exception as e:
            raise MeasurementError(
                f"ExecuTorch refuses {path}: {e} {_complaints(heard.text())}",
                hint="build it again with the device's backend; operators that are named do not exist in its runtime",
            ) from e
    assert method is not None
    return program, method


def _write(
    module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor | None", path: Path
) -> Artifact:
    import torch

    # The program wants its inputs to lie in memory as the example does, and arrays of plain order are what it gets.
    example = example.clone(memory_format=torch.contiguous_format)
    try:
        with silenced(), torch.no_grad():
            evaluated = with_folded_batch_norms(module)
            # The module's own words about a wrong example are clearer than the converter's.
            output_shape = tuple(evaluated(example).shape)
            captured = torch.export.export(evaluated, (example,), strict=False)
            if calibration is not None:
                batches = [torch.from_numpy(batch) for batch in whole_batches(calibration, size=len(example))]
                captured = torch.export.export(_quantised(captured, batches), (example,), strict=False)
            content = _lowered(captured)
    # torch.export raises whatever the module's own forward raises, the converter several types of its own.
    except Exception as e:
        raise MeasurementError(
            f"{type(module).__name__} cannot be converted to ExecuTorch for an input of shape "
            f"{tuple(example.shape)}: {essence(e)}",
            hint="check that the module takes one tensor of this shape, and that its operators exist in ExecuTorch",
        ) from e
    # Converters write operators that the runtime lacks.
    load_program(content, path=path)
    write_bytes(path, content)
    return Artifact(
        path=path,
        format=FORMAT,
        sha256=sha256_file(path),
        size_bytes=len(content),
        input_shape=tuple(example.shape),
        input_dtype=str(example.dtype).removeprefix("torch."),
        output_shape=output_shape,
        precision="fp32" if calibration is None else "int8",
    )


def _quantised(captured: "torch.export.ExportedProgram", batches: "list[torch.Tensor]") -> "torch.nn.Module":
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(captured.module(check_guards=False), quantizer)
    for batch in batches:
        prepared(batch)
    quantised: torch.nn.Module = convert_pt2e(prepared)
    return quantised


def _lowered(captured: "torch.export.ExportedProgram") -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return bytes(to_edge_transform_and_lower(captured, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def _complaints(text: str) -> str:
    """What the runtime printed, without its trouble to look at the processor."""
    return " ".join(line.strip() for line in text.splitlines() if "cpuinfo" not in line)
