"""Judges subnets: extract, recalibrate batch normalisation, count what is classified correctly."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import nn

from nas.data import DataSplits, ImageSet
from nas.search.pool import SubnetScore
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet

_RECALIBRATION, _BATCH = 4, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Top-1 accuracy of one candidate on one split, as a fraction, with its binomial interval."""

    num_correct: int
    num_images: int
    level: float = 0.95

    @property
    def value(self) -> float:
        """Share of correctly classified images, 0 ... 1."""
        return self.num_correct / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval (Wilson, JASA 1927, doi 10.1080/01621459.1927.10502953)."""
        n, p = self.num_images, self.value
        z = float(norm.ppf(0.5 + self.level / 2))
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * float(np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)))
        return max(0.0, centre - half), min(1.0, centre + half)


def recalibrate(network: nn.Module, batches: Sequence[torch.Tensor]) -> None:
    """Give a network's batch normalisations the statistics of its own activations; leaves it in eval mode.

    Every layer normalises by the batch while mean and biased variance are collected, averaged over the batches
    weighted by their size (the once-for-all procedure). Inherited statistics would belong to other subnets.

    Args:
        network: a network with `nn.BatchNorm2d` layers.
        batches: prepared training images (N, C, H, W).
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sums: dict[nn.BatchNorm2d, tuple[torch.Tensor, torch.Tensor]] = {
        layer: (torch.zeros(layer.num_features), torch.zeros(layer.num_features)) for layer in layers
    }

    def collect(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        count = inputs[0].numel() // layer.num_features
        mean, var = sums[layer]
        images = inputs[0].shape[0]
        mean += layer.running_mean * images
        # with momentum 1 the running variance is the unbiased one of this batch
        var += layer.running_var * (images * (count - 1) / count)

    momenta = {layer: layer.momentum for layer in layers}
    hooks = [layer.register_forward_hook(collect) for layer in layers]
    network.train()
    try:
        for layer in layers:
            layer.momentum = 1.0
        with torch.no_grad():
            for x_NCHW in batches:
                network(x_NCHW)
        total = sum(len(x_NCHW) for x_NCHW in batches)
        for layer, (mean, var) in sums.items():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(mean / total)
            layer.running_var.copy_(var / total)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        network.eval()


def count_correct(predict: Callable[[torch.Tensor], torch.Tensor], images: ImageSet, *, batch: int = _BATCH) -> int:
    """Correct top-1 predictions.

    Args:
        predict: raw images (N, C, H, W) to logits (N, num_classes).
        images: a split.
        batch: images a call.
    """
    correct = 0
    for x_NCHW, labels_N in zip(images.images_NCHW.split(batch), images.labels_N.split(batch), strict=True):
        correct += int((predict(x_NCHW).argmax(dim=1) == labels_N).sum())
    return correct


class SubnetJudge:
    """Judges subnets with inherited weights; prepared images are kept for every resolution that was asked for.

    Attributes:
        data: the splits; `train` feeds the recalibration, `search` is judged on.
    """

    def __init__(self, supernet: Supernet, *, data: DataSplits, recalibration_images: int, seed: int) -> None:
        self.data = data
        self._supernet = supernet.eval()
        order = np.random.default_rng((seed, _RECALIBRATION)).permutation(len(data.train))[:recalibration_images]
        self._recalibration_NCHW = data.train.images_NCHW[torch.from_numpy(order)]
        self._prepared: dict[int, tuple[torch.Tensor, ...]] = {}
        self._searched: dict[int, torch.Tensor] = {}

    def network(self, arch: Architecture) -> nn.Module:
        """The subnet as a plain network with recalibrated statistics, in eval mode, taking prepared images."""
        network = self._supernet.extract(arch)
        recalibrate(network, self.recalibration_batches(self._supernet.space.resolution(arch)))
        return network

    def recalibration_batches(self, resolution: int) -> tuple[torch.Tensor, ...]:
        """The fixed training images that recalibration uses, prepared at `resolution`."""
        if resolution not in self._prepared:
            x_NCHW = self.data.preprocessing.prepare(self._recalibration_NCHW, resolution=resolution)
            self._prepared[resolution] = x_NCHW.contiguous(memory_format=torch.channels_last).split(_BATCH)
        return self._prepared[resolution]

    def score_network(self, network: nn.Module, *, resolution: int) -> Accuracy:
        """Accuracy of a network that takes prepared images, on the search split."""
        if resolution not in self._searched:
            x_NCHW = self.data.preprocessing.prepare(self.data.search.images_NCHW, resolution=resolution)
            self._searched[resolution] = x_NCHW.contiguous(memory_format=torch.channels_last)
        labels_N = self.data.search.labels_N
        with torch.no_grad():
            correct = sum(
                int((network(x_NCHW).argmax(dim=1) == y_N).sum())
                for x_NCHW, y_N in zip(self._searched[resolution].split(_BATCH), labels_N.split(_BATCH), strict=True)
            )
        return Accuracy(num_correct=correct, num_images=len(labels_N))

    def judge(self, archs: Sequence[Architecture]) -> tuple[SubnetScore, ...]:
        """Score subnets one after the other; a pool task."""
        scores = []
        for arch in archs:
            start = time.perf_counter()
            accuracy = self.score_network(self.network(arch), resolution=self._supernet.space.resolution(arch))
            scores.append(
                SubnetScore(
                    arch_id=arch.arch_id,
                    num_correct=accuracy.num_correct,
                    num_images=accuracy.num_images,
                    seconds=time.perf_counter() - start,
                )
            )
        return tuple(scores)


def accuracy_row(accuracy: Accuracy) -> Mapping[str, float | int]:
    """The columns that every table has about an accuracy."""
    low, high = accuracy.interval
    return {
        "accuracy": accuracy.value,
        "accuracy_low": low,
        "accuracy_high": high,
        "num_correct": accuracy.num_correct,
        "num_images": accuracy.num_images,
    }
