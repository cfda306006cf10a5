"""The space of time series from sensors: residual one-dimensional convolutions.

Structure of every network: stem convolution -> elastic stages -> global average pool -> linear. A block is one
convolution over all channels with "same" padding, batch normalisation and ReLU. The first block of a stage carries the
stride and brings the width; every further one has a shortcut (after the fully convolutional and residual networks of
Wang et al., Time series classification from scratch, IJCNN 2017, arXiv 1611.06455). Depth and width are chosen per
stage, kernel and dilation per block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture
from searchspaces.errors import SpaceError
from searchspaces.gene_names import block_gene, depth_gene, width_gene
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
    from searchspaces.elastic.conv1d import Conv1dSupernet

_Entry = TypeVar("_Entry")
_KERNELS, _DILATIONS = (3, 5, 7, 9), (1, 2, 4)
_STEM_STRIDES, _STRIDES = (1, 2, 4), (1, 2)
_EXAMPLES = {"widths": "[[16, 32], [32, 64]]", "strides": "[1, 2]"}
_SHORTEST = 2  # time steps: batch normalisation of one series needs more than one value a channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv1dConfig:
    """Everything that shapes a space.

    Attributes:
        in_channels: channels of the series, for example the axes of an accelerometer.
        length: time steps of the network's input; series of another length are resampled to it.
        stem_channels, stem_kernel, stem_stride: the convolution that every network begins with.
        widths: allowed channels of each stage, ascending.
        strides: stride of each stage, 1 or 2.
        depths: allowed numbers of blocks of every stage, ascending.
        kernels: allowed kernels of every block, ascending odd numbers of time steps.
        dilations: allowed distances between the taps of a kernel, ascending, in time steps.
        dropout: rate before the classifier, in training only.

    Raises:
        SpaceError: values that do not fit; the place is named, stages counted from 1.
    """

    in_channels: int = 1
    length: int = 128
    stem_channels: int = 32
    stem_kernel: int = 7
    stem_stride: int = 1
    widths: tuple[tuple[int, ...], ...] = ((16, 24, 32), (24, 32, 48), (32, 48, 64))
    strides: tuple[int, ...] = (1, 1, 1)
    depths: tuple[int, ...] = (1, 2, 3)
    kernels: tuple[int, ...] = _KERNELS
    dilations: tuple[int, ...] = _DILATIONS
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for name in ("in_channels", "length", "stem_channels", "stem_kernel"):
            check_positive(name, getattr(self, name))
        check_one_of("stem_stride", self.stem_stride, _STEM_STRIDES)
        if not self.widths or len(self.widths) != len(self.strides):
            raise SpaceError(
                f"widths has {len(self.widths)} stages and strides has {len(self.strides)}",
                hint="give both one entry a stage, for example widths: [[16, 32], [32, 64]] and strides: [1, 2]",
            )
        check_num_stages(len(self.widths))
        for number, (widths, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            check_ascending(f"{stage_place(number)}: widths", widths)
            check_one_of(f"{stage_place(number)}: strides", stride, _STRIDES, example=_EXAMPLES["strides"])
        for name in ("depths", "kernels", "dilations"):
            check_ascending(name, getattr(self, name))
        check_odd("stem_kernel", (self.stem_kernel,))
        check_odd("kernels", self.kernels)
        if not (type(self.dropout) in (int, float) and 0 <= self.dropout < 1):
            raise SpaceError(f"dropout is {self.dropout!r}, expected 0 to below 1", hint="for example dropout: 0.2")
        self._check_lengths()
        check_macs(self._most_macs())

    def lengths(self) -> tuple[int, ...]:
        """Time steps after the stem and after each stage."""
        steps = [-(-self.length // self.stem_stride)]
        for stride in self.strides:
            steps.append(-(-steps[-1] // stride))
        return tuple(steps)

    def _most_macs(self) -> int:
        """No network needs more multiply-accumulate operations, parameters or activations than this."""
        weights, before = self.in_channels * self.stem_channels * self.stem_kernel, self.stem_channels
        for *_, width in self.widths:
            weights += width * (before + (self.depths[-1] - 1) * width) * (self.kernels[-1] + 4)
            before = width
        return weights * self.length

    def _check_lengths(self) -> None:
        """Strides must leave some time steps, and the outermost taps of a kernel must not see the padding only."""
        shortest = self.lengths()[-1]
        if shortest < _SHORTEST:
            raise SpaceError(
                f"the strides leave {shortest} of {self.length} time steps, at least {_SHORTEST} must be left",
                hint="use a longer input (length; a run takes it from its data) or fewer strides of 2",
            )
        reach = self.dilations[-1] * (self.kernels[-1] // 2)
        if reach >= shortest:
            kernels = fitting_kernels(shortest)
            dilations = fitting_dilations(shortest, kernel=kernels[-1])
            raise SpaceError(
                f"kernel {self.kernels[-1]} with dilation {self.dilations[-1]} reaches {reach} time steps to each "
                f"side, but the last stage has only {shortest}",
                hint=f"use smaller ones, for example kernels: {list(kernels)} and dilations: {list(dilations)}",
            )


def fitting_kernels(length: int) -> tuple[int, ...]:
    """3, 5, 7 and 9 as far as they fit series of `length` time steps, at least 2."""
    return tuple(kernel for kernel in _KERNELS if kernel // 2 < length)


def fitting_dilations(length: int, *, kernel: int) -> tuple[int, ...]:
    """1, 2 and 4 as far as a kernel with that dilation fits series of `length` time steps; 1 always."""
    return tuple(dilation for dilation in _DILATIONS if dilation == 1 or dilation * (kernel // 2) < length)


class Conv1dSpace(SearchSpace):
    """The space that a `Conv1dConfig` describes."""

    def __init__(self, config: Conv1dConfig) -> None:
        self.config = config
        super().__init__(identity("conv1d-sensor", config, default=Conv1dConfig()), choices=_choices(config))

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        """(C, T) of the network's input, T in time steps."""
        return self.config.in_channels, self.config.length

    def build_supernet(self, *, num_classes: int) -> "Conv1dSupernet":
        """Build the supernet (imports torch)."""
        from searchspaces.elastic.conv1d import Conv1dSupernet

        return Conv1dSupernet(self, num_classes=num_classes)

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        """Operators of many architectures; the classifier is counted for `num_classes`."""
        config, genomes_NG = self.config, self.canonicalise(genomes_NG)
        value_N = {
            choice.name: np.array(choice.values, dtype=np.int64)[genomes_NG[:, g]]
            for g, choice in enumerate(self.choices)
        }
        build = OpTableBuilder(len(genomes_NG), network_input_elements=config.in_channels * config.length)
        length, *after = config.lengths()
        stem = config.stem_channels
        _add_conv(
            build, "stem", stage=-1, c_in=config.in_channels, c_out=stem, kernel=config.stem_kernel,
            lengths=(config.length, length),
        )  # fmt: skip
        channels: Counts | int = stem
        for stage, shorter in enumerate(after):
            width_N = value_N[width_gene(stage)]
            for block in range(config.depths[-1]):
                name, present_N = f"stage{stage + 1}.block{block + 1}", value_N[depth_gene(stage)] > block
                before = build.latest
                _add_conv(
                    build, f"{name}.conv", stage=stage, c_in=channels, c_out=width_N,
                    kernel=value_N[block_gene(stage, block, "kernel")], lengths=(length, shorter), present=present_N,
                )  # fmt: skip
                if block > 0:
                    build.add(
                        f"{name}.add", kind="add", stage=stage, macs=0, params=0, input_elements=2 * width_N * shorter,
                        output_elements=width_N * shorter, present=present_N, reads=[build.latest, before],
                    )  # fmt: skip
                channels, length = width_N, shorter
        build.add(
            "pool", kind="pool", stage=-1, macs=0, params=0, input_elements=channels * length, output_elements=channels
        )
        build.add(
            "classifier", kind="linear", stage=-1, macs=channels * num_classes, params=(channels + 1) * num_classes,
            input_elements=channels, output_elements=num_classes,
        )  # fmt: skip
        return build.build()


def _add_conv(
    build: OpTableBuilder,
    name: str,
    *,
    stage: int,
    c_in: Counts | int,
    c_out: Counts | int,
    kernel: Counts | int,
    lengths: tuple[int, int],
    present: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Add a convolution with its batch normalisation (2 params a channel) and ReLU."""
    before, after = lengths
    weights = c_in * c_out * kernel
    build.add(
        name, kind="conv", stage=stage, macs=weights * after, params=weights + 2 * c_out,
        input_elements=c_in * before, output_elements=c_out * after, present=present,
    )  # fmt: skip


def _choices(config: Conv1dConfig) -> list[Choice]:
    choices = []
    for stage, widths in enumerate(config.widths):
        depth = depth_gene(stage)
        choices.append(Choice(name=depth, values=config.depths))
        choices.append(Choice(name=width_gene(stage), values=widths))
        for block in range(config.depths[-1]):
            deeper = tuple(depth for depth in config.depths if depth > block)
            for part, values in (("kernel", config.kernels), ("dilation", config.dilations)):
                name = block_gene(stage, block, part)
                choices.append(Choice(name=name, values=values, parent=depth, parent_values=deeper))
    return choices


_DEFAULT = Conv1dConfig()


def conv1d_sensor(
    *,
    in_channels: int = _DEFAULT.in_channels,
    length: int = _DEFAULT.length,
    stem_channels: int = _DEFAULT.stem_channels,
    stem_kernel: int = _DEFAULT.stem_kernel,
    stem_stride: int = _DEFAULT.stem_stride,
    widths: Sequence[Sequence[int]] = _DEFAULT.widths,
    strides: Sequence[int] | None = None,
    depths: Sequence[int] = _DEFAULT.depths,
    kernels: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    dropout: float = _DEFAULT.dropout,
) -> Conv1dSpace:
    """Lay out a space of time series; the arguments may be plain lists, as a recipe gives them.

    Args:
        in_channels: channels of the series.
        length: time steps of the network's input; series of another length are resampled to it. A recipe that leaves
            `in_channels` or `length` out takes them from its data.
        stem_channels: channels of the first convolution.
        stem_kernel: its kernel, an odd number of time steps.
        stem_stride: its stride: 1, or 2 or 4 for long series.
        widths: allowed channels of each stage, ascending: one list a stage.
        strides: stride of each stage, 1 or 2; all 1 if None. Fine structure counts for many series: stride late.
        depths: allowed numbers of blocks of every stage, ascending.
        kernels: allowed kernels of every block, ascending odd numbers; 3, 5, 7, 9 as far as they fit if None.
        dilations: allowed dilations of every block, ascending; 1, 2, 4 as far as they fit if None.
        dropout: rate before the classifier, in training only.

    Raises:
        SpaceError: settings that do not fit; the place is named, stages counted from 1.
    """
    stages = tuple(
        check_ascending(f"{stage_place(number)}: widths", stage)
        for number, stage in enumerate(_listed("widths", widths))
    )
    config = Conv1dConfig(
        in_channels=in_channels,
        length=length,
        stem_channels=stem_channels,
        stem_kernel=stem_kernel,
        stem_stride=stem_stride,
        widths=stages,
        strides=(1,) * len(stages) if strides is None else _listed("strides", strides),
        depths=check_ascending("depths", depths),
        kernels=(1,),
        dilations=(1,),
        dropout=dropout,
    )
    shortest = config.lengths()[-1]
    kernels = fitting_kernels(shortest) if kernels is None else check_ascending("kernels", kernels)
    if dilations is None:
        dilations = fitting_dilations(shortest, kernel=kernels[-1])
    return Conv1dSpace(replace(config, kernels=kernels, dilations=check_ascending("dilations", dilations)))


def _listed(name: str, values: Sequence[_Entry]) -> tuple[_Entry, ...]:
    if not isinstance(values, list | tuple):
        raise SpaceError(
            f"{name} must be a list with one entry a stage, got {values!r}",
            hint=f"for example {name}: {_EXAMPLES[name]}",
        )
    return tuple(values)


SPACES: Mapping[str, Callable[..., SearchSpace]] = {"conv1d-sensor": conv1d_sensor}
