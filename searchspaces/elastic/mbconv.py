"""Supernet of the `mbconv-small` space."""

from typing import cast

from torch import nn

from searchspaces.architecture import Architecture
from searchspaces.elastic.blocks import ElasticConvBlock, ElasticMBConv, Step
from searchspaces.elastic.layers import Cut, ElasticModule, Fixed
from searchspaces.elastic.supernet import Supernet
from searchspaces.mbconv_small import MBConvSpace, block_gene, depth_gene, round_channels


class MBConvSupernet(Supernet):
    """Stem, elastic stages of `ElasticMBConv`, head, pool and classifier; see `searchspaces.mbconv_small`."""

    def __init__(self, space: MBConvSpace, *, num_classes: int) -> None:
        super().__init__(space, num_classes=num_classes)
        config = self._config = space.config
        self.stem = ElasticConvBlock(config.in_channels, config.stem_channels, kernel=3, stride=config.stem_stride)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ElasticMBConv(
                    c_in,
                    stage.channels,
                    hidden=round_channels(c_in * config.expands[-1]),
                    kernels=config.kernels,
                    stride=stage.stride if block == 0 else 1,
                    shortcut=block > 0,
                )
                for block, c_in in enumerate(config.block_inputs(number))
            )
            for number, stage in enumerate(config.stages)
        )
        self.head = ElasticConvBlock(config.stages[-1].channels, config.head_channels)
        self.pool = Fixed(nn.AdaptiveAvgPool2d(1))
        self.flatten = Fixed(nn.Flatten())
        self.classifier = Fixed(nn.Linear(config.head_channels, num_classes))

    def plan(self, arch: Architecture) -> list[Step]:
        """Stem, the first `depth` blocks of every stage, head and classifier."""
        config, genes = self._config, dict(arch.genes)
        steps: list[Step] = [(self.stem, Cut(in_channels=config.in_channels, out_channels=config.stem_channels))]
        for number, stage in enumerate(config.stages):
            blocks = cast(nn.ModuleList, self.stages[number])
            for block, c_in in zip(range(int(genes[depth_gene(number)])), config.block_inputs(number), strict=False):
                cut = Cut(
                    in_channels=c_in,
                    out_channels=stage.channels,
                    hidden=round_channels(c_in * int(genes[block_gene(number, block, "expand")])),
                    kernel=int(genes[block_gene(number, block, "kernel")]),
                )
                steps.append((cast(ElasticModule, blocks[block]), cut))
        head = Cut(in_channels=config.stages[-1].channels, out_channels=config.head_channels)
        tail: list[Step] = [(layer, head) for layer in (self.head, self.pool, self.flatten, self.classifier)]
        return steps + tail
