"""Elastic one-dimensional layers and the supernet of the `conv1d-sensor` space.

Tensor letters: N series, C channels, T time steps, O output channels, K kernel.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from searchspaces.architecture import Architecture
from searchspaces.conv1d_sensor import Conv1dSpace
from searchspaces.elastic.blocks import ElasticBlock, Step, importance_order, reorder
from searchspaces.elastic.layers import Cut, ElasticBatchNorm2d, ElasticLinear, ElasticModule, Fixed, Function
from searchspaces.elastic.supernet import Supernet
from searchspaces.gene_names import block_gene, depth_gene, width_gene


class ElasticConv1d(ElasticModule):
    """Convolution without bias, with "same" padding and elastic channels, kernel and dilation.

    A smaller kernel is the centre of the next larger one times a learnt matrix that all channels of the layer share;
    the matrices start as identity and are chained 9 -> 7 -> 5 -> 3 (Once-for-All, section 3.3, with one dimension).
    All dilations share the weights.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernels: tuple[int, ...], stride: int = 1) -> None:
        super().__init__()
        kernels_down = sorted(kernels, reverse=True)
        self._steps_down = list(itertools.pairwise(kernels_down))
        self._stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernels_down[0]))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.transforms = nn.ParameterDict(
            {f"{large}to{small}": nn.Parameter(torch.eye(small)) for large, small in self._steps_down}
        )

    def bind(self, cut: Cut) -> Function:
        """Convolve the first `cut.in_channels` channels to `cut.out_channels`."""
        return functools.partial(
            functional.conv1d,
            weight=self.kernel(cut),
            stride=self._stride,
            padding=cut.dilation * (cut.kernel // 2),
            dilation=cut.dilation,
        )

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.Conv1d`."""
        conv = nn.Conv1d(
            cut.in_channels,
            cut.out_channels,
            cut.kernel,
            stride=self._stride,
            padding=cut.dilation * (cut.kernel // 2),
            dilation=cut.dilation,
            bias=False,
        )
        with torch.no_grad():
            conv.weight.copy_(self.kernel(cut))
        return conv

    def kernel(self, cut: Cut) -> torch.Tensor:
        """Weights (O, C, K) of the leading channels at kernel size `cut.kernel`."""
        weight_OCK = self.weight[: cut.out_channels, : cut.in_channels]
        for large, small in self._steps_down:
            if cut.kernel == large:
                break
            border = (large - small) // 2
            crop_OCK = weight_OCK[:, :, border : large - border]
            weight_OCK = functional.linear(crop_OCK, self.transforms[f"{large}to{small}"])
        return weight_OCK


class ElasticBatchNorm1d(ElasticBatchNorm2d):
    """`ElasticBatchNorm2d` for series."""

    def extract(self, cut: Cut) -> nn.Module:
        """The same as `nn.BatchNorm1d`."""
        norm = nn.BatchNorm1d(cut.out_channels, eps=self._eps)
        norm.load_state_dict(super().extract(cut).state_dict())
        return norm


class ElasticConvBlock1d(ElasticBlock):
    """Convolution, batch normalisation, ReLU, with a shortcut around the three where `shortcut` says so."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernels: tuple[int, ...],
        stride: int = 1,
        shortcut: bool = False,
    ) -> None:
        super().__init__(shortcut=shortcut)
        self.conv = ElasticConv1d(in_channels, out_channels, kernels=kernels, stride=stride)
        self.norm = ElasticBatchNorm1d(out_channels)
        self.act = Fixed(nn.ReLU())

    def _steps(self, cut: Cut) -> list[Step]:
        return [(self.conv, cut), (self.norm, cut), (self.act, cut)]


class Conv1dSupernet(Supernet):
    """Stem, elastic stages of `ElasticConvBlock1d`, pool and classifier; see `searchspaces.conv1d_sensor`."""

    def __init__(self, space: Conv1dSpace, *, num_classes: int) -> None:
        super().__init__(space, num_classes=num_classes)
        config = self._config = space.config
        channels = config.stem_channels
        self.stem = ElasticConvBlock1d(
            config.in_channels, channels, kernels=(config.stem_kernel,), stride=config.stem_stride
        )
        self.stages = nn.ModuleList()
        for widths, stride in zip(config.widths, config.strides, strict=True):
            widest = widths[-1]
            first = ElasticConvBlock1d(channels, widest, kernels=config.kernels, stride=stride)
            more = [
                ElasticConvBlock1d(widest, widest, kernels=config.kernels, shortcut=True)
                for _ in range(config.depths[-1] - 1)
            ]
            self.stages.append(nn.ModuleList([first, *more]))
            channels = widest
        self.pool = Fixed(nn.AdaptiveAvgPool1d(1))
        self.flatten = Fixed(nn.Flatten())
        self.dropout = Fixed(nn.Dropout(config.dropout))
        self.classifier = ElasticLinear(channels, num_classes)

    def plan(self, arch: Architecture) -> list[Step]:
        """Stem, the first `depth` blocks of every stage, pool and classifier."""
        config, genes = self._config, dict(arch.genes)
        channels = config.stem_channels
        stem = Cut(in_channels=config.in_channels, out_channels=channels, kernel=config.stem_kernel)
        steps: list[Step] = [(self.stem, stem)]
        for stage in range(len(self.stages)):
            width = int(genes[width_gene(stage)])
            for block in range(int(genes[depth_gene(stage)])):
                cut = Cut(
                    in_channels=channels,
                    out_channels=width,
                    kernel=int(genes[block_gene(stage, block, "kernel")]),
                    dilation=int(genes[block_gene(stage, block, "dilation")]),
                )
                steps.append((self._blocks(stage)[block], cut))
                channels = width
        tail = Cut(in_channels=channels, out_channels=self.num_classes)
        return [*steps, *((layer, tail) for layer in (self.pool, self.flatten, self.dropout, self.classifier))]

    @torch.no_grad()
    def sort_channels(self, *, opened: Mapping[str, int]) -> None:
        """Order the channels of every stage by importance, the L1 norm of all weights that read them, largest first.

        The shortcuts carry a stage's channels from its first block to the next stage (or the classifier), so all of
        them move together. They stay within the groups that the open widths cut off: open subnets keep their function.
        """
        open_values = self.space.open_values(opened)
        for stage in range(len(self.stages)):
            first, *more = self._blocks(stage)
            last = stage + 1 == len(self.stages)
            after = self.classifier.weight if last else self._blocks(stage + 1)[0].conv.weight
            readers = [*(block.conv.weight for block in more), after]
            order = importance_order(readers, [int(width) for width in open_values[width_gene(stage)]])
            for weight in readers:
                reorder(order, weight, dim=1)
            for block in (first, *more):
                reorder(order, block.conv.weight, *block.norm.tensors())

    def _blocks(self, stage: int) -> list[ElasticConvBlock1d]:
        return [cast(ElasticConvBlock1d, block) for block in cast(nn.ModuleList, self.stages[stage])]
