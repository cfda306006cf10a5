"""The chain space of FBNet: 22 searched layers of nine operators, known from published latency tables; no supernet.

Structure of every network: 3x3 stem (16 channels, stride 2) -> 22 layers in seven stages -> 1x1 head -> global average
pool -> linear. A layer is "skip" or an inverted-residual block named by kernel, expand ratio and, where they are two,
groups of its 1x1 convolutions ("k5_e1_g2"). The first layer of a stage carries its stride and has no shortcut; a skip
that changes size or channels is a 1x1 convolution (Wu et al., FBNet, CVPR 2019, tables 1 and 2, arXiv 1812.03443).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture
from searchspaces.counting import add_conv, add_sum, add_tail
from searchspaces.errors import SpaceError
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import Counts, OpTable, OpTableBuilder
from searchspaces.space import SearchSpace

SKIP = "skip"
OPERATORS = (SKIP, "k3_e1_g2", "k3_e1", "k5_e1_g2", "k5_e1", "k3_e3", "k5_e3", "k3_e6", "k5_e6")

_IMAGE_SHAPE = (3, 224, 224)
_STEM_CHANNELS, _HEAD_CHANNELS = 16, 1984
# (channels, layers, stride of the first) of each stage
_STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
_KERNELS = np.array([0, 3, 3, 5, 5, 3, 5, 3, 5], dtype=np.int64)
_EXPANDS = np.array([0, 1, 1, 1, 1, 3, 3, 6, 6], dtype=np.int64)
_GROUPS = np.array([1, 2, 1, 2, 1, 1, 1, 1, 1], dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    name: str
    stage: int
    in_channels: int
    out_channels: int
    stride: int
    has_shortcut: bool


def _layers() -> tuple[_Layer, ...]:
    layers: list[_Layer] = []
    before = _STEM_CHANNELS
    for stage, (channels, num, stride) in enumerate(_STAGES):
        for position in range(num):
            layers.append(
                _Layer(
                    name=f"layer{len(layers) + 1}",
                    stage=stage,
                    in_channels=before,
                    out_channels=channels,
                    stride=stride if position == 0 else 1,
                    has_shortcut=before == channels and (stride == 1 or position > 0),
                )
            )
            before = channels
    return tuple(layers)


_LAYERS = _layers()


class FBNetSpace(SearchSpace):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__("fbnet", choices=[Choice(name=f"{layer.name}.op", values=OPERATORS) for layer in _LAYERS])

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        """(C, H, W) of the network's input, in pixels."""
        return _IMAGE_SHAPE

    def genomes_of(self, ops_NL: npt.NDArray[np.integer], *, names: tuple[str, ...]) -> Genomes:
        """Genomes of published rows.

        Args:
            ops_NL: operator of each of the 22 layers, as a position in `names`.
            names: the operators in the order of the publication.

        Raises:
            SpaceError: an operator that the space does not have, or rows of another length.
        """
        unknown = sorted(set(names) - set(OPERATORS))
        if unknown or ops_NL.ndim != 2 or ops_NL.shape[1] != len(_LAYERS):
            raise SpaceError(
                f"rows of shape {ops_NL.shape} with unknown operators {unknown}: no networks of {self.space_id!r}",
                hint=f"give (N, {len(_LAYERS)}) positions in names out of {', '.join(OPERATORS)}",
            )
        return self.canonicalise(np.array([OPERATORS.index(name) for name in names], dtype=np.int8)[ops_NL])

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 1000) -> OpTable:
        """Operators of many architectures; the classifier is counted for `num_classes`."""
        genomes_NG = self.canonicalise(genomes_NG)
        build = OpTableBuilder(len(genomes_NG), network_input_elements=int(np.prod(_IMAGE_SHAPE)))
        size_N = np.full(len(genomes_NG), _IMAGE_SHAPE[1], dtype=np.int64)
        half_N = size_N // 2
        add_conv(build, "stem", stage=-1, c_in=3, c_out=_STEM_CHANNELS, kernel=3, sizes=(size_N, half_N))
        size_N = half_N
        for layer, op_N in zip(_LAYERS, genomes_NG.T, strict=True):
            size_N = _add_layer(build, layer, op_N, size_N)
        last = _LAYERS[-1].out_channels
        add_conv(build, "head", stage=-1, c_in=last, c_out=_HEAD_CHANNELS, sizes=(size_N, size_N))
        add_tail(build, channels=_HEAD_CHANNELS, size=size_N, num_classes=num_classes)
        return build.build()


def _add_layer(build: OpTableBuilder, layer: _Layer, op_N: npt.NDArray[np.int8], size_N: Counts) -> Counts:
    """Add what the operators of a layer consist of; returns the size of its output."""
    c_in, c_out, out_N, before = layer.in_channels, layer.out_channels, size_N // layer.stride, build.latest
    is_block_N = op_N != OPERATORS.index(SKIP)
    hidden_N = c_in * _EXPANDS[op_N]
    if not layer.has_shortcut:
        add_conv(
            build, f"{layer.name}.skip", stage=layer.stage, c_in=c_in, c_out=c_out, sizes=(size_N, out_N),
            present=~is_block_N,
        )  # fmt: skip
    _add_grouped(build, f"{layer.name}.expand", layer, (c_in, hidden_N), size_N, op_N)
    add_conv(
        build, f"{layer.name}.depthwise", stage=layer.stage, c_in=hidden_N, c_out=hidden_N, kernel=_KERNELS[op_N],
        sizes=(size_N, out_N), present=is_block_N, depthwise=True,
    )  # fmt: skip
    _add_grouped(build, f"{layer.name}.project", layer, (hidden_N, c_out), out_N, op_N)
    if layer.has_shortcut:
        add_sum(
            build, f"{layer.name}.add", stage=layer.stage, channels=c_out, size=out_N, present=is_block_N,
            reads=[build.latest, before],
        )  # fmt: skip
    return out_N


def _add_grouped(
    build: OpTableBuilder,
    name: str,
    layer: _Layer,
    channels: tuple[Counts | int, Counts | int],
    size_N: Counts,
    op_N: npt.NDArray[np.int8],
) -> None:
    """Add a 1x1 convolution in the groups of the layer's operator."""
    c_in, c_out = channels
    weights = c_in * c_out // _GROUPS[op_N]
    build.add(
        name, kind="conv", stage=layer.stage, macs=weights * size_N**2, params=weights + 2 * c_out,
        input_elements=c_in * size_N**2, output_elements=c_out * size_N**2, present=op_N != OPERATORS.index(SKIP),
    )  # fmt: skip


def fbnet() -> FBNetSpace:
    """The space of FBNet; see the module's text."""
    return FBNetSpace()


SPACES: Mapping[str, Callable[..., SearchSpace]] = {"fbnet": fbnet}
