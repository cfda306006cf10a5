"""Layers whose weights serve every width and kernel size up to a largest one.

Every elastic module has the same two functions of a `Cut`: `forward(x, cut)` computes with the sliced weights, and
`extract(cut)` returns a plain torch layer that holds a copy of them. Nothing is remembered between calls.

Tensor letters: N images, C channels, H height, W width, O output channels, K kernel.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Which part of an elastic module a subnet uses.

    Attributes:
        in_channels, out_channels: leading channels used.
        hidden: channels inside a block; 0 for a single layer.
        kernel: spatial kernel size.
    """

    in_channels: int
    out_channels: int
    hidden: int = 0
    kernel: int = 1


class ElasticModule(nn.Module, ABC):
    """A module that is described once and serves both the supernet and the extracted network."""

    @abstractmethod
    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Compute with the part of the weights that `cut` names."""

    @abstractmethod
    def extract(self, cut: Cut) -> nn.Module:
        """A plain torch module with a copy of that part."""

    if TYPE_CHECKING:

        def __call__(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
            """Typed `nn.Module.__call__`."""


class ElasticConv2d(ElasticModule):
    """Convolution without bias and with "same" padding whose input and output channels are cut to the leading ones."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self._kernel, self._stride = kernel, stride
        nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Convolve the first `cut.in_channels` channels to `cut.out_channels`."""
        return functional.conv2d(x_NCHW, self._cut(cut), stride=self._stride, padding=self._kernel // 2)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.Conv2d`."""
        return _conv(self._cut(cut), stride=self._stride)

    def _cut(self, cut: Cut) -> torch.Tensor:
        return self.weight[: cut.out_channels, : cut.in_channels]


class ElasticDepthwiseConv2d(ElasticModule):
    """Depthwise convolution with elastic channels and kernel.

    A smaller kernel is the central crop of the next larger one times a learnt matrix that all channels of the layer
    share; the matrices start as identity and are chained 7 -> 5 -> 3 (Once-for-All, section 3.3).
    """

    def __init__(self, channels: int, *, kernels: tuple[int, ...], stride: int = 1) -> None:
        super().__init__()
        self._kernels_down = tuple(sorted(kernels, reverse=True))
        self._stride = stride
        largest = self._kernels_down[0]
        self.weight = nn.Parameter(torch.empty(channels, 1, largest, largest))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.transforms = nn.ParameterDict(
            {
                f"{large}to{small}": nn.Parameter(torch.eye(small**2))
                for large, small in zip(self._kernels_down, self._kernels_down[1:], strict=False)
            }
        )

    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Convolve each of the first `cut.out_channels` channels with its own kernel of size `cut.kernel`."""
        return functional.conv2d(
            x_NCHW, self.kernel(cut), stride=self._stride, padding=cut.kernel // 2, groups=cut.out_channels
        )

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.Conv2d` with `groups`."""
        return _conv(self.kernel(cut), stride=self._stride, groups=cut.out_channels)

    def kernel(self, cut: Cut) -> torch.Tensor:
        """Weights (C, 1, K, K) of the first `cut.out_channels` channels at kernel size `cut.kernel`."""
        weight = self.weight[: cut.out_channels]
        for large, small in zip(self._kernels_down, self._kernels_down[1:], strict=False):
            if cut.kernel == large:
                break
            border = (large - small) // 2
            crop = weight[:, :, border : large - border, border : large - border].reshape(-1, small**2)
            weight = functional.linear(crop, self.transforms[f"{large}to{small}"]).view(-1, 1, small, small)
        return weight


class ElasticBatchNorm2d(ElasticModule):
    """Batch normalisation of the leading channels.

    Training uses the statistics of the batch and leaves the running ones alone: those of one subnet would be wrong for
    every other. A subnet gets its own by BN recalibration after `extract`.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self._eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Normalise `cut.out_channels` channels: batch statistics in training, running ones in eval mode."""
        c = cut.out_channels
        mean, var = (
            (None, None) if self.training else (self._statistic("running_mean", c), self._statistic("running_var", c))
        )
        return functional.batch_norm(x_NCHW, mean, var, self.weight[:c], self.bias[:c], self.training, 0.0, self._eps)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.BatchNorm2d`."""
        c = cut.out_channels
        norm = nn.BatchNorm2d(c, eps=self._eps)
        with torch.no_grad():
            norm.weight.copy_(self.weight[:c])
            norm.bias.copy_(self.bias[:c])
            for name in ("running_mean", "running_var"):
                getattr(norm, name).copy_(self._statistic(name, c))
        return norm

    def _statistic(self, name: str, channels: int) -> torch.Tensor:
        return cast(torch.Tensor, getattr(self, name))[:channels]


class Fixed(ElasticModule):
    """An ordinary layer that is the same in every subnet (activation, pool, classifier)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Apply the layer."""
        y: torch.Tensor = self.layer(x_NCHW)
        return y

    def extract(self, cut: Cut) -> nn.Module:
        """A copy of the layer."""
        return copy.deepcopy(self.layer)


def _conv(weight: torch.Tensor, *, stride: int, groups: int = 1) -> nn.Conv2d:
    out_channels, in_channels, kernel, _ = weight.shape
    conv = nn.Conv2d(
        in_channels * groups, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
    return conv
