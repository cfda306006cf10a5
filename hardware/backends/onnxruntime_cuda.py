"""ONNX Runtime on an NVIDIA GPU."""

import importlib.util
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.onnx import export_onnx
from hardware.backends.backend import ExportingBackend, checked_input, missing_packages, require_fit
from hardware.backends.onnxruntime_cpu import refused_by_onnxruntime
from hardware.errors import DeviceError
from hardware.gpu import gpu_versions, missing_gpu

if TYPE_CHECKING:
    import onnxruntime
    import torch

    from hardware.device import DeviceSpec

_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NO_TF32 = "NVIDIA_TF32_OVERRIDE"


class OnnxRuntimeCuda(ExportingBackend):
    """Runs ONNX files on the first visible GPU, in true fp32: TF32 is off.

    The CUDA provider is used, or TensorRT where that is installed and NVIDIA_TF32_OVERRIDE=0 is set in the environment:
    ONNX Runtime has no other way to keep TensorRT from computing in TF32 (microsoft/onnxruntime issue 26029). The
    versions tell which one it was. The device's number of threads has no meaning here.
    """

    def missing(self) -> str | None:
        """Say that there is no GPU or driver, name the packages that are not installed, or None."""
        reason = missing_gpu() or missing_packages(self.modules)
        if reason is None and not _has_library("cuda"):
            reason = "the installed ONNX Runtime is a build without CUDA"
        return reason

    def versions(self) -> dict[str, str]:
        """Versions of ONNX Runtime and onnx, the provider, and what is known of the GPU and its driver."""
        return {**ExportingBackend.versions(self), "provider": _provider(), **gpu_versions()}

    def import_onnx(
        self, source: Artifact, *, path: Path, precision: str, calibration: "torch.Tensor | None" = None
    ) -> Artifact:
        """Return `source` itself; see `OnnxImporter.import_onnx`."""
        return source

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "OnnxRuntimeBoundSession":
        """Load an ONNX file onto the GPU; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        provider = _provider()
        session = _open_session(artifact.read_checked(), provider=provider, path=artifact.path)
        # ONNX Runtime falls back to the CPU without an error, and its times would go by the GPU's name.
        if session.get_providers()[0] != provider:
            raise DeviceError(
                f"ONNX Runtime runs {artifact.path} on {session.get_providers()[0]} instead of {provider}",
                hint="install the CUDA, cuDNN and TensorRT libraries that onnxruntime-gpu was built for",
            )
        return OnnxRuntimeBoundSession(session, artifact, memory="cuda")


class OnnxRuntimeBoundSession:
    """One loaded ONNX file whose input and output stay in the memory of a device.

    `run` starts when the input is in that memory and ends when the output is there: copies are not part of it.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", artifact: Artifact, *, memory: str) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._artifact = artifact
        self._memory = memory
        self._binding = session.io_binding()
        for output in session.get_outputs():
            self._binding.bind_output(output.name, memory)
        self.set_input(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        import onnxruntime

        assert self._session is not None, "the session is closed"
        checked = checked_input(self._artifact, x)
        # A value in the CPU's memory would share it with the caller's array, and change when that does.
        self._x = onnxruntime.OrtValue.ortvalue_from_numpy(checked.copy(), self._memory, 0)
        self._binding.bind_ortvalue_input(self._session.get_inputs()[0].name, self._x)
        self._binding.synchronize_inputs()

    def run(self) -> None:
        """Run once, and wait until the device has finished."""
        assert self._session is not None, "the session is closed"
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for `x`; see `Session.predict`."""
        self.set_input(x)
        self.run()
        output: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0]
        return output

    def close(self) -> None:
        """Free the network's memory."""
        self._session = self._binding = self._x = None


def _provider() -> str:
    return _TENSORRT if os.environ.get(_NO_TF32) == "0" and _has_library("tensorrt") else _CUDA


def _has_library(provider: str) -> bool:
    """Whether the installed ONNX Runtime brings the provider; looked up among its files, not imported."""
    package = importlib.util.find_spec("onnxruntime")
    folders = package.submodule_search_locations if package is not None else None
    return any(list(Path(folder, "capi").glob(f"*onnxruntime_providers_{provider}.*")) for folder in folders or ())


def _open_session(content: bytes, *, provider: str, path: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    settings = {"device_id": "0", "use_tf32": "0"} if provider == _CUDA else {"device_id": "0"}
    providers: list[Any] = [(provider, settings)]
    if provider == _TENSORRT:
        # For operators that TensorRT does not have.
        providers.append((_CUDA, {"device_id": "0", "use_tf32": "0"}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The CPU provider takes the few operators on shapes that stay on the host.
            return onnxruntime.InferenceSession(content, options, providers=[*providers, "CPUExecutionProvider"])
    # The runtime's exceptions have no public common base.
    except Exception as e:
        raise refused_by_onnxruntime(e, content=content, path=path) from e


BACKEND = OnnxRuntimeCuda(
    name="onnxruntime-cuda",
    artifact_format="onnx",
    precisions=("fp32",),
    requirement="onnxruntime-gpu onnx",
    modules=("onnxruntime",),
    packages=("onnxruntime", "onnx"),
    export=export_onnx,
)
