"""Formats by name: which device writes the files that somebody asks for, and which takes files that come as ONNX."""

from typing import TYPE_CHECKING

from hardware.backends.backend import OnnxImporter
from hardware.device import device_ids, discover, install_hint, list_devices
from hardware.errors import DeviceError, DeviceUsageError

if TYPE_CHECKING:
    from hardware.backends.backend import DeviceBackend
    from hardware.device import Device


def device_for_format(format: str, *, precision: str) -> str:
    """Return the id of the device of this machine that writes files of a format and runs them again.

    Of several, one that is measured goes before those that are simulated or estimated, and the CPU before others.

    Args:
        format: for example "onnx", "openvino", "litert", "executorch" or "cmsis"; see `format_name`.
        precision: number format the network computes in, for example "fp32" or "int8".

    Raises:
        DeviceUsageError: no backend writes such files; the message says what there is.
        DeviceError: the runtime is missing.
    """
    found, broken = discover()
    fitting = [backend for backend in found if format_name(backend) == format and precision in backend.precisions]
    if not fitting:
        offered = sorted({f"{format_name(backend)} in {name}" for backend in found for name in backend.precisions})
        because = f"; modules that cannot be imported: {broken}" if broken else ""
        raise DeviceUsageError(
            f"no backend writes {format!r} files in {precision!r}, there are: {', '.join(offered)}{because}",
            hint="choose one of these, for example: nas export RUN --format onnx --precision int8",
        )
    fitting.sort(key=lambda backend: (backend.provenance != "measured", not backend.name.endswith("-cpu")))
    available = next((backend for backend in fitting if backend.missing() is None), None)
    if available is None:
        reasons = "; ".join(f"{backend.name}: {backend.missing()}" for backend in fitting)
        raise DeviceError(
            f"{format!r} files cannot be written in {precision!r} here: {reasons}", hint=install_hint(fitting[0])
        )
    return next(device_id for device_id, offered in device_ids(available) if offered == precision)


def format_name(backend: "DeviceBackend") -> str:
    """Name of the format that a backend writes, by which people ask for it: the runtime's, where endings say less."""
    ending = backend.artifact_format.partition(".")[0]
    return {"tflite": "litert", "pte": "executorch"}.get(ending, ending)


def onnx_importer(device: "Device") -> OnnxImporter:
    """Return what makes ONNX files into artifacts for a device.

    Raises:
        DeviceError: the device runs files that cannot be made from ONNX; the message names their format and the
            devices that do take ONNX files.
    """
    if isinstance(device.backend, OnnxImporter):
        return device.backend
    others = onnx_devices()
    example = f"--device {others[0]}" if others else "pip install onnxruntime onnx"
    raise DeviceError(
        f"device {device.spec.device_id!r} takes {format_name(device.backend)} files, which are made from PyTorch "
        f"networks and not from ONNX files; devices that take ONNX files: {', '.join(others) or 'none here'}",
        hint=f"choose one of these: {example}; or measure an architecture of a space instead of a file",
    )


def onnx_devices() -> list[str]:
    """Return the ids of the devices that take ONNX files and are available here, those of `devices.yaml` included.

    Raises:
        DeviceError: an error in `devices.yaml`.
    """
    takers = {backend.name for backend in discover()[0] if isinstance(backend, OnnxImporter)}
    return [status.device_id for status in list_devices() if status.available and status.backend in takers]
