"""Judges subnets: extract, recalibrate batch normalisation, score what is predicted."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.accuracy import Accuracy, score, top1
from nas.data import DataSplits, Examples, Preprocessing, fastest_layout
from nas.folding import fold_norms
from nas.recalibration import recalibrate
from nas.search.pool import SubnetScore
from nas.search.stopping import Rival, Stopped, Stopping, judge_until_beaten, pack_answers
from nas.training.augmentation import augment
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet

_RECALIBRATION, _SHUFFLE = 4, 41  # keep the choice of images apart from other uses of the seed
_RECALIBRATION_BATCH = 200
_LARGEST_BATCH, _SMALLEST_BATCH = 128, 8
_PIXELS_A_BATCH = 2**17
_MOST_BYTES = 512 * 2**20
_FLOAT_BYTES = 4


class Classify(Protocol):
    """Runs a network on raw examples, see `nas.deployment.Deployment.classes`."""

    def __call__(self, network: nn.Module, *, shape: tuple[int, ...], images: Examples) -> Generator[NDArray[np.int64]]:
        """Predicted classes, batch by batch, of a network that takes prepared inputs of `shape`."""


class SubnetJudge:
    """Judges subnets with inherited weights, one network at a time; results depend on the architecture alone.

    Recalibration follows the once-for-all networks: batches of 200 training images with the training augmentation, at
    the subnet's own resolution. Which images, and how each is augmented, follows from the seed.

    Attributes:
        data: the splits; `train` feeds the recalibration, `search` is judged on.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        data: DataSplits,
        recalibration_images: int,
        seed: int,
        classify: Classify | None = None,
    ) -> None:
        """Keep what all judgements share.

        Args:
            supernet: the trained one.
            data: the splits.
            recalibration_images: training images that a subnet's statistics come from; the once-for-all networks
                take 2,000.
            seed: the run's.
            classify: runs networks in the device's arithmetic; torch in fp32 if None.
        """
        self.data = data
        self._classify = classify
        self._seed = seed
        self._supernet = supernet.eval()
        order = np.random.default_rng((seed, _RECALIBRATION)).permutation(len(data.train))[:recalibration_images]
        self._augmented = partial(
            _augmented_batches,
            data.train.inputs,
            torch.from_numpy(order),
            name=data.augmentation,
            seed=seed,
        )
        self._recalibration = _PreparedInputs(self._augmented, num=len(order), preprocessing=data.preprocessing)
        self._searched = self._prepared(data.search)

    def network(self, arch: Architecture) -> nn.Module:
        """The subnet as a plain network with recalibrated statistics, in eval mode, taking prepared images."""
        # Weights in the layout of the images: depthwise convolutions are half as fast otherwise.
        network = self._supernet.extract(arch).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate(network, self.recalibration_batches(self._supernet.space.input_shape(arch)))
        assert isinstance(network, nn.Module)
        return network

    def recalibration_batches(self, shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
        """The fixed, augmented training examples that recalibration uses, prepared at `shape`."""
        return self._recalibration.batches(shape, size=_RECALIBRATION_BATCH)

    def augmented_batches(self) -> Iterator[torch.Tensor]:
        """The same training examples, raw and augmented, before they are prepared."""
        return self._augmented(_RECALIBRATION_BATCH)

    def score_network(self, network: nn.Module, *, shape: tuple[int, ...]) -> Accuracy:
        """Accuracy of a network that takes prepared inputs of `shape`, on the search split."""
        images = self.data.search
        predictions_N = np.concatenate(list(self._classes(network, shape, images, self._searched)))
        return score(images.labels_N, predictions_N, num_classes=self.data.num_classes, metric=self.data.metric)

    def judge(self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None) -> tuple[SubnetScore, ...]:
        """Score subnets one after the other; a pool task.

        Args:
            archs: whom to judge.
            stopping: end the judgement of those that cannot beat their rivals; None: judge each to the end.
        """
        rivals = [None] * len(archs) if stopping is None else stopping.rivals
        scores = []
        for arch, rival in zip(archs, rivals, strict=True):
            start = time.perf_counter()
            network = self.network(arch)
            fold_norms(network)
            shape = self._supernet.space.input_shape(arch)
            answers, stopped = None, None
            if stopping is None:
                accuracy = self.score_network(network, shape=shape)
            else:
                correct_n, stopped = self._judge_against(rival, network, shape=shape, confidence=stopping.confidence)
                accuracy, answers = top1(correct_n), None if stopped else pack_answers(correct_n)
            scores.append(
                SubnetScore(
                    arch_id=arch.arch_id,
                    accuracy=accuracy,
                    seconds=time.perf_counter() - start,
                    answers=answers,
                    stopped=stopped,
                )
            )
        return tuple(scores)

    def _judge_against(
        self, rival: Rival | None, network: nn.Module, *, shape: tuple[int, ...], confidence: float
    ) -> tuple[NDArray[np.bool_], Stopped | None]:
        images, prepared = self._shuffled
        labels_N = images.labels_N.numpy()
        with closing(self._classes(network, shape, images, prepared)) as batches:
            return judge_until_beaten(
                _compare(batches, labels_N), num_images=len(labels_N), rival=rival, confidence=confidence
            )

    @cached_property
    def _shuffled(self) -> tuple[Examples, "_PreparedInputs"]:
        """The search split in an order that says nothing of its images: its own may be sorted by class."""
        order = torch.from_numpy(np.random.default_rng((self._seed, _SHUFFLE)).permutation(len(self.data.search)))
        images = self.data.search.take(order)
        return images, self._prepared(images)

    def _prepared(self, images: Examples) -> "_PreparedInputs":
        return _PreparedInputs(images.inputs.split, num=len(images), preprocessing=self.data.preprocessing)

    def _classes(
        self, network: nn.Module, shape: tuple[int, ...], images: Examples, prepared: "_PreparedInputs"
    ) -> Generator[NDArray[np.int64]]:
        if self._classify is not None:
            with closing(self._classify(network, shape=shape, images=images)) as batches:
                yield from batches
            return
        for x in prepared.batches(shape, size=batch_size(shape)):
            # Inside: a generator that waits must not change the mode of whoever it waits for.
            with torch.inference_mode():
                classes_n = network(x).argmax(dim=1)
            yield classes_n.numpy()


def _compare(batches: Iterable[NDArray[np.int64]], labels_N: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
    """Which predictions are correct, batch by batch."""
    first = 0
    for classes_n in batches:
        yield classes_n == labels_N[first : first + len(classes_n)]
        first += len(classes_n)


def batch_size(shape: tuple[int, ...]) -> int:
    """Images to classify at a time: so many that a layer's activations stay near the processor's caches.

    Args:
        shape: (C, H, W) or (C, T) of one prepared input.
    """
    return max(_SMALLEST_BATCH, min(_LARGEST_BATCH, _PIXELS_A_BATCH // math.prod(shape[1:])))


def _augmented_batches(
    inputs: torch.Tensor, order: torch.Tensor, size: int, *, name: str, seed: int
) -> Iterator[torch.Tensor]:
    """Examples of `inputs` in `order`, in batches of `size`, augmented anew: float images would fill the memory."""
    for step, part in enumerate(order.split(size)):
        yield augment(inputs[part], name=name, seed=seed, step=step, rank=0)


class _PreparedInputs:
    """One split's prepared inputs at the shapes used last, at most 512 MiB; what is larger is prepared each time.

    Args:
        raw: batch size -> all raw inputs in batches, the same each time.
        num: how many inputs there are.
        preprocessing: of the data set.
    """

    def __init__(self, raw: Callable[[int], Iterable[torch.Tensor]], *, num: int, preprocessing: Preprocessing) -> None:
        self._raw, self._num, self._preprocessing = raw, num, preprocessing
        self._kept: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def batches(self, shape: tuple[int, ...], *, size: int) -> Iterator[torch.Tensor]:
        """All inputs at `shape`, in order, in batches of `size`."""
        num_bytes = self._bytes(shape)
        if num_bytes > _MOST_BYTES:
            for raw in self._raw(size):
                yield self._preprocessing.batch(raw, shape=shape)
            return
        with self._lock:
            if shape not in self._kept:
                while sum(map(self._bytes, self._kept)) + num_bytes > _MOST_BYTES:
                    self._kept.popitem(last=False)
                prepared = torch.cat([self._preprocessing.prepare(raw, shape=shape) for raw in self._raw(size)])
                self._kept[shape] = fastest_layout(prepared)
            self._kept.move_to_end(shape)
            x = self._kept[shape]
        yield from x.split(size)

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return self._num * math.prod(shape) * _FLOAT_BYTES
