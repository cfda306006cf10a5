"""The once-for-all ResNet50D space: elastic depth, width, expand ratio and resolution.

Structure of every network: stem (3x3 stride 2 -> optional residual 3x3 -> 3x3 -> max-pool 3x3 stride 2) -> four stages
of bottleneck blocks (1x1, 3x3, 1x1, ReLU after the sum) -> global average pool -> linear. The first block of a stage
has a projection shortcut, average pool 2x2 (where it strides) and 1x1 convolution; its 3x3 convolution carries the
stride (variant D of He et al., Bag of Tricks, CVPR 2019). A stage runs its first `base + d` blocks, d in {0, 1, 2}.
Channels are a base number times a width multiplier, the channels inside a block are its output channels times the
expand ratio; both are rounded to multiples of 8 (Cai et al., Once-for-All, ICLR 2020; public code, ResNet50D).

Rounding gives the stem's inner channels 24, 24 and 32 for the multipliers .65, .8 and 1: the first two are the same
network. The published space counts both, and so does this one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture, Value
from searchspaces.channels import round_channels
from searchspaces.counting import add_conv, add_pool, add_sum, add_tail, halved
from searchspaces.errors import SpaceError
from searchspaces.gene_names import RESOLUTION, block_gene, depth_gene, width_gene
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import Counts, OpTable, OpTableBuilder
from searchspaces.settings import check_positive, checked_resolutions, checked_width, identity, position_of
from searchspaces.space import SearchSpace

if TYPE_CHECKING:
    from searchspaces.elastic.resnet import ResNet50DSupernet

BASE_DEPTHS = (2, 2, 4, 2)
EXTRA_DEPTHS = (0, 1, 2)
WIDTHS = (0.65, 0.8, 1.0)
EXPANDS = (0.2, 0.25, 0.35)
STRIDES = (1, 2, 2, 2)
STEM_DEPTH, STEM_MID_WIDTH, STEM_WIDTH = "stem.depth", "stem.mid.width", "stem.width"
STEM_DEPTHS = (2, 3)

_STEM_CHANNELS = 64
_STAGE_CHANNELS = (256, 512, 1024, 2048)
_OFA_STEM_DEPTHS = (0, 2)
_NUM_BLOCKS = sum(base + EXTRA_DEPTHS[-1] for base in BASE_DEPTHS)
_NUM_WIDTHS = 2 + len(BASE_DEPTHS)
_TOTAL_STRIDE = 32


class OfaResNetSettings(TypedDict):
    """An architecture as the published code spells it; see `ResNet50DSpace.from_ofa`."""

    d: list[int]
    e: list[float]
    w: list[int]
    resolution: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet50DConfig:
    """What can be set.

    Attributes:
        in_channels: channels of the images.
        resolutions: allowed input sizes in pixels, ascending.
        width: multiplier of all base channel numbers; 1 is the published space.
    """

    in_channels: int = 3
    resolutions: tuple[int, ...] = (128, 144, 160, 176, 192, 224, 240, 256)
    width: float = 1.0

    def __post_init__(self) -> None:
        check_positive("in_channels", self.in_channels)
        checked_width(self.width)
        checked_resolutions(self.resolutions, total_stride=_TOTAL_STRIDE)

    def stem_mid_channels(self, multiplier: float) -> int:
        """Channels between the convolutions of the stem."""
        return round_channels(self.stem_channels(multiplier) // 2)

    def stem_channels(self, multiplier: float) -> int:
        """Channels that leave the stem."""
        return round_channels(_STEM_CHANNELS * self.width * multiplier)

    def stage_channels(self, stage: int, multiplier: float) -> int:
        """Channels that leave the blocks of a stage, counted from 0."""
        return round_channels(_STAGE_CHANNELS[stage] * self.width * multiplier)


def hidden_channels(out_channels: int, expand: float) -> int:
    """Channels inside a bottleneck block."""
    return round_channels(out_channels * expand)


def most_blocks(stage: int) -> int:
    """Blocks of a stage at its greatest depth."""
    return BASE_DEPTHS[stage] + EXTRA_DEPTHS[-1]


class ResNet50DSpace(SearchSpace):
    """The space that a `ResNet50DConfig` describes; depth genes count the blocks (stem: convolutions) that run."""

    def __init__(self, config: ResNet50DConfig) -> None:
        self.config = config
        super().__init__(
            identity("ofa-resnet50d", config, default=ResNet50DConfig()),
            choices=_choices(config.resolutions),
            weights_id=identity("ofa-resnet50d", config, default=ResNet50DConfig(), ignoring=("resolutions",)),
        )

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        """(C, H, W) of the network's input, in pixels."""
        return self.config.in_channels, int(arch[RESOLUTION]), int(arch[RESOLUTION])

    def build_supernet(self, *, num_classes: int) -> "ResNet50DSupernet":
        """Build the supernet (imports torch)."""
        from searchspaces.elastic.resnet import ResNet50DSupernet

        return ResNet50DSupernet(self, num_classes=num_classes)

    def from_ofa(self, *, d: Sequence[int], e: Sequence[float], w: Sequence[int], resolution: int) -> Architecture:
        """The architecture that the published code writes as lists.

        Args:
            d: 5 entries: 0 (skip the middle convolution) or 2 for the stem, then 0 ... 2 additional blocks a stage.
            e: 18 expand ratios in the layout of the greatest depth (4, 4, 6, 4 blocks); those of blocks that do not
                run are ignored.
            w: 6 positions in (.65, .8, 1): inside the stem, after the stem, the four stages.
            resolution: height and width of the images in pixels.

        Numbers may be numpy's; errors count the entries from 0.

        Raises:
            SpaceError: wrong lengths, or values that are not allowed.
        """
        for name, entries, length in (("d", d, 1 + len(BASE_DEPTHS)), ("e", e, _NUM_BLOCKS), ("w", w, _NUM_WIDTHS)):
            if not isinstance(entries, list | tuple) or len(entries) != length:
                raise SpaceError(
                    f"{name} needs a list of {length} entries, got {entries!r}",
                    hint="d: stem and 4 stages; e: 18 blocks; w: inside the stem, after the stem, 4 stages",
                )
        sizes, stages = self.config.resolutions, range(len(BASE_DEPTHS))
        genes: dict[str, Value] = {
            RESOLUTION: sizes[position_of(RESOLUTION, resolution, sizes)],
            STEM_DEPTH: STEM_DEPTHS[position_of("d[0]", d[0], _OFA_STEM_DEPTHS)],
        }
        for n, gene in enumerate((STEM_MID_WIDTH, STEM_WIDTH, *map(width_gene, stages))):
            genes[gene] = WIDTHS[position_of(f"w[{n}]", w[n], range(len(WIDTHS)))]
        first = 0
        for stage in stages:
            depth = BASE_DEPTHS[stage] + EXTRA_DEPTHS[position_of(f"d[{stage + 1}]", d[stage + 1], EXTRA_DEPTHS)]
            genes[depth_gene(stage)] = depth
            for block in range(depth):
                n = first + block
                genes[block_gene(stage, block, "expand")] = EXPANDS[position_of(f"e[{n}]", e[n], EXPANDS)]
            first += most_blocks(stage)
        return self.architecture(genes)

    def to_ofa(self, arch: Architecture) -> OfaResNetSettings:
        """What `from_ofa` reads; blocks that do not run get the smallest expand ratio.

        Raises:
            SpaceError: an architecture of another space.
        """
        genes = self.complete_genes(arch)
        stages = range(len(BASE_DEPTHS))
        widths = (STEM_MID_WIDTH, STEM_WIDTH, *map(width_gene, stages))
        return OfaResNetSettings(
            d=[
                _OFA_STEM_DEPTHS[STEM_DEPTHS.index(int(genes[STEM_DEPTH]))],
                *(int(genes[depth_gene(stage)]) - BASE_DEPTHS[stage] for stage in stages),
            ],
            e=[
                float(genes[block_gene(stage, block, "expand")])
                for stage in stages
                for block in range(most_blocks(stage))
            ],
            w=[WIDTHS.index(float(genes[gene])) for gene in widths],
            resolution=int(genes[RESOLUTION]),
        )

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        """Operators of many architectures; the classifier is counted for `num_classes`."""
        genomes_NG = self.canonicalise(genomes_NG)
        position = {choice.name: genomes_NG[:, g] for g, choice in enumerate(self.choices)}
        config = self.config
        size_N = np.array(config.resolutions, dtype=np.int64)[position[RESOLUTION]]
        build = OpTableBuilder(len(genomes_NG), network_input_elements=config.in_channels * size_N**2)
        mid_N = _by_width(config.stem_mid_channels)[position[STEM_MID_WIDTH]]
        channels_N = _by_width(config.stem_channels)[position[STEM_WIDTH]]
        has_middle_N = position[STEM_DEPTH] == 1
        half_N = halved(size_N)
        first = add_conv(
            build, "stem.conv1", stage=-1, c_in=config.in_channels, c_out=mid_N, kernel=3, sizes=(size_N, half_N)
        )
        middle = add_conv(
            build,
            "stem.conv2",
            stage=-1,
            c_in=mid_N,
            c_out=mid_N,
            kernel=3,
            sizes=(half_N, half_N),
            present=has_middle_N,
        )
        add_sum(build, "stem.add", stage=-1, channels=mid_N, size=half_N, present=has_middle_N, reads=[middle, first])
        add_conv(build, "stem.conv3", stage=-1, c_in=mid_N, c_out=channels_N, kernel=3, sizes=(half_N, half_N))
        size_N = halved(half_N)
        add_pool(build, "stem.pool", stage=-1, channels=channels_N, sizes=(half_N, size_N))
        for stage in range(len(BASE_DEPTHS)):
            size_N, channels_N = self._add_stage(build, stage, position, size_N=size_N, channels_N=channels_N)
        add_tail(build, channels=channels_N, size=size_N, num_classes=num_classes)
        return build.build()

    def _add_stage(
        self,
        build: OpTableBuilder,
        stage: int,
        position: Mapping[str, npt.NDArray[np.int8]],
        *,
        size_N: Counts,
        channels_N: Counts,
    ) -> tuple[Counts, Counts]:
        """Add the blocks of a stage; returns the size and the channels that leave it."""
        width_N = position[width_gene(stage)]
        out_N = _by_width(lambda multiplier: self.config.stage_channels(stage, multiplier))[width_N]
        hidden_WE = np.array(
            [[hidden_channels(self.config.stage_channels(stage, w), e) for e in EXPANDS] for w in WIDTHS],
            dtype=np.int64,
        )
        for block in range(most_blocks(stage)):
            name = f"stage{stage + 1}.block{block + 1}"
            present_N = position[depth_gene(stage)] + BASE_DEPTHS[stage] > block
            hidden_N = hidden_WE[width_N, position[block_gene(stage, block, "expand")]]
            strides = block == 0 and STRIDES[stage] == 2
            to_N = halved(size_N) if strides else size_N
            body = build.latest
            # The network computes a projection before the convolutions beside it.
            if strides:
                add_pool(build, f"{name}.shortcut_pool", stage=stage, channels=channels_N, sizes=(size_N, to_N))
            if block == 0:
                add_conv(build, f"{name}.shortcut_conv", stage=stage, c_in=channels_N, c_out=out_N, sizes=(to_N, to_N))
            shortcut = build.latest
            for part, c_in, c_out, kernel, sizes in (
                ("conv1", channels_N, hidden_N, 1, (size_N, size_N)),
                ("conv2", hidden_N, hidden_N, 3, (size_N, to_N)),
                ("conv3", hidden_N, out_N, 1, (to_N, to_N)),
            ):
                body = add_conv(
                    build,
                    f"{name}.{part}",
                    stage=stage,
                    c_in=c_in,
                    c_out=c_out,
                    kernel=kernel,
                    sizes=sizes,
                    present=present_N,
                    reads=[body],
                )
            reads = [body, shortcut]
            add_sum(build, f"{name}.add", stage=stage, channels=out_N, size=to_N, present=present_N, reads=reads)
            size_N, channels_N = to_N, out_N
        return size_N, channels_N


def _by_width(channels: Callable[[float], int]) -> Counts:
    """Channel numbers for every width multiplier."""
    return np.array([channels(multiplier) for multiplier in WIDTHS], dtype=np.int64)


def _choices(resolutions: tuple[int, ...]) -> list[Choice]:
    choices = [
        Choice(name=RESOLUTION, values=resolutions),
        Choice(name=STEM_DEPTH, values=STEM_DEPTHS),
        Choice(name=STEM_MID_WIDTH, values=WIDTHS),
        Choice(name=STEM_WIDTH, values=WIDTHS),
    ]
    for stage, base in enumerate(BASE_DEPTHS):
        depths = tuple(base + extra for extra in EXTRA_DEPTHS)
        choices.append(Choice(name=width_gene(stage), values=WIDTHS))
        choices.append(Choice(name=depth_gene(stage), values=depths))
        choices += [
            Choice(
                name=block_gene(stage, block, "expand"),
                values=EXPANDS,
                parent=depth_gene(stage),
                parent_values=tuple(depth for depth in depths if depth > block),
            )
            for block in range(most_blocks(stage))
        ]
    return choices


def ofa_resnet50d(
    *,
    resolutions: Sequence[int] = ResNet50DConfig().resolutions,
    width: float = 1.0,
    in_channels: int = 3,
) -> ResNet50DSpace:
    """The ResNet50D space of once-for-all; see the module's text.

    Args:
        resolutions: allowed input sizes in pixels, ascending, at least 33.
        width: multiplier of all base channel numbers, 1 in the published space.
        in_channels: channels of the images.

    Raises:
        SpaceError: settings that do not fit.
    """
    return ResNet50DSpace(
        ResNet50DConfig(
            in_channels=in_channels,
            resolutions=checked_resolutions(resolutions, total_stride=_TOTAL_STRIDE),
            width=checked_width(width),
        )
    )


SPACES: Mapping[str, Callable[..., SearchSpace]] = {"ofa-resnet50d": ofa_resnet50d}
