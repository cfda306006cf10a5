"""Errors of devices, measurements and files."""

from searchspaces.errors import Hinted


class DeviceError(Hinted, RuntimeError):
    """A device that is unknown, unavailable or busy, a runtime that is missing, or a lease that was lost."""


class MeasurementError(Hinted, RuntimeError):
    """A network or protocol that cannot be measured, or a measurement that makes no sense."""


class StorageError(Hinted, RuntimeError):
    """A file that is missing, damaged or cannot be written."""


class DeviceUsageError(DeviceError):
    """A mistake of whoever asks: an error in `devices.yaml`, or a format that there is not."""


class DeadDeviceError(DeviceError):
    """A device that does not answer as it should. Other work can go on without it."""


class UnreachableError(DeadDeviceError):
    """A device that cannot be reached, or whose connection was lost: trying again may help."""


class HangingError(DeadDeviceError):
    """A device that was reached and then said nothing for longer than it may."""


class UntrustedError(DeadDeviceError):
    """A device that is not what it should be (host key, version) or whose numbers cannot be true: look at it first."""


class QuarantinedError(DeadDeviceError):
    """A device that failed too often and was not checked since."""
