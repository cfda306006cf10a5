"""ONNX Runtime on the CPU of this machine."""

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.onnx import export_onnx
from hardware.artifacts.onnx_checks import spelled_versions_in
from hardware.artifacts.onnx_int8 import quantize_onnx, quantize_onnx_file
from hardware.backends.backend import (
    ExportingBackend,
    checked_input,
    package_version,
    require_calibration,
    require_fit,
)
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import onnxruntime
    import torch

    from hardware.device import DeviceSpec


class OnnxRuntimeCpu(ExportingBackend):
    """Runs ONNX files with ONNX Runtime's CPU provider, all graph optimisations on.

    int8 files are quantised statically: weights and activations of convolutions and linear layers, as pairs of
    QuantizeLinear and DequantizeLinear that the runtime fuses. Files that are there already need no package onnx.
    """

    def import_onnx(
        self, source: Artifact, *, path: Path, precision: str, calibration: "torch.Tensor | None" = None
    ) -> Artifact:
        """Return `source` itself, or quantise it; see `OnnxImporter.import_onnx`."""
        if precision == source.precision or precision != "int8":
            return source
        inputs = require_calibration(self.name, precision=precision, calibration=calibration)
        return quantize_onnx_file(source, calibration=inputs, path=path)

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
        # All of them, as whoever deploys the file computes them.
        self._output_names = [output.name for output in session.get_outputs()]
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
        raise refused_by_onnxruntime(e, content=content, path=path) from e


def refused_by_onnxruntime(error: Exception, *, content: bytes, path: Path) -> MeasurementError:
    """Return what to raise when ONNX Runtime does not load a file: its words, and what the file asks for."""
    versions = spelled_versions_in(content)
    # Without the place in its source that it names first.
    words = re.sub(r"/onnxruntime_src/.*?\) (?=[A-Z])", "", " ".join(str(error).split()))
    return MeasurementError(
        f"ONNX Runtime refuses {path}: {words} (ONNX Runtime {package_version('onnxruntime')}"
        + (f"; the file has {versions})" if versions else ")"),
        hint="export it again with opset_version=17 and without operators that are named; or check the file: "
        f"python -m onnx.checker {path}",
    )


BACKEND = OnnxRuntimeCpu(
    name="onnxruntime-cpu",
    artifact_format="onnx",
    requirement="onnxruntime onnx",
    modules=("onnxruntime",),
    packages=("onnxruntime", "onnx"),
    export=export_onnx,
    quantize=quantize_onnx,
)
