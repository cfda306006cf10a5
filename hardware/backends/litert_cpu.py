"""LiteRT on the CPU of this machine, with XNNPACK."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.litert import FORMAT, channels_last, export_litert, quantize_litert
from hardware.artifacts.silence import silenced
from hardware.backends.backend import ExportingBackend, checked_input, require_fit
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

    from hardware.device import DeviceSpec

BUILDING = ("ai_edge_litert", "ai_edge_quantizer", "litert_torch")


class LiteRtCpu(ExportingBackend):
    """Runs LiteRT files with the XNNPACK delegate, which LiteRT takes by itself."""

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "LiteRtSession":
        """Load a LiteRT file; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        return LiteRtSession(artifact, threads=spec.threads)


class LiteRtSession:
    """One loaded LiteRT file.

    Inputs are copied in, channels last, when they are set: `run` is the network alone.
    """

    def __init__(self, artifact: Artifact, *, threads: int, xnnpack: bool = True) -> None:
        """Load `artifact`; without `xnnpack`, LiteRT's own kernels compute.

        Raises:
            MeasurementError: LiteRT refuses the network.
            StorageError: the file is missing or is not the one that was described.
        """
        interpreter = _open_interpreter(artifact, threads=threads, xnnpack=xnnpack)
        self._interpreter: Interpreter | None = interpreter
        self._invoke = interpreter.invoke
        self._artifact = artifact
        self._input = int(interpreter.get_input_details()[0]["index"])
        self._output = int(interpreter.get_output_details()[0]["index"])
        self.set_input(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on; see `Session.set_input`."""
        assert self._interpreter is not None, "the session is closed"
        self._interpreter.set_tensor(self._input, channels_last(checked_input(self._artifact, x)))

    def run(self) -> None:
        """Run once."""
        self._invoke()

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for `x`; see `Session.predict`."""
        self.set_input(x)
        self._invoke()
        assert self._interpreter is not None
        output: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return output

    def close(self) -> None:
        """Free the network's memory."""
        self._interpreter = None
        self._invoke = _closed


def _closed() -> None:
    raise AssertionError("the session is closed")


def _open_interpreter(artifact: Artifact, *, threads: int, xnnpack: bool) -> "Interpreter":
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    content = artifact.read_checked()
    with silenced() as heard:
        try:
            interpreter = Interpreter(model_content=content, num_threads=threads, experimental_op_resolver_type=kernels)
            interpreter.allocate_tensors()
            expected = channels_last(np.zeros(artifact.input_shape, dtype=artifact.input_dtype))
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], expected)
        except (ValueError, RuntimeError) as e:
            raise MeasurementError(
                f"LiteRT refuses {artifact.path}: {e} {heard.text().strip()}".rstrip(),
                hint="convert the network again with the device's backend",
            ) from e
    return interpreter


BACKEND = LiteRtCpu(
    name="litert-cpu",
    artifact_format=FORMAT,
    requirement="ai-edge-litert litert-torch ai-edge-quantizer",
    modules=BUILDING,
    packages=("ai-edge-litert", "litert-torch", "ai-edge-quantizer"),
    export=export_litert,
    quantize=quantize_litert,
)
