"""What was measured on a device outside of runs: one table for each device and space, in the user's own directory."""

import re
from pathlib import Path

from hardware.errors import StorageError
from hardware.health import state_directory
from hardware.measurement import MEASUREMENT_SCHEMA
from hardware.table import Table

FILES = "files"
"""In place of a space: networks that came as files."""


def measurement_table(device_id: str, *, space_id: str) -> Table:
    """The measurements of a device on the architectures of one space (or on `FILES`), in append order."""
    return Table(_directory("measurements", device_id, space_id), schema=MEASUREMENT_SCHEMA)


def measured_spaces(device_id: str) -> list[str]:
    """Spaces (and `FILES`) of which the device has measurements, sorted."""
    directory = _directory("measurements", device_id)
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir()) if directory.is_dir() else []


def calibrated_predictor(device_id: str, *, space_id: str, quantity: str = "latency") -> Path:
    """Directory of the predictor that `nas devices calibrate` fitted; it exists once it did."""
    directory = _directory("predictors", device_id, space_id)
    return directory if quantity == "latency" else directory / quantity


def calibrated_operators(device_id: str, *, space_id: str) -> Path:
    """Directory of the operator lookup table that `nas devices calibrate --operators` measured; likewise."""
    return _directory("operators", device_id, space_id)


def calibrated_devices(space_id: str) -> list[str]:
    """Devices that have such a predictor of a space, sorted."""
    directory = _directory("predictors")
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(entry.name for entry in found if (entry / space_id).is_dir())


def _directory(*names: str) -> Path:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
            raise StorageError(
                f"{name!r} cannot be the name of a directory of measurements",
                hint="device and space ids are letters, digits, dots, - and _",
            )
    return state_directory().joinpath(*names)
