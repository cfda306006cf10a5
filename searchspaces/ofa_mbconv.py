"""The published once-for-all spaces of inverted-residual networks, exactly as their weights need them.

MobileNetV3 with width 1.0 and 1.2, and Proxyless with width 1.3 (Cai et al., Once-for-All, ICLR 2020; channel numbers,
strides, activations and layer order from the public code, once-for-all at f03b267). The source writes an architecture
as lists: `ks` and `e` with an entry for every block in the layout of the deepest network, `d` with one for every stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from searchspaces.architecture import Architecture, Value
from searchspaces.channels import round_channels
from searchspaces.errors import SpaceError
from searchspaces.gene_names import RESOLUTION, block_gene, depth_gene
from searchspaces.mbconv import (
    FirstBlock,
    MBConvConfig,
    MBConvSpace,
    Stage,
)
from searchspaces.settings import check_ascending, position_of

_RESOLUTIONS = tuple(range(128, 225, 4))
_DEPTHS = (2, 3, 4)
_DROPOUT = 0.1


class OfaLists(TypedDict):
    """An architecture as the once-for-all code writes it; the arguments of `OfaMBConvSpace.from_ofa`."""

    ks: list[int]
    e: list[int]
    d: list[int]
    resolution: int


class OfaMBConvSpace(MBConvSpace):
    """A space of `searchspaces.mbconv` that also speaks the lists of the once-for-all code."""

    def from_ofa(self, *, ks: Sequence[int], e: Sequence[int], d: Sequence[int], resolution: int) -> Architecture:
        """Make an architecture from once-for-all lists.

        Args:
            ks: kernel of each block, stage after stage with as many entries as the deepest network has blocks (20;
                Proxyless 21); entries of blocks that the depths leave out are ignored.
            e: expand ratio of each block, likewise.
            d: depth of each stage (5; Proxyless 6). The entry of a stage of one depth is ignored: the source, too,
                draws it from 2, 3 and 4 and builds the one block that there is.
            resolution: height and width of the images in pixels.

        Numbers may be numpy's; errors count the entries from 0.

        Raises:
            SpaceError: a list of another length, or an active value that the space does not have.
        """
        stages = self.config.stages
        num_blocks = sum(stage.depths[-1] for stage in stages)
        for name, values, expected in (("ks", ks, num_blocks), ("e", e, num_blocks), ("d", d, len(stages))):
            if not isinstance(values, list | tuple) or len(values) != expected:
                got = f"{len(values)}" if isinstance(values, list | tuple) else repr(values)
                raise SpaceError(
                    f"{name} needs a list of {expected} entries for space {self.space_id!r}, got {got}",
                    hint="ks and e have an entry for every block of the deepest network, d has one for every stage",
                )
        sizes = self.config.resolutions
        genes: dict[str, Value] = {RESOLUTION: sizes[position_of(RESOLUTION, resolution, sizes)]}
        entry = 0
        for number, stage in enumerate(stages):
            depth = stage.depths[0]
            if len(stage.depths) > 1:
                depth = stage.depths[position_of(f"d[{number}]", d[number], stage.depths)]
            genes[depth_gene(number)] = depth
            for block in range(depth):
                n = entry + block
                genes[block_gene(number, block, "kernel")] = stage.kernels[
                    position_of(f"ks[{n}]", ks[n], stage.kernels)
                ]
                genes[block_gene(number, block, "expand")] = stage.expands[position_of(f"e[{n}]", e[n], stage.expands)]
            entry += stage.depths[-1]
        return self.architecture(genes)

    def to_ofa(self, arch: Architecture) -> OfaLists:
        """The inverse of `from_ofa`: `space.from_ofa(**space.to_ofa(arch)) == arch`.

        Blocks that the architecture does not have get the smallest kernel and expand ratio.

        Raises:
            SpaceError: an architecture of another space.
        """
        genes = self.complete_genes(arch)
        blocks = [(n, block) for n, stage in enumerate(self.config.stages) for block in range(stage.depths[-1])]
        return OfaLists(
            ks=[int(genes[block_gene(n, block, "kernel")]) for n, block in blocks],
            e=[int(genes[block_gene(n, block, "expand")]) for n, block in blocks],
            d=[int(genes[depth_gene(n)]) for n in range(len(self.config.stages))],
            resolution=int(genes[RESOLUTION]),
        )


def _mobilenetv3(width: float) -> MBConvConfig:
    stem, *channels, head, mix = (round_channels(c * width) for c in (16, 24, 40, 80, 112, 160, 960, 1280))
    layout = zip(
        channels, (2, 2, 2, 1, 2), ("relu", "relu", "h-swish", "h-swish", "h-swish"), (False, True, False, True, True),
        strict=True,
    )  # fmt: skip
    return MBConvConfig(
        in_channels=3,
        resolutions=_RESOLUTIONS,
        stem_channels=stem,
        first_block=FirstBlock(channels=stem, activation="relu"),
        stages=tuple(
            Stage(channels=c, stride=stride, depths=_DEPTHS, activation=activation, se=se)
            for c, stride, activation, se in layout
        ),
        head_channels=head,
        mix_channels=mix,
        activation="h-swish",
        dropout=_DROPOUT,
    )


def _proxyless(width: float) -> MBConvConfig:
    stem, first, *channels, head = (round_channels(c * width) for c in (32, 16, 24, 40, 80, 96, 192, 320, 1280))
    layout = zip(channels, (2, 2, 2, 1, 2, 1), (_DEPTHS, _DEPTHS, _DEPTHS, _DEPTHS, _DEPTHS, (1,)), strict=True)
    return MBConvConfig(
        in_channels=3,
        resolutions=_RESOLUTIONS,
        stem_channels=stem,
        first_block=FirstBlock(channels=first, activation="relu6"),
        stages=tuple(
            Stage(channels=c, stride=stride, depths=depths, activation="relu6") for c, stride, depths in layout
        ),
        head_channels=head,
        activation="relu6",
        norm_eps=1e-3,
        dropout=_DROPOUT,
    )


def _factory(name: str, default: MBConvConfig) -> Callable[..., OfaMBConvSpace]:
    def build(*, resolutions: Sequence[int] = default.resolutions, in_channels: int = 3) -> OfaMBConvSpace:
        config = replace(default, resolutions=check_ascending("resolutions", resolutions), in_channels=in_channels)
        return OfaMBConvSpace(config, name=name, default=default)

    return build


SPACES: Mapping[str, Callable[..., OfaMBConvSpace]] = {
    name: _factory(name, config)
    for name, config in {
        "ofa-mobilenetv3-w1.0": _mobilenetv3(1.0),
        "ofa-mobilenetv3-w1.2": _mobilenetv3(1.2),
        "ofa-proxyless-w1.3": _proxyless(1.3),
    }.items()
}
