"""What a device backend is: one module of this folder with an object named BACKEND that fulfils `DeviceBackend`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact

if TYPE_CHECKING:
    import torch

    # Imported by device.py at run time, so the other direction is for the type checker only.
    from hardware.device import DeviceSpec


class Session(Protocol):
    """A network that is loaded and ready to be timed."""

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on.

        Raises:
            MeasurementError: shape or element type differ from the artifact's.
        """

    def run(self) -> None:
        """Compute once, whole: when it returns, the outputs are there. This call is what is timed."""

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for one input of exactly the artifact's shape.

        Raises:
            MeasurementError: shape or element type differ from the artifact's.
        """

    def close(self) -> None:
        """Free the network; a second call does nothing."""


class DeviceBackend(Protocol):
    """A runtime: turns modules into artifacts and runs them.

    The module is imported to list devices, so it imports its runtime only inside methods.
    """

    @property
    def name(self) -> str:
        """Name of the backend, and the id of its first device."""

    @property
    def artifact_format(self) -> str:
        """Format that `build` writes and `load` reads."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Number formats on offer, the default first; each is one device."""

    @property
    def requirement(self) -> str:
        """What pip has to install for this backend."""

    def missing(self) -> str | None:
        """Say why the runtime cannot be used here, or None if it can. Quick: imports nothing heavy."""

    def versions(self) -> dict[str, str]:
        """Return the versions that a measurement depends on, by package."""

    def build(self, module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
        """Write `module` in evaluation mode as `path`, with the fixed input shape of `example`.

        Raises:
            MeasurementError: the module has something that the format does not know.
            StorageError: the file cannot be written.
        """

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> Session:
        """Load an artifact for the given threads, batch and precision.

        Raises:
            DeviceError: another format or precision than this backend's.
            MeasurementError: another batch than the device's, or the runtime refuses the network.
            StorageError: the file is missing or is not the one that was described.
        """
