"""Networks as int8 C with CMSIS-NN kernels: written from torch modules by bakenn, kept as one zip file.

What is inside the file:

- network.json: shapes, bakenn's version, its quantised graph, and the tensor arena that tflite-micro would need;
  constants.safetensors: int8 weights, int32 biases.
- reference.safetensors: one quantised input, the first calibration input, and the output bytes that bakenn's integer
  arithmetic in Python has for it: whoever runs the network compares with them.
- c/...: the C sources to compile for a board with DSP or vector instructions, licences included. They are there to be
  deployed; a reader generates them anew from the data and refuses a file where they differ, so that no code of
  unknown origin is run.

The numbers are bakenn's: activations int8 a tensor, weights int8 a channel, biases int32. Input and output are float32
at the interface: x is quantised with the scale and zero point of the input, which come from the calibration inputs
(raw images 0..255 stay exact if their calibration inputs reach 0 and 255), and the output is scaled back.
Resizing and normalisation inside the module are part of the network, in int8 like the rest.
"""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.cmsis_capture import NUM_CALIBRATION_INPUTS, simplified, widest_inputs
from hardware.artifacts.cmsis_graph import decode_graph, encode_graph
from hardware.artifacts.tensor_arena import can_tell_tensor_arena, tensor_arena_bytes
from hardware.errors import MeasurementError
from hardware.files import sha256_file, write_bytes
from hardware.firmware.boards import Sources

if TYPE_CHECKING:
    import torch
    from bakenn import CompiledModel
    from bakenn.ir import QuantizedGraph

FORMAT = "cmsis"
_SCHEMA = 1
_NAME = "network"
# Channels that CMSIS-NN 4.0.0 works on at once in vector kernels of depthwise convolutions (CH_IN_BLOCK_MVE).
_VECTOR_CHANNELS = 124


@dataclass(frozen=True, slots=True, kw_only=True)
class CmsisNetwork:
    """The content of one file.

    Attributes:
        graph: bakenn's quantised graph.
        compiled: its plan and its memory, for the C below.
        sources: the C files with their headers and licences, by path.
        input_shape: of the float32 input, channels first.
        output_shape: of the float32 output, channels first.
        reference_input: bytes of one quantised input.
        reference_output: the bytes that bakenn's integer arithmetic in Python has for it.
        tensor_arena_bytes: what tflite-micro would need for the network; None if it was not at hand.
    """

    graph: "QuantizedGraph"
    compiled: "CompiledModel"
    sources: Mapping[str, bytes]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    reference_input: bytes
    reference_output: bytes
    tensor_arena_bytes: int | None = None

    def quantized(self, x: NDArray[np.float32]) -> bytes:
        """The bytes of an input; what lies outside the range of the calibration inputs is clipped.

        Raises:
            MeasurementError: NaN or infinity.
        """
        import bakenn

        try:
            return bakenn.quantize_input(self.compiled.plan, _channels_last(x)).tobytes()
        except bakenn.BakeNNError as e:
            raise MeasurementError(f"the input cannot be quantised: {e}", hint="pass finite numbers") from e

    def dequantized(self, output: bytes) -> NDArray[np.float32]:
        """The output as float32, in `output_shape`."""
        import bakenn

        plan = self.compiled.plan
        shape = plan.tensors[plan.outputs[0]].tensor_type.shape
        values = bakenn.dequantize_output(plan, np.frombuffer(output, dtype=np.int8).reshape(shape))
        return np.ascontiguousarray(np.moveaxis(values, -1, 1), dtype=np.float32)

    def infer_in_python(self, input_bytes: bytes) -> bytes:
        """Bakenn's integer arithmetic in Python: the standard of comparison, about a second per million MACs."""
        return _infer_in_python(self.compiled, np.frombuffer(input_bytes, dtype=np.int8))

    def board_sources(self, folder: Path, *, vectors: bool) -> Sources:
        """Write the C sources for a board below `folder`.

        Args:
            folder: exists.
            vectors: the board has vector instructions, for which CMSIS-NN needs more scratch memory than bakenn plans.
        """
        for name, content in self.sources.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return _sources(folder, arena_bytes=_arena_bytes(self.compiled, vectors=vectors))

    def portable_sources(self, folder: Path) -> Sources:
        """Write C sources for any processor, with the same output bytes, below `folder`."""
        import bakenn

        compiled = bakenn.compile(self.graph, folder, model_name=_NAME)
        return _sources(folder, arena_bytes=compiled.memory_report.arena_bytes)


def build_cmsis(
    module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor", path: Path
) -> Artifact:
    """Quantise a module to int8 and write it as C with CMSIS-NN kernels; see the module's text for the file.

    The ranges of activations are those of four of the calibration inputs: those that, run in torch, together span most
    of the ranges that all of them span (bakenn evaluates calibration inputs in Python, 1.5 s per million MACs and
    input). Where only the cost matters, one calibration input is enough.

    Args:
        module: takes one float32 tensor, returns one; left as it was.
        example: an input of batch 1.
        calibration: inputs (N, ...), N >= 1.
        path: written whole or not at all.

    Raises:
        MeasurementError: another batch than 1, or the module has something that bakenn does not know.
        StorageError: the file cannot be written.
    """
    import bakenn
    import torch
    from bakenn.frontends import capture_torch_export
    from safetensors.numpy import save

    if example.shape[0] != 1 or example.dtype != torch.float32:
        raise MeasurementError(
            f"microcontrollers take one float32 input at a time, the example is {example.dtype} of shape "
            f"{tuple(example.shape)}",
            hint="pass an example of batch 1, and set device.batch to 1",
        )
    graph_module = simplified(module, example=example)
    inputs = widest_inputs(graph_module, calibration=calibration.detach().float().cpu(), num=NUM_CALIBRATION_INPUTS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            captured = capture_torch_export(graph_module, example, name=_NAME)
        written = encode_graph(bakenn.quantize_float_graph(captured, inputs))
        # Read back before it is compiled, so that writer and reader name the constants alike.
        graph = decode_graph(*written)
        compiled, sources = _compiled(graph)
        reference = bakenn.quantize_input(compiled.plan, _channels_last(inputs[:1].numpy()))
    # bakenn has its own errors, and lets some of Python's pass.
    except Exception as e:
        raise MeasurementError(
            f"{type(module).__name__} cannot be compiled for microcontrollers: {e}",
            hint="change the layer that bakenn names, or choose another device; if numbers exceed their range, "
            "recalibrate the batch norms first: an untrained network's activations vanish",
        ) from e
    answer = np.frombuffer(_infer_in_python(compiled, reference), dtype=np.int8)
    about = {
        "schema": _SCHEMA,
        "bakenn": metadata.version("bakenn"),
        "input_shape": list(example.shape),
        "output_shape": list(_channels_first(compiled.plan.tensors[compiled.plan.outputs[0]].tensor_type.shape)),
        "tensor_arena_bytes": tensor_arena_bytes(module, example=example, calibration=calibration)
        if can_tell_tensor_arena()
        else None,
        "graph": written[0],
    }
    files = {
        "network.json": json.dumps(about, indent=1, allow_nan=False).encode(),
        "constants.safetensors": written[1],
        "reference.safetensors": save({"input": reference, "output": answer}),
        **{f"c/{name}": content for name, content in sources.items()},
    }
    write_bytes(path, _zipped(files))
    return open_cmsis(path)


def open_cmsis(path: Path) -> Artifact:
    """Describe a file, whoever wrote it.

    Raises:
        StorageError: the file is missing.
        MeasurementError: it is no such file; see `read_cmsis`.
    """
    sha256 = sha256_file(path)
    content = path.read_bytes()
    network = read_cmsis(content, path=path)
    return Artifact(
        path=path,
        format=FORMAT,
        sha256=sha256,
        size_bytes=len(content),
        input_shape=network.input_shape,
        input_dtype="float32",
        output_shape=network.output_shape,
        precision="int8",
    )


def read_cmsis(content: bytes, *, path: Path) -> CmsisNetwork:
    """Read the content of a file, and generate its C sources anew.

    Args:
        content: of the file.
        path: for messages.

    Raises:
        MeasurementError: it is damaged or of another schema, or its C sources are not those that bakenn generates
            from its graph.
    """
    from safetensors.numpy import load

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        about = json.loads(files["network.json"])
        if about["schema"] != _SCHEMA:
            raise ValueError(f"it has schema {about['schema']}, this version of archsmith reads {_SCHEMA}")
        graph = decode_graph(about["graph"], files["constants.safetensors"])
        reference = load(files["reference.safetensors"])
        compiled, sources = _compiled(graph)
        network = CmsisNetwork(
            graph=graph,
            compiled=compiled,
            sources=sources,
            input_shape=tuple(int(size) for size in about["input_shape"]),
            output_shape=tuple(int(size) for size in about["output_shape"]),
            reference_input=reference["input"].tobytes(),
            reference_output=reference["output"].tobytes(),
            tensor_arena_bytes=about.get("tensor_arena_bytes"),
        )
        written_by = str(about["bakenn"])
    # Zip, JSON, safetensors and bakenn each have their own exceptions, without a common base.
    except Exception as e:
        raise MeasurementError(
            f"{path} is damaged or no network in C: {e}", hint="build it again with the device's backend"
        ) from e
    if {name.removeprefix("c/"): file for name, file in files.items() if name.startswith("c/")} != sources:
        raise MeasurementError(
            f"{path} has other C sources than bakenn {metadata.version('bakenn')} generates from its graph "
            f"(it was written by bakenn {written_by})",
            hint="build it again with the device's backend",
        )
    return network


def _compiled(graph: "QuantizedGraph") -> tuple["CompiledModel", dict[str, bytes]]:
    """Plan of a graph for cores with DSP instructions, and its C files by path."""
    import bakenn

    options = bakenn.CBackendOptions(
        kernel_policy=bakenn.KernelPolicy.STATIC_PRIORITY, enable_cmsis_nn=True, target=bakenn.CORTEX_M4
    )
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        root = Path(folder) / "c"
        compiled = bakenn.compile(graph, root, model_name=_NAME, backend_options=options)
        paths = sorted(path for path in root.rglob("*") if path.suffix in (".c", ".h", ".txt"))
        return compiled, {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _arena_bytes(compiled: "CompiledModel", *, vectors: bool) -> int:
    """Bytes of the arena; bakenn plans its end, the scratch memory, for cores without vector instructions.

    The formulas are those of arm_convolve_s8_get_buffer_size and arm_depthwise_conv_s8_opt_get_buffer_size in
    CMSIS-NN 4.0.0 under ARM_MATH_MVEI.
    """
    planned, offset = compiled.memory_report.arena_bytes, compiled.memory_report.scratch_offset
    if not vectors or offset is None:
        return planned
    needed = 0
    for step, memory in zip(compiled.plan.steps, compiled.memory_report.steps, strict=True):
        if not memory.kernel_id.startswith("cmsis_nn.") or memory.scratch_bytes == 0 or not hasattr(step, "weight"):
            continue
        # Output channels, height, width, input channels; or height, width, channels if it is depthwise.
        shape = compiled.plan.constants[step.weight].shape
        if "depthwise" in memory.kernel_id:
            needed = max(needed, 4 * _VECTOR_CHANNELS * shape[0] * shape[1])
        else:
            needed = max(needed, 4 * 8 * -(-int(np.prod(shape[1:])) // 8))
    return max(planned, offset + needed)


def _sources(folder: Path, *, arena_bytes: int) -> Sources:
    headers = {path.parent for path in folder.rglob("*.h")}
    return Sources(
        files=tuple(sorted(folder.rglob("*.c"))), include_dirs=tuple(sorted(headers)), arena_bytes=arena_bytes
    )


def _infer_in_python(compiled: "CompiledModel", values: NDArray[np.int8]) -> bytes:
    import bakenn

    plan = compiled.plan
    shape = plan.tensors[plan.inputs[0]].tensor_type.shape
    return bakenn.run_reference(plan, values.reshape(shape)).tobytes()


def _channels_last(x: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[-1], *shape[1:-1])


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """The same files give the same bytes: fixed order, fixed time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
