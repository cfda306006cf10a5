"""What a device backend is: one module of this folder with an object named BACKEND that fulfils `DeviceBackend`."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.errors import DeviceError, MeasurementError

if TYPE_CHECKING:
    import torch

    # Imported by device.py at run time, so the other direction is for the type checker only.
    from hardware.device import DeviceSpec

Provenance = Literal["measured", "simulated", "estimated"]
PROVENANCES: tuple[Provenance, ...] = ("measured", "simulated", "estimated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What one inference costs on a device that is simulated or estimated: exact, the same every time.

    Attributes:
        quantity: what is counted, for example "instructions" or "cycles".
        unit: its unit; never a unit of time, unless the tool itself tells the time.
        value: above 0.
        also: further numbers, the unit at the end of the name: "sram_bytes", "flash_bytes", "arena_bytes".
    """

    quantity: str
    unit: str
    value: float
    also: Mapping[str, float] = field(default_factory=dict)


class Session(Protocol):
    """A network that is loaded and ready to be run."""

    def set_input(self, x: NDArray[Any]) -> None:
        """Choose what `run` computes on.

        Raises:
            MeasurementError: shape or element type differ from the artifact's.
        """

    def run(self) -> None:
        """Compute once, whole: when it returns, the outputs are there. On measured devices this call is timed."""

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for one input of exactly the artifact's shape.

        Raises:
            MeasurementError: shape or element type differ from the artifact's.
        """

    def close(self) -> None:
        """Free the network; a second call does nothing."""


class CountingSession(Session, Protocol):
    """A session of a backend whose provenance is "simulated" or "estimated"."""

    def count(self) -> Count:
        """Return what one inference costs.

        Raises:
            MeasurementError: the simulator or the estimating compiler refuses the network; its words are in the text.
        """


class DeviceBackend(Protocol):
    """A runtime: turns modules into artifacts and runs them.

    The module is imported to list devices, so it imports its runtime only inside methods.
    """

    @property
    def name(self) -> str:
        """Name of the backend, and the id of its first device."""

    @property
    def artifact_format(self) -> str:
        """Format that `build` writes and `load` reads; also the ending of the file's name."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Number formats on offer, the default first; each is one device."""

    @property
    def requirement(self) -> str:
        """What pip has to install for this backend."""

    @property
    def provenance(self) -> Provenance:
        """Where its costs come from: "measured" sessions are timed, the others are `CountingSession`s."""

    def missing(self) -> str | None:
        """Say why the runtime cannot be used here, or None if it can. Quick: imports nothing heavy."""

    def versions(self) -> dict[str, str]:
        """Return the versions that a measurement depends on, by package."""

    def build(
        self,
        module: "torch.nn.Module",
        *,
        example: "torch.Tensor",
        path: Path,
        precision: str = "fp32",
        calibration: "torch.Tensor | None" = None,
    ) -> Artifact:
        """Write `module` in evaluation mode as `path`, with the fixed input shape of `example`.

        Args:
            module: takes one tensor, returns one; left as it was.
            example: an input; its shape, batch included, is fixed in the file.
            path: written whole or not at all.
            precision: one of `precisions`.
            calibration: real inputs (N, ...), any N >= 1, that the ranges of activations are taken from; int8 needs
                them, fp32 does not look at them.

        Raises:
            MeasurementError: the module has something that the format does not know, or int8 without calibration.
            StorageError: the file cannot be written.
        """

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> Session:
        """Load an artifact for the given threads, batch and precision.

        Raises:
            DeviceError: another format or precision than the device's.
            MeasurementError: another batch than the device's, or the runtime refuses the network.
            StorageError: the file is missing or is not the one that was described.
        """


@runtime_checkable
class OnnxImporter(Protocol):
    """A backend that can also run ONNX files that somebody else wrote; others do not have the method."""

    def import_onnx(
        self, source: Artifact, *, path: Path, precision: str, calibration: "torch.Tensor | None" = None
    ) -> Artifact:
        """Make an ONNX file into an artifact of this backend.

        Args:
            source: described by `hardware.artifacts.onnx.open_onnx`; it is left as it is.
            path: where the artifact is written, whole or not at all; nothing is where `source` itself can be run.
            precision: one of `precisions`. A source of int8 is taken as it is.
            calibration: float32 inputs (N, ...), any N >= 1, for a source that has to be made int8.

        Raises:
            MeasurementError: the format does not know an operator of the file (the message names it), nothing in it can
                be quantised, or int8 without calibration.
            StorageError: the artifact cannot be written.
        """


class Exporter(Protocol):
    """Writes a module in fp32."""

    def __call__(self, module: "torch.nn.Module", *, example: "torch.Tensor", path: Path) -> Artifact:
        """Write it; see `DeviceBackend.build`."""


class Quantizer(Protocol):
    """Writes a module in int8."""

    def __call__(
        self, module: "torch.nn.Module", *, example: "torch.Tensor", calibration: "torch.Tensor", path: Path
    ) -> Artifact:
        """Write it; see `DeviceBackend.build`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportingBackend:
    """What backends have in common that write fp32 with one function and int8 with another: all but `load`.

    Attributes:
        name, artifact_format, precisions, requirement, provenance: see `DeviceBackend`.
        modules: importable names that must be installed.
        packages: whose versions a measurement depends on.
        export: writes fp32.
        quantize: writes int8; None where there is no int8.
    """

    name: str
    artifact_format: str
    requirement: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    export: Exporter
    quantize: Quantizer | None = None
    precisions: tuple[str, ...] = ("fp32", "int8")
    provenance: Provenance = "measured"

    def missing(self) -> str | None:
        """Name the packages that are not installed, or None."""
        return missing_packages(self.modules)

    def versions(self) -> dict[str, str]:
        """Versions of the packages."""
        return {name: package_version(name) for name in self.packages}

    def build(
        self,
        module: "torch.nn.Module",
        *,
        example: "torch.Tensor",
        path: Path,
        precision: str = "fp32",
        calibration: "torch.Tensor | None" = None,
    ) -> Artifact:
        """Write the module's file; see `DeviceBackend.build`."""
        if precision == "fp32":
            return self.export(module, example=example, path=path)
        if self.quantize is None or precision not in self.precisions:
            raise MeasurementError(
                f"{self.name} cannot build {precision!r}, it has {self.precisions}",
                hint=f"choose one of {', '.join(self.precisions)}",
            )
        inputs = require_calibration(self.name, precision=precision, calibration=calibration)
        return self.quantize(module, example=example, calibration=inputs, path=path)


def require_fit(backend: DeviceBackend, artifact: Artifact, *, spec: "DeviceSpec") -> None:
    """Refuse an artifact that is not for this backend and device; every `load` begins with it.

    Raises:
        DeviceError, MeasurementError: see `DeviceBackend.load`.
    """
    if artifact.format != backend.artifact_format or spec.precision not in backend.precisions:
        raise DeviceError(
            f"{backend.name} runs {backend.artifact_format!r} in {backend.precisions}, {artifact.path} has format "
            f"{artifact.format!r} and device {spec.device_id!r} asks for {spec.precision!r}",
            hint=f"build the artifact with the backend {backend.name!r}",
        )
    if artifact.precision != spec.precision:
        raise DeviceError(
            f"{artifact.path} computes in {artifact.precision}, device {spec.device_id!r} in {spec.precision}: "
            "its cost would go by the wrong name",
            hint=f"build the artifact with precision {spec.precision!r}, or choose a device of {artifact.precision}",
        )
    if artifact.input_shape[0] != spec.batch:
        raise MeasurementError(
            f"{artifact.path} has batch {artifact.input_shape[0]}, the device is set to batch {spec.batch}",
            hint="export with the device's batch, or set device.batch",
        )


def checked_input(artifact: Artifact, x: NDArray[Any]) -> NDArray[Any]:
    """Return `x` in one piece of memory if it is an input of `artifact`.

    Raises:
        MeasurementError: another shape or element type; nothing is converted silently.
    """
    if x.shape != artifact.input_shape or x.dtype != np.dtype(artifact.input_dtype):
        raise MeasurementError(
            f"{artifact.path} takes {artifact.input_dtype} of shape {artifact.input_shape}, "
            f"got {x.dtype} of shape {x.shape}",
            hint="reshape and convert the input",
        )
    return np.ascontiguousarray(x)


def require_calibration(backend: str, *, precision: str, calibration: "torch.Tensor | None") -> "torch.Tensor":
    """The calibration inputs of an int8 build.

    Raises:
        MeasurementError: there are none.
    """
    if calibration is None or not len(calibration):
        raise MeasurementError(
            f"{backend} cannot build {precision} without calibration inputs: they tell the ranges of activations",
            hint="pass calibration=, some hundred real inputs of the network",
        )
    return calibration


def missing_packages(modules: Sequence[str]) -> str | None:
    """Name the importable modules that are not installed, or None; nothing is imported."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"the packages {', '.join(absent)} are not installed" if absent else None


def package_version(package: str) -> str:
    """Version of an installed package, by the name that is imported or that was installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # The same runtime comes under other names too, for example onnxruntime-gpu.
        distributions = metadata.packages_distributions().get(package, [])
        return metadata.version(distributions[0]) if distributions else "unknown"
