"""What the stages need of a data set: labelled images in four splits, and how pixels become network input.

Tensor letters: N images, C channels, H height, W width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Labelled images at their native size.

    Attributes:
        images_NCHW: float32 raw pixel values, as the data set stores them (for example 0..16 or 0..255).
        labels_N: int64 class indices.
        indices_N: int64 positions in the source, so that a split can be rebuilt by anybody.
        part: name of the source part the indices refer to, for example "train" or "t10k".
    """

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor
    indices_N: torch.Tensor
    part: str

    def __len__(self) -> int:
        return int(self.labels_N.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Raw pixels to network input: (x - mean) / std, in raw pixel units.

    Attributes:
        mean: mean of the raw pixels of the training split.
        std: their standard deviation, above zero.
    """

    mean: float
    std: float

    def prepare(self, images_NCHW: torch.Tensor, *, resolution: int) -> torch.Tensor:
        """Normalise and resize (bilinear) raw images; returns (N, C, resolution, resolution) float32."""
        x_NCHW = (images_NCHW - self.mean) / self.std
        if x_NCHW.shape[-1] == resolution and x_NCHW.shape[-2] == resolution:
            return x_NCHW
        return functional.interpolate(x_NCHW, size=(resolution, resolution), mode="bilinear", align_corners=False)


class PreprocessedNetwork(nn.Module):
    """A network that takes raw images of the data set's native size: what is measured, verified and exported."""

    def __init__(self, network: nn.Module, *, preprocessing: Preprocessing, resolution: int) -> None:
        super().__init__()
        self.network = network
        self._preprocessing = preprocessing
        self._resolution = resolution

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (N, num_classes) for raw images (N, C, H, W)."""
        logits: torch.Tensor = self.network(self._preprocessing.prepare(images_NCHW, resolution=self._resolution))
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
        augmentation: name of the training augmentation ("none", "shift", "shift-flip").
    """

    name: str
    class_names: tuple[str, ...]
    source_sha256: str
    train: ImageSet
    search: ImageSet
    verify: ImageSet
    report: ImageSet
    preprocessing: Preprocessing
    augmentation: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def native_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a raw image."""
        _, channels, height, width = self.train.images_NCHW.shape
        return int(channels), int(height), int(width)
