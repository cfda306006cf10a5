"""ONNX Runtime on the CPU of this machine."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.onnx import export_onnx, quantize_onnx
from hardware.backends.backend import (
    Provenance,
    checked_input,
    missing_packages,
    package_version,
    require_calibration,
    require_fit,
)
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import onnxruntime
    import torch

    from hardware.device import DeviceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntimeCpu:
    """Runs ONNX files with ONNX Runtime's CPU provider, all graph optimisations on.

    int8 files are quantised statically: weights and activations of convolutions and linear layers, as pairs of
    QuantizeLinear and DequantizeLinear that the runtime fuses.
    """

    name: str = "onnxruntime-cpu"
    artifact_format: str = "onnx"
    precisions: tuple[str, ...] = ("fp32", "int8")
    requirement: str = "onnxruntime onnx"
    provenance: Provenance = "measured"

    def missing(self) -> str | None:
        """Name the packages that are not installed, or None; files that are there already need no onnx."""
        return missing_packages(["onnxruntime"])

    def versions(self) -> dict[str, str]:
        """Versions of ONNX Runtime and onnx."""
        return {name: package_version(name) for name in ("onnxruntime", "onnx")}

    def build(
        self,
        module: "torch.nn.Module",
        *,
        example: "torch.Tensor",
        path: Path,
        precision: str = "fp32",
        calibration: "torch.Tensor | None" = None,
    ) -> Artifact:
        """Export to ONNX; see `hardware.artifacts.onnx`."""
        if precision == "int8":
            inputs = require_calibration(self.name, precision=precision, calibration=calibration)
            return quantize_onnx(module, example=example, calibration=inputs, path=path)
        return export_onnx(module, example=example, path=path)

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "OnnxRuntimeSession":
        """Load an ONNX file; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        return OnnxRuntimeSession(_open_session(artifact.read_checked(), spec=spec, path=artifact.path), artifact)


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
        self._feed = {self._input_name: checked_input(self._artifact, x)}

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
