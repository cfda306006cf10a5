"""Errors of devices, measurements and files."""

from searchspaces.errors import Hinted


class DeviceError(Hinted, RuntimeError):
    """A device that is unknown, unavailable or busy, a runtime that is missing, or a lease that was lost."""


class MeasurementError(Hinted, RuntimeError):
    """A network or protocol that cannot be measured, or a measurement that makes no sense."""


class StorageError(Hinted, RuntimeError):
    """A file that is missing, damaged or cannot be written."""
