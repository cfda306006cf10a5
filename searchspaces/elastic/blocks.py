"""Blocks of elastic layers: a block lists its steps once; running them and extracting them both follow the list."""

from collections.abc import Sequence

import torch
from torch import nn

from searchspaces.elastic.layers import (
    Cut,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticDepthwiseConv2d,
    ElasticModule,
    Fixed,
)

Step = tuple[ElasticModule, Cut]


def run_steps(steps: Sequence[Step], x_NCHW: torch.Tensor) -> torch.Tensor:
    """Apply the steps one after the other."""
    for module, cut in steps:
        x_NCHW = module(x_NCHW, cut)
    return x_NCHW


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


class ElasticConvBlock(ElasticModule):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = ElasticConv2d(in_channels, out_channels, kernel=kernel, stride=stride)
        self.norm = ElasticBatchNorm2d(out_channels)
        self.act = Fixed(nn.ReLU())

    def _steps(self, cut: Cut) -> list[Step]:
        return [(self.conv, cut), (self.norm, cut), (self.act, cut)]

    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Run the block."""
        return run_steps(self._steps(cut), x_NCHW)

    def extract(self, cut: Cut) -> nn.Module:
        """The same as an `nn.Sequential`."""
        return extract_steps(self._steps(cut))


class ElasticMBConv(ElasticModule):
    """Inverted residual block: 1x1 expand, depthwise, 1x1 project, with a shortcut where `shortcut` says so.

    `cut.hidden` is the number of channels inside, `cut.kernel` the depthwise kernel (MobileNetV2, CVPR 2018).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, hidden: int, kernels: tuple[int, ...], stride: int, shortcut: bool
    ) -> None:
        super().__init__()
        self._shortcut = shortcut
        self.expand = ElasticConv2d(in_channels, hidden)
        self.expand_norm = ElasticBatchNorm2d(hidden)
        self.depthwise = ElasticDepthwiseConv2d(hidden, kernels=kernels, stride=stride)
        self.depthwise_norm = ElasticBatchNorm2d(hidden)
        self.project = ElasticConv2d(hidden, out_channels)
        self.project_norm = ElasticBatchNorm2d(out_channels)
        self.act = Fixed(nn.ReLU())

    def _steps(self, cut: Cut) -> list[Step]:
        grow = Cut(in_channels=cut.in_channels, out_channels=cut.hidden)
        inside = Cut(in_channels=cut.hidden, out_channels=cut.hidden, kernel=cut.kernel)
        shrink = Cut(in_channels=cut.hidden, out_channels=cut.out_channels)
        return [
            (self.expand, grow),
            (self.expand_norm, grow),
            (self.act, grow),
            (self.depthwise, inside),
            (self.depthwise_norm, inside),
            (self.act, inside),
            (self.project, shrink),
            (self.project_norm, shrink),
        ]

    def forward(self, x_NCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Run the block."""
        y_NCHW = run_steps(self._steps(cut), x_NCHW)
        return x_NCHW + y_NCHW if self._shortcut else y_NCHW

    def extract(self, cut: Cut) -> nn.Module:
        """The same as an `nn.Sequential`, inside a `Shortcut` where the block has one."""
        body = extract_steps(self._steps(cut))
        return Shortcut(body) if self._shortcut else body
