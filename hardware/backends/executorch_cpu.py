"""ExecuTorch on the CPU of this machine, with XNNPACK."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.executorch import FORMAT, export_executorch, load_program, quantize_executorch
from hardware.artifacts.silence import silenced
from hardware.backends.backend import ExportingBackend, checked_input, package_version, require_fit
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import torch
    from executorch.runtime import Program

    from hardware.device import DeviceSpec


class ExecuTorchCpu(ExportingBackend):
    """Runs ExecuTorch programs whose operators are XNNPACK's, as far as XNNPACK has them."""

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "ExecuTorchSession":
        """Load a program; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        return ExecuTorchSession(artifact, threads=spec.threads)


class ExecuTorchSession:
    """One loaded program.

    ExecuTorch has one pool of threads for the process: the session that was loaded last says how many there are.
    """

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        """Load `artifact`.

        Raises:
            MeasurementError: ExecuTorch refuses the network.
            StorageError: the file is missing or is not the one that was described.
        """
        set_num_threads(threads)
        # The program must live as long as its method.
        self._program: Program | None
        self._program, method = load_program(artifact.read_checked(), path=artifact.path)
        self._execute = method.execute
        self._artifact = artifact
        self._inputs: list[torch.Tensor] = []
        self.set_input(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        import torch

        # A copy: torch warns about arrays that cannot be written to, and the caller may reuse theirs.
        self._inputs = [torch.from_numpy(checked_input(self._artifact, x).copy())]

    def run(self) -> None:
        """Run once."""
        self._execute(self._inputs)

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for `x`; see `Session.predict`."""
        self.set_input(x)
        try:
            outputs = self._execute(self._inputs)
        except RuntimeError as e:
            raise MeasurementError(
                f"{self._artifact.path} fails in ExecuTorch on {x.dtype} of shape {x.shape}: {e}",
                hint="build it again with the device's backend",
            ) from e
        # A copy: the memory of outputs is the program's, and written again by the next run.
        output: NDArray[np.float32] = outputs[0].numpy().copy()
        return output

    def close(self) -> None:
        """Free the network's memory."""
        self._execute = _closed
        self._program = None


def set_num_threads(threads: int) -> None:
    """Set the size of ExecuTorch's pool of threads, which the process has one of.

    Raises:
        MeasurementError: this version of ExecuTorch cannot.
    """
    with silenced():
        from executorch.extension.pybindings import portable_lib

        # There is no other way from Python; without it the pool has a thread for every core.
        count = getattr(portable_lib, "_threadpool_get_thread_count", None)
        reset = getattr(portable_lib, "_unsafe_reset_threadpool", None)
        if count is not None and reset is not None and count() != threads:
            reset(threads)
    if count is None or count() != threads:
        raise MeasurementError(
            f"ExecuTorch {package_version('executorch')} cannot be set to {threads} threads",
            hint='install the version this was written for: pip install "executorch>=1.5,<2"',
        )


def _closed(inputs: object) -> Any:  # noqa: ANN401
    raise AssertionError("the session is closed")


BACKEND = ExecuTorchCpu(
    name="executorch-cpu",
    artifact_format=FORMAT,
    requirement="executorch torchao",
    modules=("executorch", "torchao"),
    packages=("executorch", "torchao"),
    export=export_executorch,
    quantize=quantize_executorch,
)
