"""The family of inverted-residual (MBConv) spaces: small images and the once-for-all spaces share this definition.

Structure of every network: 3x3 stem -> static first block, where the family has one -> elastic stages of MBConv blocks
(1x1 expand, depthwise, squeeze-excite on some stages, 1x1 project) -> 1x1 head -> global average pool -> 1x1 feature
mix, where the family has one -> linear. The first block of a stage carries its stride and has no shortcut, all others
have one. Kernel and expand ratio are chosen per block, depth per stage, resolution once (Cai et al., Once-for-All,
ICLR 2020, section 3).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture
from searchspaces.channels import round_channels, squeeze_channels
from searchspaces.counting import add_conv, add_pool, add_sum
from searchspaces.errors import SpaceError
from searchspaces.gene_names import RESOLUTION, block_gene, depth_gene
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import Counts, OpTable, OpTableBuilder
from searchspaces.settings import (
    check_ascending,
    check_macs,
    check_num_stages,
    check_odd,
    check_one_of,
    check_positive,
    identity,
    stage_place,
)
from searchspaces.space import SearchSpace

if TYPE_CHECKING:
    from searchspaces.elastic.mbconv import MBConvSupernet

ACTIVATIONS = ("relu", "relu6", "h-swish")
_SMALLEST_MAP = 2  # pixels: batch normalisation of one image needs more than one value a channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One elastic stage.

    Attributes:
        channels: output channels of its blocks.
        stride: stride of its first block, 1 or 2.
        depths: allowed numbers of blocks, ascending.
        kernels: allowed depthwise kernels of each block, ascending odd numbers.
        expands: allowed expand ratios of each block, ascending.
        activation: one of `ACTIVATIONS`.
        se: whether the blocks have a squeeze-excite unit after the depthwise convolution.
    """

    channels: int
    stride: int
    depths: tuple[int, ...] = (1, 2, 3)
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    activation: str = "relu"
    se: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBlock:
    """The block after the stem that is the same in every subnet: 3x3 depthwise, then 1x1 to `channels`, stride 1.

    It has a shortcut where the stem has as many channels.
    """

    channels: int
    activation: str = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConvConfig:
    """Everything that shapes a space; the defaults are `mbconv-small`.

    Attributes:
        in_channels: channels of the images.
        resolutions: allowed heights and widths in pixels, ascending.
        stem_channels, stem_stride: the 3x3 convolution that every network begins with.
        first_block: the static block after the stem, or None.
        stages: the elastic stages.
        head_channels: channels of the 1x1 convolution with normalisation before the pool.
        mix_channels: channels of the 1x1 convolution after the pool (neither bias nor normalisation), or None.
        activation: of stem, head and feature mix; one of `ACTIVATIONS`.
        norm_eps: added to the variance by all batch normalisations.
        dropout: rate before the classifier, in training only.

    Raises:
        SpaceError: values that do not fit; the place is named, stages counted from 1.
    """

    in_channels: int = 1
    resolutions: tuple[int, ...] = (16, 20, 24)
    stem_channels: int = 8
    stem_stride: int = 2
    first_block: FirstBlock | None = None
    stages: tuple[Stage, ...] = (
        Stage(channels=16, stride=1),
        Stage(channels=24, stride=2),
        Stage(channels=40, stride=2),
    )
    head_channels: int = 96
    mix_channels: int | None = None
    activation: str = "relu"
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("in_channels", "stem_channels", "head_channels"):
            check_positive(name, getattr(self, name))
        check_ascending("resolutions", self.resolutions)
        check_one_of("stem_stride", self.stem_stride, (1, 2))
        check_one_of("activation", self.activation, ACTIVATIONS)
        if self.first_block is not None:
            check_positive("first_block.channels", self.first_block.channels)
            check_one_of("first_block.activation", self.first_block.activation, ACTIVATIONS)
        if self.mix_channels is not None:
            check_positive("mix_channels", self.mix_channels)
        check_num_stages(len(self.stages))
        for number, stage in enumerate(self.stages):
            _check_stage(stage_place(number), stage)
        self._check_sizes()
        check_macs(self._most_macs())

    def _check_sizes(self) -> None:
        """Every stage must leave more than one pixel of the smallest images."""
        smallest = size = self.resolutions[0]
        strides = [("the stem", self.stem_stride)]
        strides += [(stage_place(number), stage.stride) for number, stage in enumerate(self.stages)]
        for place, stride in strides:
            size = -(-size // stride)
            if size < _SMALLEST_MAP:
                total = math.prod(stride for _, stride in strides)
                raise SpaceError(
                    f"{place} leaves {size} x {size} pixels of resolution {smallest}, at least "
                    f"{_SMALLEST_MAP} x {_SMALLEST_MAP} must be left (strides {[stride for _, stride in strides]})",
                    hint=f"use resolutions of at least {total + 1} pixels or fewer strides of 2",
                )

    def _most_macs(self) -> int:
        """No network needs more multiply-accumulate operations, parameters or activations than this."""
        before = self.stem_channels if self.first_block is None else self.first_block.channels
        head, mix = self.head_channels, self.mix_channels or 1
        weights = self.stem_channels * (9 * self.in_channels + 9 + before) + head * (self.stages[-1].channels + mix)
        for number, stage in enumerate(self.stages):
            for c_in in self.block_inputs(number):
                hidden = round_channels(c_in * stage.expands[-1])
                # squeeze-excite has a quarter of the channels inside
                weights += hidden * (c_in + stage.kernels[-1] ** 2 + stage.channels + (hidden if stage.se else 0) + 4)
        return weights * self.resolutions[-1] ** 2

    def block_inputs(self, stage: int) -> tuple[int, ...]:
        """Input channels of every possible block of a stage."""
        before = self.stem_channels if self.first_block is None else self.first_block.channels
        before = before if stage == 0 else self.stages[stage - 1].channels
        own = self.stages[stage]
        return (before,) + (own.channels,) * (own.depths[-1] - 1)


def _check_stage(place: str, stage: Stage) -> None:
    check_positive(f"{place}: channels", stage.channels)
    check_one_of(f"{place}: stride", stage.stride, (1, 2))
    for name in ("depths", "kernels", "expands"):
        check_ascending(f"{place}: {name}", getattr(stage, name))
    check_odd(f"{place}: kernels", stage.kernels)
    check_one_of(f"{place}: activation", stage.activation, ACTIVATIONS)
    check_one_of(f"{place}: se", stage.se, (True, False))


class MBConvSpace(SearchSpace):
    """The space that an `MBConvConfig` describes.

    Args:
        config: what shapes it.
        name: name of the registered space.
        default: the configuration that has the bare name as its id; any other adds a checksum of what differs.
    """

    def __init__(
        self, config: MBConvConfig, *, name: str = "mbconv-small", default: MBConvConfig | None = None
    ) -> None:
        self.config = config
        usual = default or MBConvConfig()
        super().__init__(
            identity(name, config, default=usual),
            choices=_choices(config),
            weights_id=identity(name, config, default=usual, ignoring=("resolutions",)),
        )

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        """(C, H, W) of the network's input, in pixels."""
        return self.config.in_channels, int(arch[RESOLUTION]), int(arch[RESOLUTION])

    def build_supernet(self, *, num_classes: int) -> "MBConvSupernet":
        """Build the supernet (imports torch)."""
        from searchspaces.elastic.mbconv import MBConvSupernet

        return MBConvSupernet(self, num_classes=num_classes)

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        """Operators of many architectures; the classifier is counted for `num_classes`."""
        config, genomes_NG = self.config, self.canonicalise(genomes_NG)
        columns = {choice.name: genomes_NG[:, g] for g, choice in enumerate(self.choices)}
        size_N = np.array(config.resolutions, dtype=np.int64)[columns[RESOLUTION]]
        build = OpTableBuilder(len(genomes_NG), network_input_elements=config.in_channels * size_N**2)
        stem, out_N = config.stem_channels, -(-size_N // config.stem_stride)
        add_conv(build, "stem", stage=-1, c_in=config.in_channels, c_out=stem, kernel=3, sizes=(size_N, out_N))
        size_N = out_N
        if config.first_block is not None:
            _add_first_block(build, stem, config.first_block.channels, size_N)
        for number in range(len(config.stages)):
            size_N = _add_stage(build, config, number, columns, size_N)
        head, features = config.head_channels, config.mix_channels or config.head_channels
        add_conv(build, "head", stage=-1, c_in=config.stages[-1].channels, c_out=head, sizes=(size_N, size_N))
        add_pool(build, "pool", stage=-1, channels=head, sizes=(size_N, 1))
        if config.mix_channels is not None:
            pixel_N = np.ones_like(size_N)
            add_conv(build, "mix", stage=-1, c_in=head, c_out=features, sizes=(pixel_N, pixel_N), norm=False)
        build.add(
            "classifier", kind="linear", stage=-1, macs=features * num_classes, params=(features + 1) * num_classes,
            input_elements=features, output_elements=num_classes,
        )  # fmt: skip
        return build.build()


def _add_first_block(build: OpTableBuilder, c_in: int, c_out: int, size_N: Counts) -> None:
    sizes, before = (size_N, size_N), build.latest
    add_conv(build, "first.depthwise", stage=-1, c_in=c_in, c_out=c_in, kernel=3, sizes=sizes, depthwise=True)
    add_conv(build, "first.project", stage=-1, c_in=c_in, c_out=c_out, sizes=sizes)
    if c_in == c_out:
        add_sum(build, "first.add", stage=-1, channels=c_out, size=size_N, reads=[build.latest, before])


def _add_stage(
    build: OpTableBuilder,
    config: MBConvConfig,
    number: int,
    columns: Mapping[str, npt.NDArray[np.int8]],
    size_N: Counts,
) -> Counts:
    """Add the slots of all blocks that a stage can have; returns the size of its output."""
    stage = config.stages[number]
    depth_N = np.array(stage.depths, dtype=np.int64)[columns[depth_gene(number)]]
    for block, c_in in enumerate(config.block_inputs(number)):
        name, present_N, before = f"stage{number + 1}.block{block + 1}", depth_N > block, build.latest
        kernel_N = np.array(stage.kernels, dtype=np.int64)[columns[block_gene(number, block, "kernel")]]
        expand_N = columns[block_gene(number, block, "expand")]
        hidden = [round_channels(c_in * expand) for expand in stage.expands]
        hidden_N = np.array(hidden, dtype=np.int64)[expand_N]
        out_N = -(-size_N // (stage.stride if block == 0 else 1))
        add_conv(
            build, f"{name}.expand", stage=number, c_in=c_in, c_out=hidden_N, sizes=(size_N, size_N),
            present=present_N,
        )  # fmt: skip
        add_conv(
            build, f"{name}.depthwise", stage=number, c_in=hidden_N, c_out=hidden_N, kernel=kernel_N,
            sizes=(size_N, out_N), present=present_N, depthwise=True,
        )  # fmt: skip
        if stage.se:
            squeeze_N = np.array([squeeze_channels(channels) for channels in hidden], dtype=np.int64)[expand_N]
            weights_N, elements_N = 2 * hidden_N * squeeze_N, hidden_N * out_N**2
            # Inside, the most is alive in the product: its gate, one number a channel, beside input and output.
            build.add(
                f"{name}.se", kind="se", stage=number, macs=weights_N, params=weights_N + squeeze_N + hidden_N,
                input_elements=elements_N, output_elements=elements_N, workspace_elements=hidden_N, present=present_N,
            )  # fmt: skip
        add_conv(
            build, f"{name}.project", stage=number, c_in=hidden_N, c_out=stage.channels, sizes=(out_N, out_N),
            present=present_N,
        )  # fmt: skip
        if block > 0:
            add_sum(
                build, f"{name}.add", stage=number, channels=stage.channels, size=out_N, present=present_N,
                reads=[build.latest, before],
            )  # fmt: skip
        size_N = out_N
    return size_N


def _choices(config: MBConvConfig) -> list[Choice]:
    choices = [Choice(name=RESOLUTION, values=config.resolutions)]
    for number, stage in enumerate(config.stages):
        choices.append(Choice(name=depth_gene(number), values=stage.depths))
        for block in range(stage.depths[-1]):
            deeper = tuple(depth for depth in stage.depths if depth > block)
            for part, values in (("kernel", stage.kernels), ("expand", stage.expands)):
                choices.append(
                    Choice(
                        name=block_gene(number, block, part),
                        values=values,
                        parent=depth_gene(number),
                        parent_values=deeper,
                    )
                )
    return choices
