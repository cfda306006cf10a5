"""Eager torch on the CPU of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.torch_export import export_torch, quantize_torch
from hardware.artifacts.torch_program import FORMAT
from hardware.artifacts.torch_runner import TorchRunner, load_runner
from hardware.backends.backend import ExportingBackend, checked_input, require_fit

if TYPE_CHECKING:
    import torch

    from hardware.device import DeviceSpec


class TorchCpu(ExportingBackend):
    """Runs networks with eager torch: one kernel after the other, called from Python, nothing compiled or fused.

    What is run are the calls of functions that the module's forward makes, without the tree of modules around them: the
    Python of the tree is not part of the time, which for a small network is a good part of a module's own. Images and
    their weights lie channels last in memory. int8 uses torch's quantised kernels (`torch.ops.quantized`,
    by FBGEMM or oneDNN, whichever torch's engine chooses), see `hardware.artifacts.torch_int8`.
    """

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "TorchCpuSession":
        """Load a program; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        return TorchCpuSession(load_runner(artifact), artifact, threads=spec.threads)


class TorchCpuSession:
    """One loaded program."""

    def __init__(self, runner: TorchRunner, artifact: Artifact, *, threads: int) -> None:
        self._runner: TorchRunner | None = runner
        self._artifact = artifact
        self._threads = threads
        self.set_input(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        import torch

        assert self._runner is not None, "the session is closed"
        self._x = self._runner.place(torch.from_numpy(checked_input(self._artifact, x)))

    def run(self) -> None:
        """Run once."""
        self._compute()

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output for `x`; see `Session.predict`."""
        self.set_input(x)
        return self._compute().numpy().astype(np.float32)

    def close(self) -> None:
        """Free the network's memory."""
        self._runner = None

    def _compute(self) -> "torch.Tensor":
        import torch

        assert self._runner is not None, "the session is closed"
        with _threads(self._threads), torch.inference_mode():
            return self._runner(self._x)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Torch's number of threads belongs to the whole process: it is lent for one run, and given back."""
    import torch

    before = torch.get_num_threads()
    if before == number:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


BACKEND = TorchCpu(
    name="torch-cpu",
    artifact_format=FORMAT,
    requirement="torch safetensors",
    modules=("torch", "safetensors"),
    packages=("torch",),
    export=export_torch,
    quantize=quantize_torch,
)
