"""What was measured on a device outside of runs: one table for each device and space, in the user's own directory."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from hardware.device import DeviceSpec
from hardware.errors import StorageError
from hardware.health import state_directory
from hardware.measurement import MEASUREMENT_SCHEMA
from hardware.table import Table

FILES = "files"
"""In place of a space: networks that came as files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """What the costs of a space's networks on a device depend on besides: calibrations of other settings are others.

    Attributes:
        batch: images of one inference.
        threads: of one inference.
        num_classes: of the networks' classifier.
    """

    batch: int = 1
    threads: int = 1
    num_classes: int = 10

    @classmethod
    def of(cls, spec: DeviceSpec, *, num_classes: int) -> "CalibrationSettings":
        """Those of networks with so many classes on a device."""
        return cls(batch=spec.batch, threads=spec.threads, num_classes=num_classes)

    def __str__(self) -> str:
        return f"batch {self.batch}, threads {self.threads}, classes {self.num_classes}"

    def directory_name(self, space_id: str) -> str:
        """The space's name with what is not as usual, for example "mbconv-small.batch8.num_classes100"."""
        usual = asdict(CalibrationSettings())
        return space_id + "".join(f".{name}{value}" for name, value in asdict(self).items() if value != usual[name])

    @classmethod
    def from_directory_name(cls, name: str, *, space_id: str) -> "CalibrationSettings | None":
        """The inverse; None for the name of another space."""
        parts = "".join(rf"(?:\.{part}(?P<{part}>[0-9]{{1,9}}))?" for part in asdict(cls()))
        match = re.fullmatch(re.escape(space_id) + parts, name)
        return None if match is None else cls(**{k: int(v) for k, v in match.groupdict().items() if v is not None})


_USUAL = CalibrationSettings()


def measurement_table(device_id: str, *, space_id: str) -> Table:
    """The measurements of a device on the architectures of one space (or on `FILES`), in append order."""
    return Table(_directory("measurements", device_id, space_id), schema=MEASUREMENT_SCHEMA)


def measured_spaces(device_id: str) -> list[str]:
    """Spaces (and `FILES`) of which the device has measurements, sorted."""
    directory = _directory("measurements", device_id)
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir()) if directory.is_dir() else []


def calibrated_predictor(
    device_id: str,
    *,
    space_id: str,
    quantity: str = "latency",
    settings: CalibrationSettings = _USUAL,
) -> Path:
    """Directory of the predictor that `nas devices calibrate` fitted; it exists once it did."""
    directory = _directory("predictors", device_id, settings.directory_name(space_id))
    return directory if quantity == "latency" else directory / quantity


def calibrated_operators(device_id: str, *, space_id: str, settings: CalibrationSettings = _USUAL) -> Path:
    """Directory of the operator lookup table that `nas devices calibrate --operators` measured; likewise."""
    return _directory("operators", device_id, settings.directory_name(space_id))


def calibrations(space_id: str) -> dict[str, list[CalibrationSettings]]:
    """Devices that have such predictors of a space, sorted, and with which settings."""
    found: dict[str, list[CalibrationSettings]] = {}
    for directory in sorted(_directory("predictors").glob("*/*")):
        settings = CalibrationSettings.from_directory_name(directory.name, space_id=space_id)
        if settings is not None:
            found.setdefault(directory.parent.name, []).append(settings)
    return found


def _directory(*names: str) -> Path:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
            raise StorageError(
                f"{name!r} cannot be the name of a directory of measurements",
                hint="device and space ids are letters, digits, dots, - and _",
            )
    return state_directory().joinpath(*names)
