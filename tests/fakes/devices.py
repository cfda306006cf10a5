"""Devices that fail when told to, and behave when not."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import DeviceBackend, Provenance, Session
from hardware.device import DeviceSpec
from hardware.errors import DeviceError, MeasurementError, UnreachableError
from hardware.onsite import MeasureJob, OnProgress, OnsiteResult


class FlakyBackend:
    """A real backend whose steps can be made to fail.

    Attributes:
        failing: the steps that fail now, any of "missing", "build", "load", "run"; change it at any time.
        fail_after_runs: "run" fails only after so many more runs.
    """

    def __init__(self, inner: DeviceBackend) -> None:
        self._inner = inner
        self.failing: set[str] = set()
        self.fail_after_runs = 0
        self.num_runs = 0
        self.num_predictions = 0

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def artifact_format(self) -> str:
        return self._inner.artifact_format

    @property
    def precisions(self) -> tuple[str, ...]:
        return self._inner.precisions

    @property
    def requirement(self) -> str:
        return self._inner.requirement

    @property
    def provenance(self) -> Provenance:
        return self._inner.provenance

    def missing(self) -> str | None:
        return "it was unplugged" if "missing" in self.failing else self._inner.missing()

    def versions(self) -> dict[str, str]:
        return self._inner.versions()

    def build(
        self,
        module: nn.Module,
        *,
        example: torch.Tensor,
        path: Path,
        precision: str = "fp32",
        calibration: torch.Tensor | None = None,
    ) -> Artifact:
        if "build" in self.failing:
            raise MeasurementError("the flaky device cannot build", hint="switch it back on")
        return self._inner.build(module, example=example, path=path, precision=precision, calibration=calibration)

    def load(self, artifact: Artifact, *, spec: DeviceSpec) -> "FlakySession":
        if "load" in self.failing:
            raise DeviceError("the flaky device cannot load", hint="switch it back on")
        return FlakySession(self._inner.load(artifact, spec=spec), backend=self)

    def count_run(self) -> None:
        """Count a run, or fail."""
        self.num_runs += 1
        if "run" in self.failing:
            if self.fail_after_runs <= 0:
                raise RuntimeError("the flaky device lost power")
            self.fail_after_runs -= 1


class FlakySession:
    """A session of a `FlakyBackend`."""

    def __init__(self, inner: Session, *, backend: FlakyBackend) -> None:
        self._inner = inner
        self._backend = backend

    def set_input(self, x: NDArray[Any]) -> None:
        self._inner.set_input(x)

    def run(self) -> None:
        self._backend.count_run()
        self._inner.run()

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        self._backend.count_run()
        self._backend.num_predictions += 1
        return self._inner.predict(x)

    def close(self) -> None:
        self._inner.close()


class DeadHost:
    """A host that cannot be reached."""

    def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
        raise UnreachableError(f"{job.spec.device_id} does not answer", hint="plug it in")
