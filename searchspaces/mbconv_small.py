"""The once-for-all space for small images.

Stages of inverted-residual blocks with elastic kernel, expand ratio, depth and resolution. Structure of every network:
3x3 stem -> stages of MBConv blocks (1x1 expand, depthwise, 1x1 project) -> 1x1 head -> global average pool -> linear.
The first block of a stage carries its stride and has no shortcut. Kernel and expand ratio are chosen per block, depth
per stage, resolution once (Cai et al., Once-for-All, ICLR 2020, section 3).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture
from searchspaces.errors import SpaceError
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import OpTable, OpTableBuilder
from searchspaces.space import SearchSpace

if TYPE_CHECKING:
    from searchspaces.elastic.mbconv import MBConvSupernet

RESOLUTION = "resolution"


def round_channels(channels: float, *, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least `divisor`, up one step if more than 10 % would be lost."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One elastic stage.

    Attributes:
        channels: output channels of its blocks.
        stride: stride of its first block.
        depths: allowed numbers of blocks, ascending.
    """

    channels: int
    stride: int
    depths: tuple[int, ...] = (1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConvConfig:
    """Everything that shapes the space; its checksum is part of the identity of a space that is not the default."""

    in_channels: int = 1
    resolutions: tuple[int, ...] = (16, 20, 24)
    stem_channels: int = 8
    stem_stride: int = 2
    stages: tuple[Stage, ...] = (
        Stage(channels=16, stride=1),
        Stage(channels=24, stride=2),
        Stage(channels=40, stride=2),
    )
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    head_channels: int = 96

    def __post_init__(self) -> None:
        for name in ("resolutions", "kernels", "expands"):
            _check_ascending(name, getattr(self, name))
        for number, stage in enumerate(self.stages, start=1):
            _check_ascending(f"stages[{number}].depths", stage.depths)
        _check_ascending("in_channels", (self.in_channels,))
        widths = (self.in_channels, self.stem_channels, self.head_channels, *(stage.channels for stage in self.stages))
        strides = (self.stem_stride, *(stage.stride for stage in self.stages))
        if min(widths) < 1 or not self.stages or not set(strides) <= {1, 2} or any(k % 2 == 0 for k in self.kernels):
            raise SpaceError(
                f"widths must be positive, strides 1 or 2, kernels odd, got widths={widths}, strides={strides}, "
                f"kernels={self.kernels}",
                hint="correct the space settings",
            )
        shrink = int(np.prod(strides))
        if self.resolutions[0] < 2 * shrink:
            raise SpaceError(
                f"resolution {self.resolutions[0]} is too small for a total stride of {shrink}",
                hint=f"use resolutions of at least {2 * shrink} pixels or fewer strides",
            )

    def block_inputs(self, stage: int) -> tuple[int, ...]:
        """Input channels of every possible block of a stage."""
        before = self.stem_channels if stage == 0 else self.stages[stage - 1].channels
        own = self.stages[stage]
        return (before,) + (own.channels,) * (own.depths[-1] - 1)


def _shown(values: object) -> str:
    return repr(list(values) if isinstance(values, tuple) else values)


def _check_ascending(name: str, values: object) -> None:
    valid = (
        isinstance(values, tuple)
        and bool(values)
        and all(type(v) is int and v > 0 for v in values)
        and list(values) == sorted(set(values))
    )
    if not valid:
        raise SpaceError(
            f"{name} must be ascending positive integers, got {_shown(values)}", hint=f"for example {name}: [1, 2]"
        )


def depth_gene(stage: int) -> str:
    """Name of the depth gene of stage 0, 1, ..."""
    return f"stage{stage + 1}.depth"


def block_gene(stage: int, block: int, part: str) -> str:
    """Name of the "kernel" or "expand" gene of a block, both counted from 0."""
    return f"stage{stage + 1}.block{block + 1}.{part}"


class MBConvSpace(SearchSpace):
    """The space that an `MBConvConfig` describes."""

    def __init__(self, config: MBConvConfig) -> None:
        self.config = config
        super().__init__(_space_id(config), choices=_choices(config))

    @property
    def in_channels(self) -> int:
        """Channels of the input images."""
        return self.config.in_channels

    def resolution(self, arch: Architecture) -> int:
        """Height and width in pixels of the network's input."""
        return int(arch[RESOLUTION])

    def build_supernet(self, *, num_classes: int) -> "MBConvSupernet":
        """Build the supernet (imports torch)."""
        from searchspaces.elastic.mbconv import MBConvSupernet

        return MBConvSupernet(self, num_classes=num_classes)

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        """Operators of many architectures; the classifier is counted for `num_classes`."""
        config, genomes_NG = self.config, self.canonicalise(genomes_NG)
        columns = {choice.name: genomes_NG[:, g] for g, choice in enumerate(self.choices)}
        build = OpTableBuilder(len(genomes_NG))
        size_N = np.array(config.resolutions, dtype=np.int64)[columns[RESOLUTION]]
        out_N = -(-size_N // config.stem_stride)
        _add_conv(
            build,
            "stem",
            stage=-1,
            c_in=config.in_channels,
            c_out=config.stem_channels,
            kernel=3,
            sizes=(size_N, out_N),
        )
        size_N = out_N
        for number, stage in enumerate(config.stages):
            depth_N = np.array(stage.depths, dtype=np.int64)[columns[depth_gene(number)]]
            for block, c_in in enumerate(config.block_inputs(number)):
                present_N = depth_N > block
                kernel_N = np.array(config.kernels, dtype=np.int64)[columns[block_gene(number, block, "kernel")]]
                expand = columns[block_gene(number, block, "expand")]
                hidden_N = np.array([round_channels(c_in * e) for e in config.expands], dtype=np.int64)[expand]
                out_N = -(-size_N // (stage.stride if block == 0 else 1))
                name = f"stage{number + 1}.block{block + 1}"
                _add_conv(
                    build,
                    f"{name}.expand",
                    stage=number,
                    c_in=c_in,
                    c_out=hidden_N,
                    sizes=(size_N, size_N),
                    present=present_N,
                )
                _add_conv(
                    build, f"{name}.depthwise", stage=number, c_in=1, c_out=hidden_N, kernel=kernel_N,
                    sizes=(size_N, out_N), present=present_N, depthwise=True,
                )  # fmt: skip
                _add_conv(
                    build,
                    f"{name}.project",
                    stage=number,
                    c_in=hidden_N,
                    c_out=stage.channels,
                    sizes=(out_N, out_N),
                    present=present_N,
                )
                if block > 0:
                    elements_N = stage.channels * out_N**2
                    build.add(
                        f"{name}.add", kind="add", stage=number, macs=0, params=0,
                        input_elements=2 * elements_N, output_elements=elements_N, present=present_N,
                    )  # fmt: skip
                size_N = out_N
        last, head = config.stages[-1].channels, config.head_channels
        _add_conv(build, "head", stage=-1, c_in=last, c_out=head, sizes=(size_N, size_N))
        build.add(
            "pool", kind="pool", stage=-1, macs=0, params=0, input_elements=head * size_N**2, output_elements=head
        )
        build.add(
            "classifier", kind="linear", stage=-1, macs=head * num_classes, params=(head + 1) * num_classes,
            input_elements=head, output_elements=num_classes,
        )  # fmt: skip
        return build.build()


def _add_conv(
    build: OpTableBuilder,
    name: str,
    *,
    stage: int,
    c_in: npt.NDArray[np.int64] | int,
    c_out: npt.NDArray[np.int64] | int,
    sizes: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    kernel: npt.NDArray[np.int64] | int = 1,
    present: npt.NDArray[np.bool_] | None = None,
    depthwise: bool = False,
) -> None:
    """Add a convolution with its batch normalisation (2 params a channel) and activation; `c_in` is per group."""
    in_N, out_N = sizes
    weights = c_out * c_in * kernel**2
    build.add(
        name,
        kind="depthwise" if depthwise else "conv",
        stage=stage,
        macs=weights * out_N**2,
        params=weights + 2 * c_out,
        input_elements=(c_out if depthwise else c_in) * in_N**2,
        output_elements=c_out * out_N**2,
        present=present,
    )


def _choices(config: MBConvConfig) -> list[Choice]:
    choices = [Choice(name=RESOLUTION, values=config.resolutions)]
    for number, stage in enumerate(config.stages):
        choices.append(Choice(name=depth_gene(number), values=stage.depths))
        for block in range(stage.depths[-1]):
            deeper = tuple(depth for depth in stage.depths if depth > block)
            for part, values in (("kernel", config.kernels), ("expand", config.expands)):
                choices.append(
                    Choice(
                        name=block_gene(number, block, part),
                        values=values,
                        parent=depth_gene(number),
                        parent_values=deeper,
                    )
                )
    return choices


def _space_id(config: MBConvConfig) -> str:
    if config == MBConvConfig():
        return "mbconv-small"
    text = json.dumps(asdict(config), sort_keys=True)
    return f"mbconv-small-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _tuple(values: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(values, list | tuple):
        raise SpaceError(
            f"resolutions must be a list of integers, got {_shown(values)}", hint="for example [16, 20, 24]"
        )
    return tuple(values)


def mbconv_small(
    *, resolutions: Sequence[int] = MBConvConfig().resolutions, width: float = 1.0, in_channels: int = 1
) -> MBConvSpace:
    """The default space of small images; see the module's text.

    Args:
        resolutions: allowed input sizes in pixels, ascending.
        width: multiplier of all channel numbers, which are then rounded to multiples of 8.
        in_channels: channels of the images.

    Raises:
        SpaceError: settings that do not fit.
    """
    if not (type(width) in (int, float) and 0.1 <= width <= 10.0):
        raise SpaceError(f"width is {width!r}, expected a number from 0.1 to 10", hint="for example width: 0.5")
    base = MBConvConfig()
    config = MBConvConfig(
        resolutions=_tuple(resolutions),
        in_channels=in_channels,
        stem_channels=round_channels(base.stem_channels * width),
        stages=tuple(replace(stage, channels=round_channels(stage.channels * width)) for stage in base.stages),
        head_channels=round_channels(base.head_channels * width),
    )
    return MBConvSpace(config)


SPACES: Mapping[str, Callable[..., SearchSpace]] = {"mbconv-small": mbconv_small}
