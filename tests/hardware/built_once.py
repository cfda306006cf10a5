"""Networks that are converted once a module: converters take seconds."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import DeviceBackend
from hardware.testing import INPUT_SHAPE, calibration_inputs, example_network
from tests.hardware.networks import RAW_SHAPE, elaborate_network, raw_images, real_subnet

_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "example": example_network,
    "elaborate": elaborate_network,
    "real": real_subnet,
}


class BuiltOnce:
    """Artifacts of the known networks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[tuple[str, str, str], Artifact] = {}

    def copy(self, name: str, backend: DeviceBackend, *, precision: str, folder: Path) -> Artifact:
        """Build the network `name`, or take it from before, and copy the file to `folder`."""
        key = (name, backend.name, precision)
        if key not in self._built:
            path = self._folder / f"{'-'.join(key)}.{backend.artifact_format}"
            self._built[key] = backend.build(
                _NETWORKS[name](),
                example=torch.zeros(1, *(INPUT_SHAPE if name == "example" else RAW_SHAPE)),
                path=path,
                precision=precision,
                calibration=calibration_inputs() if name == "example" else raw_images(64, seed=1),
            )
        built = self._built[key]
        path = folder / f"network.{backend.artifact_format}"
        shutil.copyfile(built.path, path)
        return dataclasses.replace(built, path=path)
