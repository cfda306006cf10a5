"""OpenVINO networks as one file: a zip archive that holds model.xml and model.bin, as OpenVINO itself writes them.

Whoever deploys one unpacks it and reads model.xml.
"""

import io
import logging
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.calibration import whole_batches
from hardware.artifacts.onnx import export_onnx
from hardware.artifacts.onnx_checks import spelled_versions_in
from hardware.errors import MeasurementError
from hardware.files import sha256_file, write_bytes

if TYPE_CHECKING:
    import openvino
    import torch

FORMAT = "openvino.zip"
_XML, _WEIGHTS = "model.xml", "model.bin"
# The earliest that the format knows: the same network is the same file, whenever it is written.
_TIME = (1980, 1, 1, 0, 0, 0)


def switch_off_telemetry() -> None:
    """Keep OpenVINO and NNCF from sending anything; to be called before every import of either.

    OpenVINO reports its mere import to a server, NNCF every quantisation, unless a file in the user's home forbids it.
    Both do without where the package that sends is not installed, so for this process it is not.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def export_openvino(module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
    """Write a module for OpenVINO in fp32; it is read from an ONNX file that is written on the way.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input; its shape, batch included, is fixed in the file.
        path: written whole or not at all.

    Raises:
        MeasurementError: ONNX or OpenVINO do not know something in the module; their words are in the text.
        StorageError: the file cannot be written.
    """
    # OpenVINO's own way from torch traces the module as well, and gives a network of the same speed.
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        plain = export_onnx(module, example=example, path=Path(folder) / "fp32.onnx")
        return convert_onnx_file(plain, path=path, spelled=type(module).__name__)


def quantize_openvino(
    module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor", path: Path
) -> Artifact:
    """Write a module for OpenVINO in int8; input and output stay float32.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input; its shape, batch included, is fixed in the file.
        calibration: inputs (N, ...).
        path: written whole or not at all.

    Raises:
        MeasurementError: ONNX, OpenVINO or NNCF do not know something in the module.
        StorageError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        plain = export_onnx(module, example=example, path=Path(folder) / "fp32.onnx")
        return quantize_onnx_file(plain, calibration=calibration, path=path, spelled=type(module).__name__)


def convert_onnx_file(plain: Artifact, *, path: Path, spelled: str | None = None) -> Artifact:
    """Write an ONNX file once more for OpenVINO; one in int8 stays in int8.

    Args:
        plain: the ONNX file.
        path: written whole or not at all.
        spelled: the network's name in messages; the file's if None.

    Raises:
        MeasurementError: OpenVINO does not know something in the file; its words are in the text.
        StorageError: the file cannot be written.
    """
    return _write(_converted(plain, spelled=spelled or str(plain.path)), path=path)


def quantize_onnx_file(
    plain: Artifact, *, calibration: "torch.Tensor", path: Path, spelled: str | None = None
) -> Artifact:
    """Write an ONNX file in fp32 once more for OpenVINO, in int8; input and output stay float32.

    Static post-training quantisation by NNCF with bias correction. Activations are asymmetric, as hard-swish wants it,
    and have the whole range of `calibration`: NNCF's default cuts outliers off. Weights use 7 of their 8 bits:
    processors without VNNI instructions add two products in 16 bits, which may overflow with 8.

    Args:
        plain: the ONNX file, with an input of float32.
        calibration: inputs (N, ...).
        path: written whole or not at all.
        spelled: the network's name in messages; the file's if None.

    Raises:
        MeasurementError: OpenVINO or NNCF do not know something in the file, or nothing in it can be quantised.
        StorageError: the file cannot be written.
    """
    name = spelled or str(plain.path)
    model = _converted(plain, spelled=name)
    batches = list(whole_batches(calibration, size=plain.input_shape[0]))
    switch_off_telemetry()
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    try:
        with _quiet_nncf():
            quantised: openvino.Model = nncf.quantize(
                model,
                nncf.Dataset(batches),
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(batches),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE,
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                ),
            )
    # NNCF lets out whatever it stumbles over, OpenVINO's exceptions included.
    except Exception as e:
        raise MeasurementError(
            f"{name} cannot be quantised for OpenVINO: {e}",
            hint="measure it in fp32, or look for operators that NNCF cannot quantise",
        ) from e
    if not _is_int8(quantised):
        raise MeasurementError(f"{name} has nothing that NNCF could quantise", hint="measure it in fp32")
    _name_in_order(quantised, prefix="int8")
    return _write(quantised, path=path)


def open_openvino(path: Path) -> Artifact:
    """Describe an OpenVINO archive. A network with FakeQuantize operators counts as int8.

    Raises:
        StorageError: the file is missing.
        MeasurementError: it is no such archive, has several inputs, or an input of open shape.
    """
    sha256 = sha256_file(path)
    content = path.read_bytes()
    model = read_openvino(content, path=path)
    shapes = [node.get_partial_shape() for node in model.inputs]
    if len(shapes) != 1 or not model.outputs or not shapes[0].is_static:
        raise MeasurementError(
            f"{path} has the inputs {[str(shape) for shape in shapes]}, only networks with one input of fixed size can "
            "be measured",
            hint="wrap the network so that it takes one tensor, and export it again",
        )
    output = model.outputs[0].get_partial_shape()
    return Artifact(
        path=path,
        format=FORMAT,
        sha256=sha256,
        size_bytes=len(content),
        input_shape=tuple(int(size) for size in shapes[0].to_shape()),
        input_dtype=str(model.inputs[0].get_element_type().to_dtype()),
        output_shape=tuple(size.get_length() if size.is_static else -1 for size in output),
        precision="int8" if _is_int8(model) else "fp32",
    )


def read_openvino(content: bytes, *, path: Path) -> "openvino.Model":
    """Return the network in an archive's content; `path` is for the message.

    Raises:
        MeasurementError: the content is no such archive, or OpenVINO refuses the network.
    """
    switch_off_telemetry()
    import openvino

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return openvino.Core().read_model(archive.read(_XML), archive.read(_WEIGHTS))
    except (zipfile.BadZipFile, KeyError, RuntimeError) as e:
        raise MeasurementError(
            f"{path} is no network for OpenVINO: {e}", hint="build the artifact again with the device's backend"
        ) from e


def _converted(plain: Artifact, *, spelled: str) -> "openvino.Model":
    switch_off_telemetry()
    import openvino

    try:
        model = openvino.Core().read_model(plain.path)
    except RuntimeError as e:
        # What it says first is where in its source it was.
        words = " ".join(str(e).rpartition("Summary:")[2].split())
        raise MeasurementError(
            f"{spelled} cannot be converted to OpenVINO {metadata.version('openvino')}: {words} "
            f"(the network has {spelled_versions_in(plain.path.read_bytes())})",
            hint="replace the operators that OpenVINO does not know, or use another runtime",
        ) from e
    _name_in_order(model, prefix="op")
    return model


def _is_int8(model: "openvino.Model") -> bool:
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def _write(model: "openvino.Model", *, path: Path) -> Artifact:
    import openvino

    packed = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder, zipfile.ZipFile(packed, "w") as archive:
        # Without compress_to_fp16=False the weights are silently rounded to half precision.
        openvino.save_model(model, Path(folder) / _XML, compress_to_fp16=False)
        for name in (_XML, _WEIGHTS):
            archive.writestr(zipfile.ZipInfo(name, date_time=_TIME), (Path(folder) / name).read_bytes())
    write_bytes(path, packed.getvalue())
    return open_openvino(path)


def _name_in_order(model: "openvino.Model", *, prefix: str) -> None:
    """Number the nameless operators from 0 instead of on from the last network: one network is always one file."""
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{prefix}/{number}")


@contextmanager
def _quiet_nncf() -> Iterator[None]:
    """Silence NNCF, which draws progress bars and logs on standard output, where commands print JSON."""
    import nncf
    import rich

    console = rich.get_console()
    quiet, level = console.quiet, nncf.nncf_logger.level
    console.quiet = True
    nncf.set_log_level(logging.ERROR)
    try:
        yield
    finally:
        console.quiet = quiet
        nncf.set_log_level(level)
