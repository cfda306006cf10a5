"""The portable C of a network, compiled for the host: the same bytes as on the board, in milliseconds."""

import subprocess
import tempfile
from pathlib import Path

from hardware.errors import MeasurementError
from hardware.firmware.boards import COMPILE_SECONDS, Sources
from hardware.firmware.tools import firmware_file, missing_tools, run_tool

HOST_COMPILER = "cc"


def has_host_compiler() -> bool:
    """Whether networks can be compiled for this machine."""
    return not missing_tools([HOST_COMPILER])


class HostProgram:
    """A compiled network that waits for inputs in a process of its own.

    Args:
        sources: the network in portable C.
        output_bytes: size of its output.

    Raises:
        MeasurementError: it does not compile.
    """

    def __init__(self, sources: Sources, *, output_bytes: int) -> None:
        self._output_bytes = output_bytes
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            program = Path(folder) / "network"
            run_tool(
                [
                    HOST_COMPILER,
                    *("-O2", "-std=gnu11", "-w"),
                    *(f"-I{path}" for path in sources.include_dirs),
                    *map(str, sources.files),
                    str(firmware_file("host.c")),
                    *("-o", str(program)),
                ],
                purpose="compile the network for this machine",
                timeout_s=COMPILE_SECONDS,
                hint=f"check that the C compiler {HOST_COMPILER} works, or take it off PATH: Python computes the same",
            )
            # A running program needs its file no more, so the folder goes at once.
            self._process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def infer(self, input_bytes: bytes) -> bytes:
        """Return the output bytes for the input bytes.

        Raises:
            MeasurementError: the process has ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(input_bytes)
            stdin.flush()
            output = stdout.read(self._output_bytes)
        except (OSError, ValueError) as e:
            raise _ended(self._process.poll()) from e
        if len(output) != self._output_bytes:
            raise _ended(self._process.poll())
        return output

    def close(self) -> None:
        """End the process; a second call does nothing."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _ended(returncode: int | None) -> MeasurementError:
    return MeasurementError(
        f"the network's process has ended (exit status {returncode})", hint="load the network again and repeat"
    )
