"""ONNX Runtime on the CPU of this machine."""

import hashlib
import importlib.util
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.onnx import export_onnx
from hardware.errors import DeviceError, MeasurementError, StorageError

if TYPE_CHECKING:
    import onnxruntime
    import torch

    from hardware.device import DeviceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntimeCpu:
    """Runs fp32 ONNX files with ONNX Runtime's CPU provider, all graph optimisations on."""

    name: str = "onnxruntime-cpu"
    artifact_format: str = "onnx"
    precisions: tuple[str, ...] = ("fp32",)
    requirement: str = "onnxruntime onnx"

    def missing(self) -> str | None:
        """Name the packages that are not installed, or None."""
        absent = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        return f"the packages {', '.join(absent)} are not installed" if absent else None

    def versions(self) -> dict[str, str]:
        """Versions of ONNX Runtime and onnx."""
        return {name: _version(name) for name in ("onnxruntime", "onnx")}

    def build(self, module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
        """Export to ONNX; see `hardware.artifacts.onnx.export_onnx`."""
        return export_onnx(module, example=example, path=path)

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "OnnxRuntimeSession":
        """Load an ONNX file; see `DeviceBackend.load` for what is refused."""
        if artifact.format != self.artifact_format or spec.precision not in self.precisions:
            raise DeviceError(
                f"{self.name} runs {self.artifact_format!r} in {self.precisions}, {artifact.path} has format "
                f"{artifact.format!r} and device {spec.device_id!r} asks for {spec.precision!r}",
                hint=f"build the artifact with the backend {self.name!r}",
            )
        if artifact.input_shape[0] != spec.batch:
            raise MeasurementError(
                f"{artifact.path} has batch {artifact.input_shape[0]}, the device is set to batch {spec.batch}",
                hint="export with the device's batch, or set device.batch",
            )
        return OnnxRuntimeSession(_open_session(_checked_content(artifact), spec=spec, path=artifact.path), artifact)


class OnnxRuntimeSession:
    """One loaded ONNX file.

    `run` goes through `InferenceSession.run`, outputs allocated anew each time: that is how the file is used when
    it is deployed with a few lines of Python, so the numbers are the ones that a user will see.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", artifact: Artifact) -> None:
        self._session = session
        self._artifact = artifact
        self._input_name = session.get_inputs()[0].name
        self._output_names = [session.get_outputs()[0].name]
        self._feed: dict[str, NDArray[Any]] = {}
        self.set_input(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        if x.shape != self._artifact.input_shape or x.dtype != np.dtype(self._artifact.input_dtype):
            raise MeasurementError(
                f"{self._artifact.path} takes {self._artifact.input_dtype} of shape {self._artifact.input_shape}, "
                f"got {x.dtype} of shape {x.shape}",
                hint="reshape and convert the input",
            )
        self._feed = {self._input_name: np.ascontiguousarray(x)}

    def run(self) -> None:
        """Run once."""
        self._session.run(self._output_names, self._feed)

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for `x`; see `Session.predict`."""
        self.set_input(x)
        output: NDArray[np.float32] = self._session.run(self._output_names, self._feed)[0]
        return output

    def close(self) -> None:
        """Free the network's memory."""
        self._session = None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # The same runtime comes under other names too, for example onnxruntime-gpu.
        distributions = metadata.packages_distributions().get(package, [])
        return metadata.version(distributions[0]) if distributions else "unknown"


def _checked_content(artifact: Artifact) -> bytes:
    # Read once, so that what was checked is what is run.
    try:
        content = artifact.path.read_bytes()
    except OSError as e:
        raise StorageError(
            f"cannot read {artifact.path}: {e.strerror}", hint="build the artifact again with the device's backend"
        ) from e
    if hashlib.sha256(content).hexdigest() != artifact.sha256:
        raise StorageError(
            f"{artifact.path} is not the file that was described: its SHA-256 differs",
            hint="build the artifact again with the device's backend",
        )
    return content


def _open_session(content: bytes, *, spec: "DeviceSpec", path: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Sessions are measured in turns: the threads of one must not go on spinning while the next one is timed.
    # Spinning inside a run stays on, as it is for whoever deploys the file.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # The runtime's exceptions have no public common base.
    except Exception as e:
        raise MeasurementError(
            f"ONNX Runtime refuses {path}: {e}", hint="check the file: python -m onnx.checker, or export it again"
        ) from e


BACKEND = OnnxRuntimeCpu()
