"""What training needs of the place it runs in; `experiments/ray` implements it on a cluster."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import nn


class TrainContext(Protocol):
    """One worker among `world_size` equal ones."""

    @property
    def rank(self) -> int:
        """This worker's number, 0 ... world_size - 1; rank 0 writes files."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Where this worker keeps its weights and computes."""

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every parameter's gradient by its mean over the workers; a missing gradient counts as zero."""

    def mean(self, value: float) -> float:
        """Mean of `value` over the workers (NaN if one worker has NaN)."""

    def barrier(self) -> None:
        """Wait until every worker is here."""

    def computing(self) -> AbstractContextManager[object]:
        """Hold this host's compute lock, so that nobody measures meanwhile; taken around every epoch."""


class LocalContext:
    """The only worker, in this process: for tests, notebooks and fine-tuning trials."""

    rank = 0
    world_size = 1

    def __init__(self, *, device: str = "cpu") -> None:
        """Compute on `device`, for example "cuda"."""
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """The device that was asked for."""
        return self._device

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing to average."""

    def mean(self, value: float) -> float:
        """Return `value`."""
        return value

    def barrier(self) -> None:
        """Nobody to wait for."""

    def computing(self) -> AbstractContextManager[object]:
        """No lock: the caller holds it."""
        return nullcontext()
