"""Layers whose weights serve every width and kernel size up to a largest one.

Every elastic module has the same two functions of a `Cut`: `bind(cut)` slices the weights and returns the function that
computes with them, and `extract(cut)` returns a plain torch layer that holds a copy of them. Nothing is remembered
between calls. A network slices all its weights before it computes: between convolutions, whose data push everything
else out of the caches, the same small operations took three times as long.

Tensor letters: N images, C channels, H height, W width, O output channels, K kernel.
"""

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from searchspaces.elastic.depthwise import depthwise_conv2d


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Which part of an elastic module a subnet uses.

    Attributes:
        in_channels, out_channels: leading channels used.
        hidden: channels inside a block; 0 for a single layer.
        kernel: spatial kernel size.
        dilation: distance of neighbouring kernel taps.
    """

    in_channels: int
    out_channels: int
    hidden: int = 0
    kernel: int = 1
    dilation: int = 1


Function = Callable[[torch.Tensor], torch.Tensor]


class ElasticModule(nn.Module, ABC):
    """A module that is described once and serves both the supernet and the extracted network."""

    @abstractmethod
    def bind(self, cut: Cut) -> Function:
        """The function that computes with the part of the weights that `cut` names."""

    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Compute with the part of the weights that `cut` names."""
        return self.bind(cut)(x_NCHW)

    @abstractmethod
    def extract(self, cut: Cut) -> nn.Module:
        """A plain torch module with a copy of that part."""

    if TYPE_CHECKING:

        def __call__(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
            """Typed `nn.Module.__call__`."""


class ElasticConv2d(ElasticModule):
    """Convolution with "same" padding whose input and output channels are cut to the leading ones."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._kernel, self._stride = kernel, stride
        nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def bind(self, cut: Cut) -> Function:
        """Convolve the first `cut.in_channels` channels to `cut.out_channels`."""
        weight, bias = self._cut(cut)
        stride, padding = self._stride, self._kernel // 2
        return lambda x_NCHW: functional.conv2d(x_NCHW, weight, bias, stride=stride, padding=padding)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.Conv2d`."""
        weight, bias = self._cut(cut)
        return _conv(weight, bias=bias, stride=self._stride)

    def _cut(self, cut: Cut) -> tuple[torch.Tensor, torch.Tensor | None]:
        bias = None if self.bias is None else self.bias[: cut.out_channels]
        return self.weight[: cut.out_channels, : cut.in_channels], bias


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

    def bind(self, cut: Cut) -> Function:
        """Convolve each of the first `cut.out_channels` channels with its own kernel of size `cut.kernel`."""
        return functools.partial(depthwise_conv2d, weight_C1KK=self.kernel(cut), stride=self._stride)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.Conv2d` with `groups`."""
        return _conv(self.kernel(cut), stride=self._stride, groups=cut.out_channels)

    def kernel(self, cut: Cut) -> torch.Tensor:
        """Weights (C, 1, K, K) of the first `cut.out_channels` channels at kernel size `cut.kernel`."""
        weight = self.weight[: cut.out_channels]
        if cut.kernel == self._kernels_down[0]:
            return weight
        # Few operators on flat kernels: their bookkeeping is what a small subnet notices.
        flat_CJ = weight.flatten(1)
        for large, small in pairwise(self._kernels_down):
            centre = _centre(large, small, device=weight.device)
            flat_CJ = functional.linear(flat_CJ.index_select(1, centre), self.transforms[f"{large}to{small}"])
            if cut.kernel == small:
                break
        return flat_CJ.view(-1, 1, cut.kernel, cut.kernel)


class ElasticBatchNorm2d(ElasticModule):
    """Batch normalisation of the leading channels.

    Training uses the statistics of the batch and leaves the running ones alone: those of one subnet would be wrong for
    every other. A subnet gets its own by BN recalibration after `extract`.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self._eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def bind(self, cut: Cut) -> Function:
        """Normalise `cut.out_channels` channels: batch statistics in training, running ones in eval mode."""
        c = cut.out_channels
        weight, bias, eps = self.weight[:c], self.bias[:c], self._eps
        if self.training:
            return lambda x_NCHW: functional.batch_norm(x_NCHW, None, None, weight, bias, True, 0.0, eps)
        mean, var = self.running_mean[:c], self.running_var[:c]
        return lambda x_NCHW: functional.batch_norm(x_NCHW, mean, var, weight, bias, False, 0.0, eps)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.BatchNorm2d`."""
        c = cut.out_channels
        norm = nn.BatchNorm2d(c, eps=self._eps)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).copy_(getattr(self, name)[:c])
        return norm

    def tensors(self) -> list[torch.Tensor]:
        """Parameters and running statistics, each of shape (C,)."""
        return [*self.parameters(), *self.buffers()]


class ElasticLinear(ElasticModule):
    """Linear layer with bias that reads the leading `cut.in_channels` features."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        layer = nn.Linear(features, num_classes)
        self.weight, self.bias = layer.weight, layer.bias

    def bind(self, cut: Cut) -> Function:
        """Logits (N, num_classes) of features (N, C)."""
        return functools.partial(functional.linear, weight=self.weight[:, : cut.in_channels], bias=self.bias)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.Linear`."""
        layer = nn.Linear(cut.in_channels, len(self.bias))
        with torch.no_grad():
            layer.weight.copy_(self.weight[:, : cut.in_channels])
            layer.bias.copy_(self.bias)
        return layer


_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "h-swish": nn.Hardswish,
}


def activation(name: str) -> "Fixed":
    """The activation that a space calls `name`, see `searchspaces.mbconv.ACTIVATIONS`."""
    return Fixed(_ACTIVATIONS[name]())


class Fixed(ElasticModule):
    """An ordinary layer that is the same in every subnet (activation, pool, classifier)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def bind(self, cut: Cut) -> Function:
        """The layer itself."""
        return self.layer

    def extract(self, cut: Cut) -> nn.Module:
        """A copy of the layer."""
        return copy.deepcopy(self.layer)


@functools.cache
def _centre(large: int, small: int, *, device: torch.device) -> torch.Tensor:
    """Positions of the central `small` x `small` entries among the `large` x `large` ones of a flat kernel."""
    border = (large - small) // 2
    positions = torch.arange(large**2, device=device).view(large, large)
    return positions[border : large - border, border : large - border].flatten()


def _conv(weight: torch.Tensor, *, stride: int, groups: int = 1, bias: torch.Tensor | None = None) -> nn.Conv2d:
    out_channels, in_channels, kernel, _ = weight.shape
    conv = nn.Conv2d(
        in_channels * groups,
        out_channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=bias is not None,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
    return conv
