"""Supernet of the `nas-bench-macro` space: every layer keeps one block for each of its operators, nothing is sliced."""

from typing import cast

from torch import nn

from searchspaces.architecture import Architecture
from searchspaces.elastic.blocks import ElasticConvBlock, ElasticMBConv, Step
from searchspaces.elastic.layers import Cut, ElasticBatchNorm2d, ElasticConv2d, ElasticModule, Fixed
from searchspaces.elastic.supernet import Supernet
from searchspaces.nas_bench_macro import EXPANDS, KERNELS, MacroLayer, NASBenchMacroSpace


class MacroLayerChoices(nn.Module):
    """What a searched layer can be: identity (1x1 convolution and normalisation where it strides) or MBConv blocks."""

    def __init__(self, layer: MacroLayer) -> None:
        super().__init__()
        self._layer = layer
        if layer.stride > 1:
            self.downsample = ElasticConv2d(layer.in_channels, layer.out_channels, stride=layer.stride)
            self.downsample_norm = ElasticBatchNorm2d(layer.out_channels)
        self.blocks = nn.ModuleDict(
            {
                op: ElasticMBConv(
                    layer.in_channels,
                    layer.out_channels,
                    hidden=layer.in_channels * EXPANDS[op],
                    kernels=(KERNELS[op],),
                    stride=layer.stride,
                    shortcut=layer.stride == 1,
                )
                for op in EXPANDS
            }
        )

    def steps(self, op: str) -> list[Step]:
        """The steps of one operator; none where an identity changes nothing."""
        c_in, c_out = self._layer.in_channels, self._layer.out_channels
        if op in EXPANDS:
            cut = Cut(in_channels=c_in, out_channels=c_out, hidden=c_in * EXPANDS[op], kernel=KERNELS[op])
            return [(cast(ElasticModule, self.blocks[op]), cut)]
        if self._layer.stride == 1:
            return []
        cut = Cut(in_channels=c_in, out_channels=c_out)
        return [(self.downsample, cut), (self.downsample_norm, cut)]


class MacroSupernet(Supernet):
    """Stem, searched layers, head, pool and classifier; see `searchspaces.nas_bench_macro`."""

    def __init__(self, space: NASBenchMacroSpace, *, num_classes: int) -> None:
        super().__init__(space, num_classes=num_classes)
        config = self._config = space.config
        self.stem = ElasticConvBlock(config.in_channels, config.stem_channels, kernel=3)
        self.layers = nn.ModuleList(MacroLayerChoices(layer) for layer in config.layers)
        self.head = ElasticConvBlock(config.layers[-1].out_channels, config.head_channels)
        self.pool = Fixed(nn.AdaptiveAvgPool2d(1))
        self.flatten = Fixed(nn.Flatten())
        self.classifier = Fixed(nn.Linear(config.head_channels, num_classes))

    def plan(self, arch: Architecture) -> list[Step]:
        """Stem, the chosen operator of every layer, head and classifier."""
        config = self._config
        steps: list[Step] = [(self.stem, Cut(in_channels=config.in_channels, out_channels=config.stem_channels))]
        for layer, choices in zip(config.layers, self.layers, strict=True):
            steps += cast(MacroLayerChoices, choices).steps(str(arch[layer.gene]))
        head = Cut(in_channels=config.layers[-1].out_channels, out_channels=config.head_channels)
        tail: list[Step] = [(layer, head) for layer in (self.head, self.pool, self.flatten, self.classifier)]
        return steps + tail
