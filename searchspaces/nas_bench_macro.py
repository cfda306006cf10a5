"""The chain space of NAS-Bench-Macro, whose 6,561 networks others have trained on CIFAR-10; it can be trained, too.

Structure of every network: 3x3 stem (stride 1) -> eight searched layers in three stages of 2, 3 and 3 -> 1x1 head ->
global average pool -> linear. Each layer is an identity or an inverted-residual (MBConv) block of expand ratio 3 and
kernel 3 or expand ratio 6 and kernel 5. The first layer of a stage halves the image and doubles the channels (32 to
64, 128, 256); there an identity is a 1x1 convolution with stride and batch normalisation, and a block has no shortcut
(Su et al., Prioritized Architecture Sampling with Monto-Carlo Tree Search, CVPR 2021; public code NAS-Bench-Macro).
With the default settings parameters and MACs of all 6,561 networks equal the published `params` and `flops`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture, Value
from searchspaces.channels import round_channels
from searchspaces.counting import add_conv, add_sum, add_tail, halved
from searchspaces.errors import SpaceError
from searchspaces.gene_names import RESOLUTION
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import Counts, OpTable, OpTableBuilder
from searchspaces.settings import check_positive, checked_resolutions, checked_width, identity
from searchspaces.space import SearchSpace

if TYPE_CHECKING:
    from searchspaces.elastic.macro import MacroSupernet

IDENTITY = "identity"
OPERATORS = (IDENTITY, "mbconv-e3-k3", "mbconv-e6-k5")
EXPANDS = {"mbconv-e3-k3": 3, "mbconv-e6-k5": 6}
KERNELS = {"mbconv-e3-k3": 3, "mbconv-e6-k5": 5}

_STAGE_LAYERS = (2, 3, 3)
_STEM_CHANNELS = 32
_STAGE_CHANNELS = (64, 128, 256)
_HEAD_CHANNELS = 1280
_TOTAL_STRIDE = 2 ** len(_STAGE_LAYERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MacroLayer:
    """One searched layer.

    Attributes:
        name: for example "layer3", counted from 1.
        stage: its stage, from 0.
        in_channels, out_channels: channels that it reads and makes.
        stride: 2 in the first layer of a stage, otherwise 1.
    """

    name: str
    stage: int
    in_channels: int
    out_channels: int
    stride: int

    @property
    def gene(self) -> str:
        """Name of the operator gene."""
        return f"{self.name}.op"


@dataclass(frozen=True, slots=True, kw_only=True)
class MacroConfig:
    """What can be set; the default is the published space.

    Attributes:
        in_channels: channels of the images.
        resolutions: allowed input sizes in pixels, ascending.
        width: multiplier of all channel numbers, which are then rounded to multiples of 8.
    """

    in_channels: int = 3
    resolutions: tuple[int, ...] = (32,)
    width: float = 1.0

    def __post_init__(self) -> None:
        check_positive("in_channels", self.in_channels)
        checked_width(self.width)
        checked_resolutions(self.resolutions, total_stride=_TOTAL_STRIDE)

    @property
    def stem_channels(self) -> int:
        """Channels that leave the stem."""
        return round_channels(_STEM_CHANNELS * self.width)

    @property
    def head_channels(self) -> int:
        """Channels before the classifier."""
        return round_channels(_HEAD_CHANNELS * self.width)

    @property
    def layers(self) -> tuple[MacroLayer, ...]:
        """The searched layers in order."""
        layers: list[MacroLayer] = []
        c_in = self.stem_channels
        for stage, (num_layers, channels) in enumerate(zip(_STAGE_LAYERS, _STAGE_CHANNELS, strict=True)):
            for position in range(num_layers):
                layer = MacroLayer(
                    name=f"layer{len(layers) + 1}",
                    stage=stage,
                    in_channels=c_in,
                    out_channels=round_channels(channels * self.width),
                    stride=2 if position == 0 else 1,
                )
                layers.append(layer)
                c_in = layer.out_channels
        return tuple(layers)


class NASBenchMacroSpace(SearchSpace):
    """The space that a `MacroConfig` describes."""

    def __init__(self, config: MacroConfig) -> None:
        self.config = config
        super().__init__(
            identity("nas-bench-macro", config, default=MacroConfig()),
            choices=[
                Choice(name=RESOLUTION, values=config.resolutions),
                *(Choice(name=layer.gene, values=OPERATORS) for layer in config.layers),
            ],
            weights_id=identity("nas-bench-macro", config, default=MacroConfig(), ignoring=("resolutions",)),
        )

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        """(C, H, W) of the network's input, in pixels."""
        return self.config.in_channels, int(arch[RESOLUTION]), int(arch[RESOLUTION])

    def build_supernet(self, *, num_classes: int) -> "MacroSupernet":
        """Build the supernet (imports torch)."""
        from searchspaces.elastic.macro import MacroSupernet

        return MacroSupernet(self, num_classes=num_classes)

    def from_key(self, key: str, *, resolution: int | None = None) -> Architecture:
        """The architecture of a published key.

        Args:
            key: one digit a layer, for example "00112200"; 0 identity, 1 MBConv e3 k3, 2 MBConv e6 k5.
            resolution: input size in pixels; the largest allowed one if None.

        Raises:
            SpaceError: the key has another form, or the resolution is not allowed.
        """
        layers = self.config.layers
        if len(key) != len(layers) or not set(key) <= set("012"):
            raise SpaceError(
                f"{key!r} is no key of {self.space_id!r}: expected {len(layers)} digits of 0, 1 and 2",
                hint="one digit a layer, for example 00112200",
            )
        genes: dict[str, Value] = {layer.gene: OPERATORS[int(digit)] for layer, digit in zip(layers, key, strict=True)}
        genes[RESOLUTION] = self.config.resolutions[-1] if resolution is None else resolution
        return self.architecture(genes)

    def to_key(self, arch: Architecture) -> str:
        """The published key; it does not tell the resolution.

        Raises:
            SpaceError: an architecture of another space.
        """
        self.validate(arch)
        return "".join(str(OPERATORS.index(str(arch[layer.gene]))) for layer in self.config.layers)

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        """Operators of many architectures; the classifier is counted for `num_classes`."""
        config, genomes_NG = self.config, self.canonicalise(genomes_NG)
        position = {choice.name: genomes_NG[:, g] for g, choice in enumerate(self.choices)}
        size_N = np.array(config.resolutions, dtype=np.int64)[position[RESOLUTION]]
        build = OpTableBuilder(len(genomes_NG), network_input_elements=config.in_channels * size_N**2)
        stem = config.stem_channels
        add_conv(build, "stem", stage=-1, c_in=config.in_channels, c_out=stem, kernel=3, sizes=(size_N, size_N))
        for layer in config.layers:
            size_N = _add_layer(build, layer, position[layer.gene], size_N)
        last, head = config.layers[-1].out_channels, config.head_channels
        add_conv(build, "head", stage=-1, c_in=last, c_out=head, sizes=(size_N, size_N))
        add_tail(build, channels=head, size=size_N, num_classes=num_classes)
        return build.build()


def _add_layer(build: OpTableBuilder, layer: MacroLayer, op_N: npt.NDArray[np.int8], size_N: Counts) -> Counts:
    """Add what the operators of a layer consist of; returns the size of its output."""
    c_in, c_out, name, stage = layer.in_channels, layer.out_channels, layer.name, layer.stage
    hidden_N = c_in * np.array([EXPANDS.get(op, 0) for op in OPERATORS], dtype=np.int64)[op_N]
    kernel_N = np.array([KERNELS.get(op, 0) for op in OPERATORS], dtype=np.int64)[op_N]
    is_block_N = op_N != OPERATORS.index(IDENTITY)
    out_N = halved(size_N) if layer.stride == 2 else size_N
    before = build.latest
    if layer.stride == 2:
        add_conv(
            build,
            f"{name}.downsample",
            stage=stage,
            c_in=c_in,
            c_out=c_out,
            sizes=(size_N, out_N),
            present=~is_block_N,
        )
    for part, part_in, part_out, kernel, sizes in (
        ("expand", c_in, hidden_N, 1, (size_N, size_N)),
        ("depthwise", hidden_N, hidden_N, kernel_N, (size_N, out_N)),
        ("project", hidden_N, c_out, 1, (out_N, out_N)),
    ):
        add_conv(
            build,
            f"{name}.{part}",
            stage=stage,
            c_in=part_in,
            c_out=part_out,
            kernel=kernel,
            sizes=sizes,
            present=is_block_N,
            depthwise=part == "depthwise",
        )
    if layer.stride == 1:
        reads = [build.latest, before]
        add_sum(build, f"{name}.add", stage=stage, channels=c_out, size=out_N, present=is_block_N, reads=reads)
    return out_N


def nas_bench_macro(
    *, resolutions: Sequence[int] = MacroConfig().resolutions, width: float = 1.0, in_channels: int = 3
) -> NASBenchMacroSpace:
    """The space of NAS-Bench-Macro; see the module's text.

    Args:
        resolutions: allowed input sizes in pixels, ascending, at least 9; published is 32 alone.
        width: multiplier of all channel numbers, which are then rounded to multiples of 8; published is 1.
        in_channels: channels of the images.

    Raises:
        SpaceError: settings that do not fit.
    """
    return NASBenchMacroSpace(
        MacroConfig(
            in_channels=in_channels,
            resolutions=checked_resolutions(resolutions, total_stride=_TOTAL_STRIDE),
            width=checked_width(width),
        )
    )


SPACES: Mapping[str, Callable[..., SearchSpace]] = {"nas-bench-macro": nas_bench_macro}
