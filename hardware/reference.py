"""The network that tells how fast the host is while a single other one is measured.

A network cannot be its own reference: a host that slows down looks, divided by itself, like one that does not.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hardware.artifacts.artifact import Artifact
from hardware.device import Device

if TYPE_CHECKING:
    from torch import nn

_SHAPE = (3, 64, 64)
_CALIBRATION_INPUTS = 8


def build_reference(device: Device, *, folder: Path) -> Artifact:
    """Write a small convolutional network, always the same, in the format of a measured device.

    Args:
        device: where it will run, between the networks that are measured.
        folder: where the file goes.

    Raises:
        MeasurementError: the backend cannot write it.
        StorageError: the file cannot be written.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return device.backend.build(
            _network(),
            example=torch.zeros(device.spec.batch, *_SHAPE),
            path=folder / f"reference.{device.backend.artifact_format}",
            precision=device.spec.precision,
            calibration=torch.randn(_CALIBRATION_INPUTS, *_SHAPE) if device.spec.precision != "fp32" else None,
        )


def _network() -> "nn.Module":
    from torch import nn

    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU()]
    for c_in, c_out in ((16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(c_in, c_in, 3, stride=2, padding=1, groups=c_in), nn.Conv2d(c_in, c_out, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
