"""Blocks of elastic layers: a block lists its steps once; binding them and extracting them both follow the list."""

import itertools
from abc import abstractmethod
from collections.abc import Collection, Sequence

import torch
from torch import nn

from searchspaces.channels import squeeze_channels
from searchspaces.elastic.layers import (
    Cut,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticDepthwiseConv2d,
    ElasticModule,
    Fixed,
    Function,
    activation,
)

Step = tuple[ElasticModule, Cut]


def bind_steps(steps: Sequence[Step]) -> Function:
    """The function that applies the steps one after the other; all their weights are sliced now."""
    functions = [module.bind(cut) for module, cut in steps]

    def run(x_NCHW: torch.Tensor) -> torch.Tensor:
        for function in functions:
            x_NCHW = function(x_NCHW)
        return x_NCHW

    return run


def extract_steps(steps: Sequence[Step]) -> nn.Sequential:
    """The plain torch network of the same steps."""
    return nn.Sequential(*(module.extract(cut) for module, cut in steps))


class Shortcut(nn.Module):
    """Identity shortcut around a plain network: x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Add the input to the body's output."""
        y_NCHW: torch.Tensor = x_NCHW + self.body(x_NCHW)
        return y_NCHW


class SqueezeExcite(nn.Module):
    """Scale the channels of x by `gate(x)`, one number a channel (Hu et al., Squeeze-and-Excitation, CVPR 2018)."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Multiply the input by its gate."""
        y_NCHW: torch.Tensor = x_NCHW * self.gate(x_NCHW)
        return y_NCHW


class ElasticBlock(ElasticModule):
    """Steps one after the other, with an identity shortcut around them where `shortcut` says so."""

    def __init__(self, *, shortcut: bool = False) -> None:
        super().__init__()
        self._shortcut = shortcut

    @abstractmethod
    def _steps(self, cut: Cut) -> list[Step]:
        """The elastic modules that run, each with its cut."""

    def bind(self, cut: Cut) -> Function:
        """Run the block."""
        body = bind_steps(self._steps(cut))
        return (lambda x_NCHW: x_NCHW + body(x_NCHW)) if self._shortcut else body

    def extract(self, cut: Cut) -> nn.Module:
        """The same as an `nn.Sequential`, inside a `Shortcut` where the block has one."""
        body = extract_steps(self._steps(cut))
        return Shortcut(body) if self._shortcut else body


class ElasticConvBlock(ElasticBlock):
    """Convolution, batch normalisation, activation, with a shortcut around the three where `shortcut` says so."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        act: str = "relu",
        norm_eps: float = 1e-5,
        shortcut: bool = False,
    ) -> None:
        super().__init__(shortcut=shortcut)
        self.conv = ElasticConv2d(in_channels, out_channels, kernel=kernel, stride=stride)
        self.norm = ElasticBatchNorm2d(out_channels, eps=norm_eps)
        self.act = activation(act)

    def _steps(self, cut: Cut) -> list[Step]:
        return [(self.conv, cut), (self.norm, cut), (self.act, cut)]


class ElasticSqueezeExcite(ElasticModule):
    """Squeeze-excite on the leading channels: mean, 1x1 to a quarter, ReLU, 1x1 back, hard sigmoid, product.

    A subnet with C channels uses the first `squeeze_channels(C)` of the channels in the middle.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = squeeze_channels(channels)
        self.pool = Fixed(nn.AdaptiveAvgPool2d(1))
        self.reduce = ElasticConv2d(channels, squeezed, bias=True)
        self.act = activation("relu")
        self.expand = ElasticConv2d(squeezed, channels, bias=True)
        self.gate = Fixed(nn.Hardsigmoid())

    def _steps(self, cut: Cut) -> list[Step]:
        squeezed = squeeze_channels(cut.out_channels)
        down = Cut(in_channels=cut.out_channels, out_channels=squeezed)
        up = Cut(in_channels=squeezed, out_channels=cut.out_channels)
        return [(self.pool, cut), (self.reduce, down), (self.act, down), (self.expand, up), (self.gate, up)]

    def bind(self, cut: Cut) -> Function:
        """Scale `cut.out_channels` channels."""
        gate = bind_steps(self._steps(cut))
        return lambda x_NCHW: x_NCHW * gate(x_NCHW)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as a `SqueezeExcite`."""
        return SqueezeExcite(extract_steps(self._steps(cut)))


class ElasticMBConv(ElasticBlock):
    """Inverted residual block: 1x1 expand, depthwise, squeeze-excite, 1x1 project, with a shortcut where it says so.

    `cut.hidden` is the number of channels inside, `cut.kernel` the depthwise kernel (MobileNetV2, CVPR 2018).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden: largest number of channels inside; equal to `in_channels` where `expand` is False.
        kernels: depthwise kernels.
        stride: of the depthwise convolution.
        shortcut: whether the input is added to the output.
        act: activation after the first two convolutions, see `activation`.
        se: whether there is a squeeze-excite unit.
        expand: whether there is a 1x1 convolution before the depthwise one.
        norm_eps: see `ElasticBatchNorm2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden: int,
        kernels: tuple[int, ...],
        stride: int,
        shortcut: bool,
        act: str = "relu",
        se: bool = False,
        expand: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(shortcut=shortcut)
        self.expand = ElasticConv2d(in_channels, hidden) if expand else None
        self.expand_norm = ElasticBatchNorm2d(hidden, eps=norm_eps) if expand else None
        self.depthwise = ElasticDepthwiseConv2d(hidden, kernels=kernels, stride=stride)
        self.depthwise_norm = ElasticBatchNorm2d(hidden, eps=norm_eps)
        self.se = ElasticSqueezeExcite(hidden) if se else None
        self.project = ElasticConv2d(hidden, out_channels)
        self.project_norm = ElasticBatchNorm2d(out_channels, eps=norm_eps)
        self.act = activation(act)

    def _steps(self, cut: Cut) -> list[Step]:
        inside = Cut(in_channels=cut.hidden, out_channels=cut.hidden, kernel=cut.kernel)
        shrink = Cut(in_channels=cut.hidden, out_channels=cut.out_channels)
        steps: list[Step] = []
        if self.expand is not None and self.expand_norm is not None:
            grow = Cut(in_channels=cut.in_channels, out_channels=cut.hidden)
            steps += [(self.expand, grow), (self.expand_norm, grow), (self.act, grow)]
        steps += [(self.depthwise, inside), (self.depthwise_norm, inside), (self.act, inside)]
        if self.se is not None:
            steps.append((self.se, inside))
        return [*steps, (self.project, shrink), (self.project_norm, shrink)]

    @torch.no_grad()
    def sort_channels(self, sizes: Sequence[int]) -> None:
        """Order the channels inside by importance, the L1 norm of their projection weights, largest first.

        Channels stay within the groups that `sizes` cut off, so a subnet with one of these hidden sizes computes
        what it did before. The channels inside the squeeze-excite unit are ordered by their own norm in the same way
        (Once-for-All, section 3.3, orders them over all groups).

        Args:
            sizes: hidden channels of the subnets that must not change, the largest included.
        """
        order = importance_order([self.project.weight], sizes)
        reorder(order, self.project.weight, dim=1)
        reorder(order, self.depthwise.weight, *self.depthwise_norm.tensors())
        if self.expand is not None and self.expand_norm is not None:
            reorder(order, self.expand.weight, *self.expand_norm.tensors())
        if self.se is None:
            return
        reorder(order, self.se.reduce.weight, dim=1)
        reorder(order, *self.se.expand.parameters())
        order = importance_order([self.se.expand.weight], [squeeze_channels(size) for size in sizes])
        reorder(order, self.se.expand.weight, dim=1)
        reorder(order, *self.se.reduce.parameters())


def importance_order(readers: Sequence[torch.Tensor], sizes: Collection[int]) -> torch.Tensor:
    """Channels (I,) by falling importance within the groups between `sizes`.

    Args:
        readers: weights (O, I, ...) of the layers that read the channels; importance is the sum of their L1 norms.
        sizes: channels of the subnets that must not change, the largest included.
    """
    norm_I = torch.stack([weight.abs().transpose(0, 1).flatten(1).sum(dim=1) for weight in readers]).sum(dim=0)
    borders = [0, *sorted(set(sizes))]
    return torch.cat(
        [
            start + torch.argsort(norm_I[start:end], descending=True, stable=True)
            for start, end in itertools.pairwise(borders)
        ]
    )


def reorder(order: torch.Tensor, *tensors: torch.Tensor, dim: int = 0) -> None:
    """Put the leading slices of each tensor along `dim` into `order`, in place."""
    for tensor in tensors:
        tensor.copy_(tensor.index_select(dim, order))
