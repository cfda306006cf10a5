"""Trainings of a second or less: one elastic stage, 8 and 12 pixels, a few digits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from experiments.datasets import load_dataset
from experiments.recipe_settings import DataSettings
from nas.data import DataSplits
from nas.training.context import LocalContext
from nas.training.finished import finished_checkpoints
from nas.training.loop import train_supernet
from nas.training.settings import TrainSettings
from searchspaces.elastic.supernet import Supernet
from tests.nas.tiny_run import SEED, fresh_supernet
from tests.nas.training.gloo_child import ONE_EPOCH, PROGRESSIVE, SMALL, one_stage

__all__ = ["ONE_EPOCH", "PROGRESSIVE", "SMALL", "one_stage"]

# 32 images: two steps an epoch.
TWO_EPOCHS = replace(ONE_EPOCH, epochs=2)


class KillError(Exception):
    """A kill, as near as a test in one process gets."""


class WatchedContext(LocalContext):
    """The only worker; keeps every number that is averaged over the workers, and dies when told to.

    Attributes:
        numbers: losses and gradient norm of each step, and a zero after each epoch.
        epochs: that were begun.
    """

    def __init__(self, *, dies_in_epoch: int = 0, after_numbers: int = 0) -> None:
        super().__init__()
        self.numbers: list[float] = []
        self.epochs = 0
        self._dies_in_epoch, self._after_numbers = dies_in_epoch, after_numbers
        self._numbers_before = 0

    def mean(self, value: float) -> float:
        self.numbers.append(value)
        if self.epochs == self._dies_in_epoch and len(self.numbers) - self._numbers_before > self._after_numbers:
            raise KillError
        return value

    @contextmanager
    def computing(self) -> Iterator[None]:
        self.epochs += 1
        self._numbers_before = len(self.numbers)
        yield


def few_digits(num: int = 32) -> DataSplits:
    """The first training images with the real augmentation."""
    data = load_dataset(DataSettings(dataset="digits", search=400, verify=400, report=300), seed=SEED)
    return replace(data, train=data.train.first(num), augmentation="shift")


def train(
    directory: Path,
    *,
    data: DataSplits,
    settings: TrainSettings = ONE_EPOCH,
    context: LocalContext | None = None,
    supernet: Supernet | None = None,
) -> Supernet:
    supernet = fresh_supernet(space=SMALL) if supernet is None else supernet
    train_supernet(supernet, data=data, settings=settings, directory=directory, context=context or LocalContext())
    return supernet


def assert_equal_bit_for_bit(a: Supernet, b: Supernet) -> None:
    others = b.state_dict()
    assert all(torch.equal(tensor, others[name]) for name, tensor in a.state_dict().items())


def checkpoint_names(directory: Path) -> list[str]:
    return [path.name for path in finished_checkpoints(directory / "checkpoints")]


def spoil(data: DataSplits) -> DataSplits:
    """Images that are no numbers."""
    return replace(data, train=replace(data.train, inputs=data.train.inputs * float("nan")))


def poison_gradients(supernet: Supernet, *, when: Callable[[int], bool]) -> list[int]:
    """Make a gradient NaN in the backward passes, counted from 0, that `when` picks; returns those passed so far."""
    passes: list[int] = []

    def spoil_gradient(gradient: torch.Tensor) -> torch.Tensor:
        passes.append(len(passes))
        return gradient * float("nan") if when(passes[-1]) else gradient

    next(supernet.parameters()).register_hook(spoil_gradient)
    return passes
