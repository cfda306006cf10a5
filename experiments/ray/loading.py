"""What a worker loads on its own machine: the workload of a run, and the lock of the host it computes on."""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from experiments.errors import ClusterError
from hardware.device import DeviceSpec
from hardware.lease import UnitLock
from nas.memory import keep_freed_memory
from nas.search.pool import Judge
from nas.training.context import TrainContext

DEFAULT_LOADER = "experiments.workload:load_workload"


Weights = Mapping[str, npt.NDArray[np.generic]]
"""Of a supernet by name, as of `nas.run.Run.supernet_weights`."""


class Workload(Protocol):
    """What workers do for a run; `experiments.workload.Workload` is the real one."""

    def train(self, context: TrainContext) -> None:
        """Train the supernet, or go on training it."""

    def judge(self, weights: Weights | None = None) -> Judge:
        """Return the function that judges the subnets of a task, with these weights of the supernet or the run's."""

    def fine_tune(
        self,
        arch_json: str,
        *,
        directory: Path,
        on_epoch: Callable[[dict[str, float]], None],
        epochs: int | None = None,
        use_gpu: bool = False,
    ) -> None:
        """Fine-tune one candidate, or go on doing so; `epochs` are those of the section `refine` if None."""


def load(run_dir: str, *, loader: str) -> Workload:
    """Load the workload of a run, in a process that will train or evaluate networks.

    Args:
        run_dir: the run directory, absolute: workers have a working directory of their own.
        loader: "module:function"; the function takes the run directory as a Path.

    Raises:
        ClusterError: this machine has no such module or function.
    """
    keep_freed_memory()
    module, _, function = loader.partition(":")
    try:
        make = cast(Callable[[Path], Workload], getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError, ValueError) as e:
        raise ClusterError(
            f"a worker cannot load {loader!r}: {e}", hint="install archsmith on every machine of the cluster"
        ) from e
    return make(Path(run_dir))


class HostLock:
    """The lock of the machine that this process runs on: computing takes it shared, measuring exclusively."""

    def __init__(self, *, owner: str, directory: str | None) -> None:
        """Describe the lock; nothing is taken yet.

        Args:
            owner: who this is, for the messages to those who wait.
            directory: where the lock files lie; the host's usual place if None.
        """
        # Only the machine matters here, not a device of it.
        self.unit = DeviceSpec(device_id="cpu", backend="cpu").physical_unit()
        self._lock = UnitLock(self.unit, directory=None if directory is None else Path(directory))
        self._owner = owner

    def computing(self) -> AbstractContextManager[None]:
        """Keep measurers out; waits for the one who is measuring or about to."""
        return self._lock.computing(owner=self._owner)
