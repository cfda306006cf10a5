"""Supernet of the `ofa-resnet50d` space."""

from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import nn

from searchspaces.architecture import Architecture
from searchspaces.elastic.blocks import (
    ElasticConvBlock,
    Shortcut,
    Step,
    bind_steps,
    extract_steps,
    importance_order,
    reorder,
)
from searchspaces.elastic.layers import (
    Cut,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticLinear,
    ElasticModule,
    Fixed,
    Function,
)
from searchspaces.elastic.supernet import Supernet
from searchspaces.gene_names import block_gene, depth_gene, width_gene
from searchspaces.ofa_resnet50d import (
    BASE_DEPTHS,
    EXPANDS,
    STEM_DEPTH,
    STEM_DEPTHS,
    STEM_MID_WIDTH,
    STEM_WIDTH,
    STRIDES,
    WIDTHS,
    ResNet50DSpace,
    hidden_channels,
    most_blocks,
)


class ProjectionShortcut(nn.Module):
    """Two branches of plain torch networks that are summed: projection(x) + body(x)."""

    def __init__(self, body: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.projection = projection

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Sum of the branches."""
        y_NCHW: torch.Tensor = self.projection(x_NCHW) + self.body(x_NCHW)
        return y_NCHW


class ElasticBottleneck(ElasticModule):
    """Bottleneck block of ResNet-D: 1x1, 3x3 (with the stride), 1x1, shortcut, ReLU after the sum.

    `cut.hidden` is the number of channels inside. With `projects` the shortcut is an average pool (where the block
    strides), a 1x1 convolution and a batch normalisation, otherwise the identity.
    """

    def __init__(self, in_channels: int, out_channels: int, *, hidden: int, stride: int, projects: bool) -> None:
        super().__init__()
        self._stride, self._projects = stride, projects
        self.conv1 = ElasticConv2d(in_channels, hidden)
        self.norm1 = ElasticBatchNorm2d(hidden)
        self.conv2 = ElasticConv2d(hidden, hidden, kernel=3, stride=stride)
        self.norm2 = ElasticBatchNorm2d(hidden)
        self.conv3 = ElasticConv2d(hidden, out_channels)
        self.norm3 = ElasticBatchNorm2d(out_channels)
        self.act = Fixed(nn.ReLU())
        if projects:
            self.shortcut_pool = Fixed(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
            self.shortcut_conv = ElasticConv2d(in_channels, out_channels)
            self.shortcut_norm = ElasticBatchNorm2d(out_channels)

    def _body(self, cut: Cut) -> list[Step]:
        shrink = Cut(in_channels=cut.in_channels, out_channels=cut.hidden)
        inside = Cut(in_channels=cut.hidden, out_channels=cut.hidden)
        grow = Cut(in_channels=cut.hidden, out_channels=cut.out_channels)
        return [
            (self.conv1, shrink),
            (self.norm1, shrink),
            (self.act, shrink),
            (self.conv2, inside),
            (self.norm2, inside),
            (self.act, inside),
            (self.conv3, grow),
            (self.norm3, grow),
        ]

    def _shortcut(self, cut: Cut) -> list[Step]:
        if not self._projects:
            return []
        pool: list[Step] = [(self.shortcut_pool, cut)] if self._stride > 1 else []
        return [*pool, (self.shortcut_conv, cut), (self.shortcut_norm, cut)]

    def bind(self, cut: Cut) -> Function:
        """Run the block."""
        shortcut, body, act = bind_steps(self._shortcut(cut)), bind_steps(self._body(cut)), self.act.bind(cut)
        return lambda x_NCHW: act(shortcut(x_NCHW) + body(x_NCHW))

    def extract(self, cut: Cut) -> nn.Module:
        """The same of plain torch layers."""
        body = extract_steps(self._body(cut))
        total = ProjectionShortcut(body, extract_steps(self._shortcut(cut))) if self._projects else Shortcut(body)
        return nn.Sequential(total, self.act.extract(cut))

    @torch.no_grad()
    def sort_channels(self, sizes: Collection[int]) -> None:
        """Order the channels inside by importance, the L1 norm of the weights that read them, largest first.

        First the outputs of the 3x3 convolution by the norm of the last convolution, then those of the first one by
        the norm of the 3x3. Channels stay within the groups that `sizes` cut off.

        Args:
            sizes: hidden channels of the subnets that must not change, the largest included.
        """
        order = importance_order([self.conv3.weight], sizes)
        reorder(order, self.conv3.weight, dim=1)
        reorder(order, self.conv2.weight, *self.norm2.tensors())
        order = importance_order([self.conv2.weight], sizes)
        reorder(order, self.conv2.weight, dim=1)
        reorder(order, self.conv1.weight, *self.norm1.tensors())


class ResNet50DSupernet(Supernet):
    """Elastic stem, stages of `ElasticBottleneck`, pool and classifier; see `searchspaces.ofa_resnet50d`."""

    def __init__(self, space: ResNet50DSpace, *, num_classes: int) -> None:
        super().__init__(space, num_classes=num_classes)
        config = self._config = space.config
        widest = WIDTHS[-1]
        mid, channels = config.stem_mid_channels(widest), config.stem_channels(widest)
        self.stem = nn.ModuleDict(
            {
                "conv1": ElasticConvBlock(config.in_channels, mid, kernel=3, stride=2),
                "conv2": ElasticConvBlock(mid, mid, kernel=3, shortcut=True),
                "conv3": ElasticConvBlock(mid, channels, kernel=3),
                "pool": Fixed(nn.MaxPool2d(3, stride=2, padding=1)),
            }
        )
        self.stages = nn.ModuleList()
        for stage in range(len(BASE_DEPTHS)):
            out_channels = config.stage_channels(stage, widest)
            self.stages.append(
                nn.ModuleList(
                    ElasticBottleneck(
                        channels if block == 0 else out_channels,
                        out_channels,
                        hidden=hidden_channels(out_channels, EXPANDS[-1]),
                        stride=STRIDES[stage] if block == 0 else 1,
                        projects=block == 0,
                    )
                    for block in range(most_blocks(stage))
                )
            )
            channels = out_channels
        self.pool = Fixed(nn.AdaptiveAvgPool2d(1))
        self.flatten = Fixed(nn.Flatten())
        self.classifier = ElasticLinear(channels, num_classes)

    def plan(self, arch: Architecture) -> list[Step]:
        """Stem with or without its middle convolution, the first blocks of every stage, pool and classifier."""
        config, genes = self._config, dict(arch.genes)
        mid = config.stem_mid_channels(float(genes[STEM_MID_WIDTH]))
        channels = config.stem_channels(float(genes[STEM_WIDTH]))
        out = Cut(in_channels=mid, out_channels=channels)
        steps = [self._stem("conv1", Cut(in_channels=config.in_channels, out_channels=mid))]
        if genes[STEM_DEPTH] == STEM_DEPTHS[-1]:
            steps.append(self._stem("conv2", Cut(in_channels=mid, out_channels=mid)))
        steps += [self._stem("conv3", out), self._stem("pool", out)]
        for stage in range(len(BASE_DEPTHS)):
            out_channels = config.stage_channels(stage, float(genes[width_gene(stage)]))
            for block in range(int(genes[depth_gene(stage)])):
                hidden = hidden_channels(out_channels, float(genes[block_gene(stage, block, "expand")]))
                cut = Cut(in_channels=channels, out_channels=out_channels, hidden=hidden)
                steps.append((self._block(stage, block), cut))
                channels = out_channels
        tail = Cut(in_channels=channels, out_channels=self.num_classes)
        return [*steps, (self.pool, tail), (self.flatten, tail), (self.classifier, tail)]

    def sort_channels(self, *, opened: Mapping[str, int]) -> None:
        """Order the channels inside every bottleneck block by importance; open subnets keep their function.

        Groups are cut off by the inner channels of every open pair of stage width and expand ratio. The widths of the
        stages are not sorted: the published recipe does not say how.
        """
        open_values = self.space.open_values(opened)
        for stage in range(len(BASE_DEPTHS)):
            widths = [self._config.stage_channels(stage, float(w)) for w in open_values[width_gene(stage)]]
            for block in range(most_blocks(stage)):
                expands = open_values[block_gene(stage, block, "expand")]
                sizes = {hidden_channels(width, float(e)) for width in widths for e in expands}
                self._block(stage, block).sort_channels(sizes)

    def _stem(self, part: str, cut: Cut) -> Step:
        return cast(ElasticModule, self.stem[part]), cut

    def _block(self, stage: int, block: int) -> ElasticBottleneck:
        return cast(ElasticBottleneck, cast(nn.ModuleList, self.stages[stage])[block])
