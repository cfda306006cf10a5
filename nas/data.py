"""What the stages need of a data set: labelled examples in four splits, and how raw values become network input.

Tensor letters: N examples, C channels, then H height and W width of an image, or T time steps of a series.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from nas.accuracy import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Labelled images (N, C, H, W) or series (N, C, T) at their native size.

    Attributes:
        inputs: raw values as the data set stores them, uint8 or float32 (for example 0..16 or 0..255).
        labels_N: int64 class indices.
        indices_N: int64 positions in the source, so that a split can be rebuilt by anybody.
        part: name of the source part the indices refer to, for example "train" or "t10k".
    """

    inputs: torch.Tensor
    labels_N: torch.Tensor
    indices_N: torch.Tensor
    part: str

    def __len__(self) -> int:
        return int(self.labels_N.shape[0])

    def first(self, num: int) -> "Examples":
        """The first `num` examples, all if there are fewer."""
        return replace(self, inputs=self.inputs[:num], labels_N=self.labels_N[:num], indices_N=self.indices_N[:num])

    def take(self, positions_n: torch.Tensor) -> "Examples":
        """The examples at these positions, in their order."""
        return replace(
            self,
            inputs=self.inputs[positions_n],
            labels_N=self.labels_N[positions_n],
            indices_N=self.indices_N[positions_n],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Raw values to network input: (x - mean) / std for every channel, in raw units.

    Attributes:
        mean: mean of the raw values of the training split, one a channel.
        std: their standard deviation, above zero, one a channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def prepare(self, inputs: torch.Tensor, *, shape: tuple[int, ...]) -> torch.Tensor:
        """Normalise raw inputs and resize them (images bilinear, series linear) to (N, *shape), float32.

        Args:
            inputs: raw images (N, C, H, W) or series (N, C, T).
            shape: channels and size that the network takes, `space.input_shape(arch)`.
        """
        per_channel = (1, -1, *(1 for _ in shape[1:]))
        mean = torch.tensor(self.mean, dtype=torch.float32, device=inputs.device).view(per_channel)
        std = torch.tensor(self.std, dtype=torch.float32, device=inputs.device).view(per_channel)
        x = (inputs.to(torch.float32) - mean) / std
        if tuple(x.shape[2:]) == tuple(shape[1:]):
            return x
        mode = "bilinear" if len(shape) == 3 else "linear"
        return functional.interpolate(x, size=shape[1:], mode=mode, align_corners=False)

    def batch(self, inputs: torch.Tensor, *, shape: tuple[int, ...]) -> torch.Tensor:
        """`prepare` in the layout that computes fastest, for training and evaluation."""
        return fastest_layout(self.prepare(inputs, shape=shape))


def fastest_layout(x: torch.Tensor) -> torch.Tensor:
    """Images in channels-last memory, which CPUs and GPUs convolve fastest; series as they are."""
    if x.ndim == 4 and x.shape[1] == 1:
        # `contiguous` changes nothing with one channel, and torch takes its strides for the slower layout.
        return x.clone(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


class PreprocessedNetwork(nn.Module):
    """A network that takes raw inputs of the data set's native size: what is measured, verified and exported."""

    def __init__(self, network: nn.Module, *, preprocessing: Preprocessing, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self._preprocessing = preprocessing
        self._shape = shape

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (N, num_classes) for raw inputs (N, C, H, W) or (N, C, T)."""
        logits: torch.Tensor = self.network(self._preprocessing.prepare(inputs, shape=self._shape))
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSplits:
    """One data set, divided once: what is trained on, searched on, verified on, reported on.

    Attributes:
        name: data set name.
        class_names: one name a class.
        source_sha256: checksum of the source, for the card.
        train, search, verify, report: disjoint sets; `report` is touched by the export card only.
        preprocessing: fitted on `train`.
        augmentation: name of the training augmentation, see `nas.training.augmentation`.
        metric: how candidates are scored on every split.
    """

    name: str
    class_names: tuple[str, ...]
    source_sha256: str
    train: Examples
    search: Examples
    verify: Examples
    report: Examples
    preprocessing: Preprocessing
    augmentation: str
    metric: Metric = "top1"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def native_shape(self) -> tuple[int, ...]:
        """(C, H, W) of a raw image, (C, T) of a raw series."""
        return tuple(int(size) for size in self.train.inputs.shape[1:])
