"""What is written into the training history, and when."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil
import torch

from nas.training.history import TrainHistory
from nas.training.phases import Phase

_LOG_SECONDS = 1.0
_EXTREMES_SECONDS = 10.0


class ProgressLog:
    """Rows of the history: at most one a second, and always the last step of an epoch.

    A row has step, num_steps, epoch and phase (both counted from 1), learning_rate, rollbacks, images_per_second,
    eta_seconds, the losses of the step, after an epoch the accuracies that were found, and how busy the machine of the
    writer is, under the names that MLflow has for that ("system/..."; "process" is the writer's own part).

    loss_largest and loss_smallest are losses of the step where the sandwich rule trains both extremes; other phases
    look at them on a step's images now and then.
    """

    def __init__(self, history: TrainHistory, *, phases: Sequence[Phase], steps_an_epoch: int, batch_size: int) -> None:
        self._history, self._phases = history, phases
        self._steps_an_epoch, self._batch_size = steps_an_epoch, batch_size
        self._started = self._logged_at = time.perf_counter()
        self._passes_done, self._images, self._has_rows = 0.0, 0, False
        self._looked_at: float | None = None
        psutil.cpu_percent()  # every call tells the mean since the one before

    def count(self, phase: Phase) -> None:
        """A step of `phase` was made."""
        self._passes_done += phase.passes
        self._images += self._batch_size

    def is_due(self) -> bool:
        """Whether there is no row yet, or the last one is old enough."""
        return not self._has_rows or time.perf_counter() - self._logged_at >= _LOG_SECONDS

    def wants_extremes(self) -> bool:
        """Whether a row is due and it is time to look at the extremes of a phase that does not train both."""
        if not self.is_due():
            return False
        now = time.perf_counter()
        if self._looked_at is not None and now - self._looked_at < _EXTREMES_SECONDS:
            return False
        self._looked_at = now
        return True

    def write(self, *, step: int, index: int, values: Mapping[str, float]) -> None:
        """Write a row.

        Args:
            step: finished steps.
            index: of the phase that made the last one.
            values: losses, rates and accuracies.
        """
        now = time.perf_counter()
        self._history.append(
            {
                "step": step,
                "num_steps": self._phases[-1].last_epoch * self._steps_an_epoch,
                "epoch": (step - 1) // self._steps_an_epoch + 1,
                "phase": index + 1,
                **values,
                "images_per_second": self._images / max(now - self._logged_at, 1e-9),
                "eta_seconds": self._passes_left(step) * (now - self._started) / max(self._passes_done, 1e-9),
                **_usage(),
            }
        )
        self._logged_at, self._images, self._has_rows = now, 0, True

    def _passes_left(self, step: int) -> float:
        steps = self._steps_an_epoch
        return sum(
            phase.passes * max(0, phase.last_epoch * steps - max(step, phase.first_epoch * steps))
            for phase in self._phases
        )


def _usage() -> dict[str, float]:
    usage = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": psutil.virtual_memory().used / 1e6,
        "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    # Only where training uses it: asking would start CUDA in a process that computes on the CPU.
    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        usage["system/gpu_0_memory_usage_megabytes"] = (total - free) / 1e6
        usage["system/process_gpu_memory_usage_megabytes"] = torch.cuda.memory_reserved() / 1e6
        # Torch asks NVML through the package nvidia-ml-py, which not everybody has, and some drivers refuse to answer.
        with suppress(ModuleNotFoundError, RuntimeError):
            usage["system/gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
    return usage
