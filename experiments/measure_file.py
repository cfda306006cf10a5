"""`nas devices measure FILE.onnx`: an ONNX file of anybody is made into what the device runs, and measured."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from experiments.errors import DataError
from hardware.artifacts.onnx import open_in_one_piece
from hardware.device import Device, device_ids
from hardware.formats import onnx_importer
from hardware.lease import UnitLock
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many, reference_beside
from hardware.records import FILES, measurement_table

if TYPE_CHECKING:
    import torch

    from hardware.artifacts.artifact import Artifact

MOST_CALIBRATION_INPUTS = 256
"""As many as int8 candidates of a run are calibrated with; more of a file are left alone."""


def measure_file(
    device: Device,
    path: Path,
    *,
    calibration: Path | None,
    protocol: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> CostMeasurement:
    """Measure an ONNX file and append the record to the device's table, under the file's own checksum.

    Args:
        device: one that takes ONNX files, see `hardware.formats.onnx_devices`.
        path: the file; weights that it keeps in other files are found beside it.
        calibration: see `read_calibration`; for an int8 device and a file that is not in int8 yet.
        protocol: measurement protocol.
        on_progress: called with (rounds done, most rounds).

    Raises:
        DataError: there is no such file, it does not go with the device's precision or batch, or calibration inputs
            are missing, superfluous or do not fit.
        DeviceError: the device takes other files, or is busy.
        MeasurementError: the network cannot be measured; what is wrong with it is named.
        StorageError: the file is damaged, or weights that belong to it are missing.
    """
    importer, spec = onnx_importer(device), device.spec
    for file in (path, *([calibration] if calibration else [])):
        if not file.is_file():
            raise DataError(f"there is no file {file}", hint="check the path")
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        with UnitLock(spec.physical_unit()).computing(owner=f"convert for {spec.device_id}"):
            source = open_in_one_piece(path, folder=Path(folder))
            _require_fit(source, path=path, device=device, calibration=calibration)
            artifact = importer.import_onnx(
                source,
                path=Path(folder) / f"converted.{device.backend.artifact_format}",
                precision=spec.precision,
                calibration=None if calibration is None else read_calibration(calibration, network=source),
            )
            reference = reference_beside(device, artifact, folder=Path(folder))
        record = measure_many(
            device,
            {path.name: artifact},
            reference=reference,
            protocol=protocol,
            rng=np.random.default_rng(0),
            on_progress=on_progress,
        )[path.name]
    row = {
        **record.to_row(),
        "arch_id": source.sha256[:12],
        "candidate_id": path.name,
        "architecture": "{}",
        "purpose": "measure",
    }
    measurement_table(spec.device_id, space_id=FILES).append([row])
    return record


def read_calibration(path: Path, *, network: "Artifact") -> "torch.Tensor":
    """Read the inputs that the ranges of activations are taken from, the first 256 of them.

    Args:
        path: an array (N, ...) of N >= 1 inputs as .npy, or as the only array in a .npz; numbers of any type.
        network: the ONNX file that takes such inputs as float32, however many at once.

    Returns:
        float32 (at most 256, ...).

    Raises:
        DataError: the file is no such array, or its inputs are not those of the network; the message has both shapes.
    """
    import torch

    values = _read_array(path)
    hint = f"save real inputs as one array: numpy.save({path.with_suffix('.npy').name!r}, inputs)"
    if values.ndim == 0 or not len(values) or values.shape[1:] != network.input_shape[1:]:
        raise DataError(
            f"{path} has shape {values.shape}, calibration inputs of {network.path.name} have ({_spelled(network)})",
            hint=hint,
        )
    if values.dtype.kind not in "fiub":
        raise DataError(f"{path} has elements of type {values.dtype}, calibration inputs are numbers", hint=hint)
    first = np.array(values[:MOST_CALIBRATION_INPUTS], dtype=np.float32)
    if not np.isfinite(first).all():
        raise DataError(f"{path} has inputs that are not finite, ranges cannot be taken from them", hint=hint)
    return torch.from_numpy(first)


def _read_array(path: Path) -> NDArray[Any]:
    try:
        # Pickles stay closed, and what is not needed of a large file stays on the disk.
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as archive:
            names = sorted(archive.files)
            if len(names) == 1:
                only: NDArray[Any] = archive[names[0]]
                return only
    except (OSError, EOFError, ValueError, BadZipFile) as e:
        raise DataError(f"{path} is no array of numpy: {e}", hint="save the inputs with numpy.save") from e
    raise DataError(
        f"{path} has the arrays {names}, calibration inputs are one array", hint="save it alone: numpy.save"
    )


def _require_fit(source: "Artifact", *, path: Path, device: Device, calibration: Path | None) -> None:
    """Refuse what can be told before anything is converted.

    Raises:
        DataError: see `measure_file`.
    """
    spec = device.spec
    others = {precision: device_id for device_id, precision in device_ids(device.backend)}
    if source.input_shape[0] != spec.batch:
        raise DataError(
            f"{path} takes {source.input_shape[0]} inputs at once (shape {source.input_shape}), device "
            f"{spec.device_id!r} is set to {spec.batch}",
            hint=f"say that it is meant: --batch {source.input_shape[0]}",
        )
    if source.precision not in (spec.precision, "fp32"):
        other = others.get(source.precision)
        raise DataError(
            f"{path} computes in {source.precision}, device {spec.device_id!r} in {spec.precision}: its cost would go "
            "by the wrong name",
            hint=f"measure it with --device {other}" if other else f"export it in one of {', '.join(others)}",
        )
    if source.precision == spec.precision:
        if calibration is not None:
            raise DataError(
                f"{path} is measured in {source.precision} as it is, nothing of it is calibrated",
                hint="leave --calibration out, or choose a device of int8 for a file in fp32",
            )
        return
    as_it_is = f"measure it as it is: --device {others[source.precision]}"
    if source.input_dtype != "float32":
        raise DataError(
            f"{path} takes {source.input_dtype}, only networks that take float32 are made {spec.precision}",
            hint=as_it_is,
        )
    if calibration is None:
        raise DataError(
            f"{path} computes in {source.precision}; to make it {spec.precision} takes real inputs, which tell the "
            "ranges of activations",
            hint=f"pass some hundred inputs, an array ({_spelled(source)}): --calibration FILE.npy; or {as_it_is}",
        )


def _spelled(network: "Artifact") -> str:
    """Shape of calibration inputs."""
    return ", ".join(["N", *map(str, network.input_shape[1:])])
