"""The tensor arena that TensorFlow Lite for Microcontrollers needs for a network.

That runtime is another one than the CMSIS-NN code that is counted on a board: its arena is what people know who deploy
with it. The network is written as an int8 LiteRT file, loaded by the runtime's own allocator on this machine, and the
allocator's record is read.
"""

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.artifacts.litert import quantize_litert
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import torch

_NEEDED = ("tflite_micro", "litert_torch", "ai_edge_quantizer", "ai_edge_litert")
_SECONDS = 120.0
# The allocator writes to the process's own standard error, so it runs in one that can be read. Whatever the runtime
# would give a model by itself, activations may need more.
_PROGRAM = (
    "import sys, tflite_micro\n"
    "tflite_micro.runtime.Interpreter.from_file(sys.argv[1], arena_size=1 << 28).print_allocations()\n"
)


def can_tell_tensor_arena() -> bool:
    """Whether converter and runtime are installed."""
    return all(find_spec(name) is not None for name in _NEEDED)


def tensor_arena_bytes(module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor") -> int:
    """Bytes of the tensor arena for a module in int8.

    Args:
        module: takes one float32 tensor, returns one; left as it was.
        example: an input of batch 1.
        calibration: inputs (N, ...), N >= 1.

    Raises:
        MeasurementError: the network cannot be converted, or has an operator that the runtime does not know.
    """
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        path = Path(folder) / "network.tflite"
        quantize_litert(module, example=example, calibration=calibration, path=path)
        command = [sys.executable, "-c", _PROGRAM, str(path)]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as e:
            raise MeasurementError(
                f"tflite-micro has not allocated the network within {_SECONDS:g} s", hint="measure a smaller network"
            ) from e
    found = re.search(r"Arena allocation total (\d+) bytes", ran.stdout + ran.stderr)
    if ran.returncode != 0 or found is None:
        raise MeasurementError(
            f"tflite-micro cannot allocate the network: {(ran.stderr.strip().splitlines() or ['no output'])[-1]}",
            hint="the message names the operator that it does not know",
        )
    return int(found[1])
