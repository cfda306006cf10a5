"""Eager torch on an NVIDIA GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.torch_export import export_torch
from hardware.artifacts.torch_program import FORMAT
from hardware.artifacts.torch_runner import TorchRunner, load_runner
from hardware.backends.backend import ExportingBackend, checked_input, missing_packages, package_version, require_fit
from hardware.errors import DeviceError
from hardware.gpu import gpu_versions, missing_gpu

if TYPE_CHECKING:
    import torch

    from hardware.device import DeviceSpec


class TorchCuda(ExportingBackend):
    """Runs networks with eager torch on the first visible GPU, in true fp32: TF32 is off.

    The files are those of torch-cpu. The device's number of threads has no meaning here.
    """

    def missing(self) -> str | None:
        """Say that there is no GPU or driver, name the packages that are not installed, or None."""
        return missing_gpu() or missing_packages(self.modules) or _missing_cuda()

    def versions(self) -> dict[str, str]:
        """Version of torch, and what is known of the GPU and its driver."""
        return {"torch": package_version("torch"), **gpu_versions()}

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "TorchCudaSession":
        """Load a program onto the GPU; see `DeviceBackend.load` for what is refused."""
        import torch

        require_fit(self, artifact, spec=spec)
        if not torch.cuda.is_available():
            raise DeviceError(
                f"torch {torch.__version__} cannot use the GPU of this machine",
                hint="install a CUDA build of torch that fits the driver: nvidia-smi shows its CUDA version",
            )
        return TorchCudaSession(load_runner(artifact, device="cuda"), artifact)


class TorchCudaSession:
    """One program on the GPU.

    `run` starts when the input is in the GPU's memory and ends when the output is there: copies are not part of it.
    """

    def __init__(self, runner: TorchRunner, artifact: Artifact) -> None:
        self._runner: TorchRunner | None = runner
        self._artifact = artifact
        self.set_input(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        import torch

        assert self._runner is not None, "the session is closed"
        self._x = self._runner.place(torch.from_numpy(checked_input(self._artifact, x)))
        torch.cuda.synchronize()

    def run(self) -> None:
        """Run once, and wait until the GPU has finished."""
        self._compute()

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output for `x`; see `Session.predict`."""
        self.set_input(x)
        return self._compute().cpu().numpy().astype(np.float32)

    def close(self) -> None:
        """Free the network's memory."""
        self._runner = None

    def _compute(self) -> "torch.Tensor":
        import torch

        assert self._runner is not None, "the session is closed"
        with true_fp32(), torch.inference_mode():
            output = self._runner(self._x)
        # Calls of CUDA kernels return before the kernels have run.
        torch.cuda.synchronize()
        return output


@contextmanager
def true_fp32() -> Iterator[None]:
    """Convolutions and products in fp32 for one run; torch's default for convolutions is TF32, with 10 bits."""
    import torch

    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            if precision != "highest":
                torch.set_float32_matmul_precision(precision)


def _missing_cuda() -> str | None:
    """A CPU build of torch says so in its version, without being imported."""
    version = package_version("torch")
    return f"torch {version} is a build without CUDA" if version.endswith("+cpu") else None


BACKEND = TorchCuda(
    name="torch-cuda",
    artifact_format=FORMAT,
    precisions=("fp32",),
    requirement="torch safetensors",
    modules=("torch", "safetensors"),
    packages=("torch",),
    export=export_torch,
)
