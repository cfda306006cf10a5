"""A quick look at the supernet after each epoch: its largest and its smallest open subnet, on a few images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nas.accuracy import score
from nas.data import DataSplits
from nas.recalibration import recalibrate
from nas.training.phases import Phase, smallest_open
from nas.training.settings import TrainSettings
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet

_CHOSEN_IMAGES, _RECALIBRATION = 14, 15
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Accuracies (fractions) and losses of the two extremes that a phase trains, on the same validation images.

    A loss is the mean cross-entropy to the labels, without smoothing and without a teacher: the training's own losses
    are other numbers.
    """

    largest: float
    smallest: float
    loss_largest: float
    loss_smallest: float

    @property
    def score(self) -> float:
        """Their mean."""
        return (self.largest + self.smallest) / 2


class QuickValidation:
    """Judges the two extremes on a fixed slice of the search split, after BN recalibration on as many training images.

    Only to follow the training and to compare epochs: the search judges on the whole split.
    """

    def __init__(self, data: DataSplits, *, settings: TrainSettings, device: torch.device) -> None:
        self._device, self._preprocessing = device, data.preprocessing
        self._num_classes, self._metric = data.num_classes, data.metric
        num, seed = settings.validation_images, settings.seed
        chosen = _choose(len(data.search), num, rng=np.random.default_rng((seed, _CHOSEN_IMAGES)))
        self._inputs, self._labels_N = data.search.inputs[chosen], data.search.labels_N[chosen]
        recalibration = _choose(len(data.train), num, rng=np.random.default_rng((seed, _RECALIBRATION)))
        self._recalibration = data.train.inputs[recalibration]

    def __call__(self, supernet: Supernet, phase: Phase) -> Validated:
        """Judge the largest and the smallest subnet that are open; the supernet is not changed."""
        largest, loss_largest = self._judge(supernet, supernet.space.largest)
        smallest, loss_smallest = self._judge(supernet, smallest_open(supernet.space, phase.opened))
        return Validated(largest=largest, smallest=smallest, loss_largest=loss_largest, loss_smallest=loss_smallest)

    def _judge(self, supernet: Supernet, arch: Architecture) -> tuple[float, float]:
        """Accuracy and loss of a subnet."""
        shape = supernet.space.input_shape(arch)
        network: nn.Module = supernet.extract(arch).to(self._device)
        recalibrate(network, [self._prepare(raw, shape=shape) for raw in self._recalibration.split(_BATCH)])
        with torch.no_grad():
            logits = [network(self._prepare(raw, shape=shape)) for raw in self._inputs.split(_BATCH)]
        logits_NC = torch.cat(logits).float().cpu()
        found = score(self._labels_N, logits_NC.argmax(dim=1), num_classes=self._num_classes, metric=self._metric)
        return found.value, functional.cross_entropy(logits_NC, self._labels_N).item()

    def _prepare(self, raw: torch.Tensor, *, shape: tuple[int, ...]) -> torch.Tensor:
        return self._preprocessing.batch(raw.to(self._device), shape=shape)


def _choose(available: int, wanted: int, *, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.permutation(available)[:wanted])
