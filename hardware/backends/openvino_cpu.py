"""OpenVINO on the CPU of this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.openvino import (
    FORMAT,
    convert_onnx_file,
    export_openvino,
    quantize_onnx_file,
    quantize_openvino,
    read_openvino,
    switch_off_telemetry,
)
from hardware.backends.backend import ExportingBackend, checked_input, require_calibration, require_fit
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import openvino
    import torch

    from hardware.device import DeviceSpec


class OpenVinoCpu(ExportingBackend):
    """Runs networks with OpenVINO's CPU plugin, set for latency: one stream, the device's number of threads."""

    def import_onnx(
        self, source: Artifact, *, path: Path, precision: str, calibration: "torch.Tensor | None" = None
    ) -> Artifact:
        """Convert for OpenVINO, and quantise what is not; see `OnnxImporter.import_onnx`."""
        if precision == source.precision or precision != "int8":
            return convert_onnx_file(source, path=path)
        inputs = require_calibration(self.name, precision=precision, calibration=calibration)
        return quantize_onnx_file(source, calibration=inputs, path=path)

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "OpenVinoSession":
        """Load an archive; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        model = read_openvino(artifact.read_checked(), path=artifact.path)
        return OpenVinoSession(compile_openvino(model, spec=spec, path=artifact.path), artifact)


class OpenVinoSession:
    """One compiled network.

    `run` calls the compiled network as its users do, so the time includes the few microseconds of its Python wrapper.
    """

    def __init__(self, network: "openvino.CompiledModel", artifact: Artifact) -> None:
        self._network: openvino.CompiledModel | None = network
        self._artifact = artifact
        self.set_input(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        self._inputs = [checked_input(self._artifact, x)]

    def run(self) -> None:
        """Run once."""
        assert self._network is not None, "the session is closed"
        self._network(self._inputs)

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for `x`; see `Session.predict`."""
        self.set_input(x)
        assert self._network is not None, "the session is closed"
        output: NDArray[np.float32] = self._network(self._inputs)[0]
        return output

    def close(self) -> None:
        """Free the network's memory."""
        self._network = None


def compile_openvino(model: "openvino.Model", *, spec: "DeviceSpec", path: Path) -> "openvino.CompiledModel":
    """Return a network that is ready to run as the device says; `path` is for the message.

    Raises:
        MeasurementError: OpenVINO refuses the network.
    """
    switch_off_telemetry()
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(spec.threads),
        # Left alone, OpenVINO computes in bfloat16 on processors that can: what is not int8 stays fp32.
        "INFERENCE_PRECISION_HINT": "f32",
        # Several networks are loaded at once, and all would be tied to the same first cores.
        "ENABLE_CPU_PINNING": "NO",
    }
    try:
        return openvino.Core().compile_model(model, "CPU", settings)
    except RuntimeError as e:
        raise MeasurementError(
            f"OpenVINO refuses {path}: {e}", hint="build the artifact again with the device's backend"
        ) from e


BACKEND = OpenVinoCpu(
    name="openvino-cpu",
    artifact_format=FORMAT,
    requirement="openvino nncf onnx",
    modules=("openvino", "nncf"),
    packages=("openvino", "nncf"),
    export=export_openvino,
    quantize=quantize_openvino,
)
