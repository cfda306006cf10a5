"""Cortex-M microcontrollers, simulated: int8 C with CMSIS-NN kernels, whose instructions QEMU counts."""

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.cmsis import FORMAT, CmsisNetwork, build_cmsis, read_cmsis
from hardware.backends.backend import (
    Count,
    Provenance,
    checked_input,
    missing_packages,
    package_version,
    require_calibration,
    require_fit,
)
from hardware.errors import MeasurementError
from hardware.firmware.boards import (
    COMPILER,
    CORTEX_M4,
    CORTEX_M7,
    CORTEX_M55,
    EMULATOR,
    SIZE,
    Board,
    BoardRun,
    run_on_board,
)
from hardware.firmware.host import HostProgram, has_host_compiler
from hardware.firmware.tools import missing_tools, tool_version

if TYPE_CHECKING:
    import torch

    from hardware.device import DeviceSpec

_DEBIAN_PACKAGES = "qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi"


@dataclass(frozen=True, slots=True, kw_only=True)
class CortexM:
    """One core of the family on one simulated board.

    Predictions are computed on this machine, with the portable C of the same network (where there is no C compiler,
    with bakenn's integer arithmetic in Python, a second per million MACs): the same bytes as on the board. Counting
    compiles the CMSIS-NN kernels for the board and runs them there once.
    """

    name: str
    board: Board
    artifact_format: str = FORMAT
    precisions: tuple[str, ...] = ("int8",)
    requirement: str = "bakenn"
    install_hint: str = f"pip install bakenn; and on Debian: apt-get install --no-install-recommends {_DEBIAN_PACKAGES}"
    provenance: Provenance = field(default="simulated")

    def missing(self) -> str | None:
        """Name the packages and programs that are not installed, or None."""
        absent = [reason] if (reason := missing_packages(["bakenn"])) else []
        tools = missing_tools([COMPILER, SIZE, EMULATOR])
        if tools:
            absent.append(f"the programs {', '.join(tools)} are not on PATH")
        elif not _has_c_library():
            absent.append(f"the C library newlib of {COMPILER} is not installed")
        return "; ".join(absent) or None

    def versions(self) -> dict[str, str]:
        """Versions of bakenn (which brings CMSIS-NN), of the compiler, and of the emulator."""
        tools = {program: tool_version(program) for program in (COMPILER, EMULATOR)}
        return {"bakenn": package_version("bakenn"), **tools}

    def build(
        self,
        module: "torch.nn.Module",
        *,
        example: "torch.Tensor",
        path: Path,
        precision: str = "int8",
        calibration: "torch.Tensor | None" = None,
    ) -> Artifact:
        """Write C with CMSIS-NN kernels, the same file for all cores; see `hardware.artifacts.cmsis`."""
        inputs = require_calibration(self.name, precision=precision, calibration=calibration)
        # Writing C for millions of weights takes many minutes.
        num_weights = sum(weight.numel() for weight in module.parameters() if weight.dim() > 1)
        if num_weights > self.board.flash_bytes:
            raise MeasurementError(
                f"the network has {num_weights:,} weights, in int8 as many bytes; the {self.board.core} board has "
                f"{self.board.flash_bytes:,} bytes of flash",
                hint="choose smaller networks: a space of smaller width, or another device",
            )
        return build_cmsis(module, example=example, calibration=inputs, path=path)

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "CortexMSession":
        """Load a file; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        network = read_cmsis(artifact.read_checked(), path=artifact.path)
        return CortexMSession(network, artifact, board=self.board)


class CortexMSession:
    """One network, on one board."""

    def __init__(self, network: CmsisNetwork, artifact: Artifact, *, board: Board) -> None:
        self._network = network
        self._artifact = artifact
        self._board = board
        self._program: HostProgram | None = None
        self._input = network.reference_input

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        self._input = self._network.quantized(checked_input(self._artifact, x))

    def run(self) -> None:
        """Run once, on this machine."""
        self._infer(self._input)

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output for `x`; see `Session.predict`."""
        self.set_input(x)
        return self._network.dequantized(self._infer(self._input))

    def count(self) -> Count:
        """Run the file's reference input on the simulated board.

        Returns:
            Instructions of one inference. Besides: flash_bytes (code, constants and initial values of a program that
            does nothing else), ram_bytes (input, output, arena, variables and the deepest stack), stack_bytes (of
            these), model_arena_bytes (of these: activations and the kernels' scratch memory). Where converter and
            runtime are installed also tensor_arena_bytes: what the same network needs in tflite-micro instead.

        Raises:
            MeasurementError: the network does not fit into the board's memories, compiler or emulator fail, or the
                output is not, byte for byte, that of bakenn's integer arithmetic in Python.
        """
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            sources = self._network.board_sources(Path(folder), vectors=self._board.vectors)
            ran = run_on_board(self._board, sources, input_bytes=self._network.reference_input)
        _require_equal(ran.output, self._network.reference_output, who=self._board.machine, path=self._artifact.path)
        return _count(ran, arena_bytes=sources.arena_bytes, tensor_arena_bytes=self._network.tensor_arena_bytes)

    def close(self) -> None:
        """End the network's process, if there is one."""
        if self._program is not None:
            self._program.close()
            self._program = None

    def _infer(self, input_bytes: bytes) -> bytes:
        if self._program is None:
            if not has_host_compiler():
                return self._network.infer_in_python(input_bytes)
            self._program = self._compiled()
        return self._program.infer(input_bytes)

    def _compiled(self) -> HostProgram:
        expected = self._network.reference_output
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            program = HostProgram(self._network.portable_sources(Path(folder)), output_bytes=len(expected))
        try:
            output = program.infer(self._network.reference_input)
            _require_equal(output, expected, who="this machine", path=self._artifact.path)
        except MeasurementError:
            program.close()
            raise
        return program


def _count(ran: BoardRun, *, arena_bytes: int, tensor_arena_bytes: int | None) -> Count:
    tensor_arena = {} if tensor_arena_bytes is None else {"tensor_arena_bytes": float(tensor_arena_bytes)}
    return Count(
        quantity="instructions",
        unit="instructions",
        value=ran.instructions,
        also={
            "flash_bytes": ran.flash_bytes,
            "ram_bytes": ran.static_ram_bytes + ran.stack_bytes,
            "stack_bytes": ran.stack_bytes,
            "model_arena_bytes": arena_bytes,
            **tensor_arena,
        },
    )


def _require_equal(output: bytes, expected: bytes, *, who: str, path: Path) -> None:
    num_wrong = sum(a != b for a, b in zip(output, expected, strict=False)) + abs(len(output) - len(expected))
    if num_wrong:
        raise MeasurementError(
            f"{path}: on {who} {num_wrong} of {len(expected)} output bytes are not those of the integer reference: "
            "nothing that is counted there belongs to this network",
            hint="build it again with the device's backend; if that does not help, report the network",
        )


def _has_c_library() -> bool:
    # The compiler repeats the bare name of a file that it does not find.
    command = [COMPILER, "-print-file-name=libc.a"]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    return found.stdout.strip() not in ("", "libc.a")


BACKENDS = (
    CortexM(name="cortex-m4", board=CORTEX_M4),
    CortexM(name="cortex-m7", board=CORTEX_M7),
    CortexM(name="cortex-m55", board=CORTEX_M55),
)
