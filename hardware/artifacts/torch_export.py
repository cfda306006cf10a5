"""Torch programs written from modules, in fp32 and in int8."""

from pathlib import Path
from typing import TYPE_CHECKING

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.torch_int8 import quantize_program
from hardware.artifacts.torch_program import write_program
from hardware.artifacts.torch_recording import record_program

if TYPE_CHECKING:
    import torch


def export_torch(module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
    """Write the calls that a module makes on `example`.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input; its shape, batch included, is fixed in the file.
        path: written whole or not at all.

    Raises:
        MeasurementError: see `record_program` and `write_program`.
        StorageError: the file cannot be written.
    """
    return write_program(record_program(module, example=example), path=path)


def quantize_torch(
    module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor", path: Path
) -> Artifact:
    """Write the calls that a module makes on `example`, those of convolutions and linear layers in int8.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input; its shape, batch included, is fixed in the file.
        calibration: inputs (N, ...).
        path: written whole or not at all.

    Raises:
        MeasurementError: see `record_program`, `quantize_program` and `write_program`.
        StorageError: the file cannot be written.
    """
    return write_program(quantize_program(record_program(module, example=example), calibration=calibration), path=path)
