"""Supernet of the spaces of inverted-residual networks, see `searchspaces.mbconv`."""

from collections.abc import Mapping
from typing import cast

from torch import nn

from searchspaces.architecture import Architecture
from searchspaces.channels import round_channels
from searchspaces.elastic.blocks import ElasticConvBlock, ElasticMBConv, Step
from searchspaces.elastic.layers import Cut, ElasticConv2d, Fixed, activation
from searchspaces.elastic.supernet import Supernet
from searchspaces.gene_names import block_gene, depth_gene
from searchspaces.mbconv import MBConvSpace


class MBConvSupernet(Supernet):
    """Stem, static first block, elastic stages of `ElasticMBConv`, head, pool, feature mix and classifier.

    Modules: `stem`, `first_block` (None without one), `stages[n][b]`, `head`, `mix` (None without one), `classifier`.
    """

    def __init__(self, space: MBConvSpace, *, num_classes: int) -> None:
        super().__init__(space, num_classes=num_classes)
        config = self._config = space.config
        act, eps = config.activation, config.norm_eps
        stem, first = config.stem_channels, config.first_block
        self.stem = ElasticConvBlock(
            config.in_channels, stem, kernel=3, stride=config.stem_stride, act=act, norm_eps=eps
        )
        self.first_block = (
            None
            if first is None
            else ElasticMBConv(
                stem,
                first.channels,
                hidden=stem,
                kernels=(3,),
                stride=1,
                shortcut=stem == first.channels,
                act=first.activation,
                expand=False,
                norm_eps=eps,
            )
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ElasticMBConv(
                    c_in,
                    stage.channels,
                    hidden=round_channels(c_in * stage.expands[-1]),
                    kernels=stage.kernels,
                    stride=stage.stride if block == 0 else 1,
                    shortcut=block > 0,
                    act=stage.activation,
                    se=stage.se,
                    norm_eps=eps,
                )
                for block, c_in in enumerate(config.block_inputs(number))
            )
            for number, stage in enumerate(config.stages)
        )
        self.head = ElasticConvBlock(config.stages[-1].channels, config.head_channels, act=act, norm_eps=eps)
        self.pool = Fixed(nn.AdaptiveAvgPool2d(1))
        self.mix = None if config.mix_channels is None else ElasticConv2d(config.head_channels, config.mix_channels)
        self.mix_act = activation(act)
        self.flatten = Fixed(nn.Flatten())
        self.dropout = Fixed(nn.Dropout(config.dropout))
        self.classifier = Fixed(nn.Linear(config.mix_channels or config.head_channels, num_classes))

    def plan(self, arch: Architecture) -> list[Step]:
        """Stem, first block, the first `depth` blocks of every stage, head, feature mix and classifier."""
        config, genes = self._config, dict(arch.genes)
        stem, last = config.stem_channels, config.stages[-1].channels
        steps: list[Step] = [(self.stem, Cut(in_channels=config.in_channels, out_channels=stem))]
        if self.first_block is not None and config.first_block is not None:
            cut = Cut(in_channels=stem, out_channels=config.first_block.channels, hidden=stem, kernel=3)
            steps.append((self.first_block, cut))
        for number, stage in enumerate(config.stages):
            blocks = self._blocks(number)
            for block, c_in in zip(range(int(genes[depth_gene(number)])), config.block_inputs(number), strict=False):
                cut = Cut(
                    in_channels=c_in,
                    out_channels=stage.channels,
                    hidden=round_channels(c_in * int(genes[block_gene(number, block, "expand")])),
                    kernel=int(genes[block_gene(number, block, "kernel")]),
                )
                steps.append((blocks[block], cut))
        head = Cut(in_channels=last, out_channels=config.head_channels)
        steps += [(self.head, head), (self.pool, head)]
        if self.mix is not None and config.mix_channels is not None:
            mix = Cut(in_channels=config.head_channels, out_channels=config.mix_channels)
            steps += [(self.mix, mix), (self.mix_act, mix)]
        steps.append((self.flatten, head))
        if config.dropout > 0:
            steps.append((self.dropout, head))
        return [*steps, (self.classifier, head)]

    def sort_channels(self, *, opened: Mapping[str, int]) -> None:
        """Order the channels inside every block by importance; see `ElasticMBConv.sort_channels`."""
        open_values = self.space.open_values(opened)
        for stage in range(len(self.stages)):
            inputs = self._config.block_inputs(stage)
            for number, (block, c_in) in enumerate(zip(self._blocks(stage), inputs, strict=True)):
                expands = open_values[block_gene(stage, number, "expand")]
                block.sort_channels([round_channels(c_in * int(expand)) for expand in expands])

    def _blocks(self, stage: int) -> list[ElasticMBConv]:
        return [cast(ElasticMBConv, block) for block in cast(nn.ModuleList, self.stages[stage])]
