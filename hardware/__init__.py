"""What does it cost on this device? Devices, leases, measurements, and the durable files they end up in.

    from hardware import get_device, measure
    device = get_device("onnxruntime-cpu", threads=1)
    cost = measure(device, module, example=torch.zeros(1, 1, 8, 8))
    cost.p50, cost.low, cost.high                            # ms

The names below are loaded when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardware.device import get_device, list_devices
    from hardware.measuring import measure, measure_many

__all__ = ["get_device", "list_devices", "measure", "measure_many"]


def __getattr__(name: str) -> object:
    if name in ("get_device", "list_devices"):
        return getattr(import_module("hardware.device"), name)
    if name in ("measure", "measure_many"):
        return getattr(import_module("hardware.measuring"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
