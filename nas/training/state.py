"""What changes while a supernet is trained: weights, their moving average, the optimiser; made anew at each phase."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from hardware.files import JSON
from nas.training.checkpoints import Checkpoint
from nas.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from nas.training.settings import TrainSettings
from searchspaces.elastic.supernet import Supernet


class TrainState:
    """Weights, optimiser and moving average of one training, on one device.

    Attributes:
        supernet: holds the weights that are trained.
    """

    def __init__(self, supernet: Supernet, *, settings: TrainSettings, device: torch.device) -> None:
        self.supernet: Supernet = supernet.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._settings = settings
        self._parameters = dict(supernet.named_parameters())
        self._average: dict[str, torch.Tensor] = {}
        self._optimizer = self._fresh_optimizer()

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What is trained, by name, in a fixed order."""
        return self._parameters

    def start_phase(self) -> None:
        """Begin with a fresh optimiser, from the weights that were evaluated so far."""
        self.use_average()
        self._optimizer = self._fresh_optimizer()
        self._average = {}

    def update(self, *, learning_rate: float, steps_in_phase: int) -> None:
        """One step of the optimiser with the gradients at hand, and one of the moving average.

        Args:
            learning_rate: of this step.
            steps_in_phase: finished steps of the phase before this one. The average begins at the first of them, and
                its decay grows up to the setting, so that short phases are averages too (as TensorFlow's
                ExponentialMovingAverage does it: (1 + steps) / (10 + steps)).
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        if self._settings.ema_decay is None:
            return
        if not self._average:
            self._average = self._copy()
        decay = min(self._settings.ema_decay, (1 + steps_in_phase) / (10 + steps_in_phase))
        for name, parameter in self._parameters.items():
            self._average[name].lerp_(parameter.detach(), 1.0 - decay)

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters.values())

    def use_average(self) -> None:
        """Put the averaged weights, if there are any, in place of the trained ones."""
        self._load(self._average)

    @contextmanager
    def averaged(self) -> Iterator[Supernet]:
        """The supernet with the weights that are evaluated; the trained ones are back afterwards."""
        raw = self._copy() if self._average else {}
        self.use_average()
        try:
            yield self.supernet
        finally:
            self._load(raw)

    def checkpoint(self, *, epoch: int, step: int, details: Mapping[str, JSON]) -> Checkpoint:
        """The state as a checkpoint; its tensors are those of the state, to be written at once or copied."""
        raw = {name: p.detach() for name, p in self._parameters.items()} if self._average else {}
        return Checkpoint(
            epoch=epoch,
            step=step,
            weights={**self.supernet.state_dict(), **self._average},
            optimizer=optimizer_tensors(self._optimizer, self._parameters),
            details=details,
            raw=raw,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        self.supernet.load_state_dict(dict(checkpoint.weights))
        self._average = self._copy() if checkpoint.raw else {}
        self._load(checkpoint.raw)
        self._optimizer = self._fresh_optimizer()
        restore_optimizer(self._optimizer, self._parameters, checkpoint.optimizer)

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def _load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._parameters[name].copy_(tensor)

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        settings = self._settings
        return make_optimizer(
            self.supernet,
            name=settings.optimizer,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
