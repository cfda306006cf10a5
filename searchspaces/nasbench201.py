"""The cell space of NAS-Bench-201, whose 15,625 networks others have trained and measured.

A cell has four nodes; each of the six edges between them carries one of five operators. The edges are numbered as in
the arch string `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`: edge 0 is 0 -> 1, then 0 -> 2, 1 -> 2, 0 -> 3, 1 -> 3, 2 -> 3
(Dong and Yang, NAS-Bench-201, ICLR 2020). The space serves published tables; it has no supernet.

Costs are those of the CIFAR-10 skeleton: 3x3 stem to 16 channels; three stages of five cells with 16, 32 and 64
channels at 32, 16 and 8 pixels; a residual block with stride 2 between stages, whose shortcut is an average pool and a
1x1 convolution without normalisation; batch normalisation and ReLU (counted with the pool), global average pool,
linear. Every operator is counted, also in nodes from which no path leads to the output, since the published networks
compute those too. A node in which only "none" ends is a map of zeros: a sum of no terms, written where an operator or
another node reads it. The published extremes agree: 0.073306 and 1.531546 million parameters, and 7.78305 and 220.11969
million FLOPs, which are MACs plus one for each bias of the classifier.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture, Value
from searchspaces.counting import add_conv, add_pool, add_sum, add_tail
from searchspaces.errors import SpaceError
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import NOTHING, Counts, OpTable, OpTableBuilder, Slots
from searchspaces.space import SearchSpace

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
_NODES = 4

_BY_COST = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
# From the input to the output, as edges, the longest last.
_PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
_LONGEST = len(_PATHS[-1])
# What is no skip on a path, as digits of a number: these have a digit for every operator.
_DIGITS = len(_BY_COST) - 1
_SEQUENCES = tuple(
    sum(digit * _DIGITS**place for place, digit in enumerate(digits))
    for length in range(_LONGEST + 1)
    for digits in itertools.product(range(1, _DIGITS), repeat=length)
)
_IMAGE_SHAPE = (3, 32, 32)
_CHANNELS = (16, 32, 64)
_CELLS = 5
_TERM = re.compile(r"([a-z0-9_]+)~([0-9])")
_EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


def edge_gene(edge: int) -> str:
    """Name of the operator gene of edge 0 ... 5."""
    return f"edge{edge}.op"


class NASBench201Space(SearchSpace):
    """Six edges, five operators; see the module's text."""

    def __init__(self) -> None:
        super().__init__(
            "nasbench201", choices=[Choice(name=edge_gene(edge), values=_BY_COST) for edge in range(len(EDGES))]
        )

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        """(3, 32, 32): the images of CIFAR-10."""
        return _IMAGE_SHAPE

    def from_ops(self, ops: Sequence[str | int]) -> Architecture:
        """The architecture with these operators, one an edge.

        Args:
            ops: names, or positions in `OPERATORS` (the official numbers).

        Raises:
            SpaceError: not six, or an unknown operator.
        """
        if len(ops) != len(EDGES):
            raise SpaceError(f"a cell has {len(EDGES)} edges, got {len(ops)} operators", hint="give one for each edge")
        return self.architecture({edge_gene(edge): _operator(edge, op) for edge, op in enumerate(ops)})

    def to_ops(self, arch: Architecture) -> tuple[str, ...]:
        """Names of the operators, one an edge.

        Raises:
            SpaceError: an architecture of another space.
        """
        self.validate(arch)
        return tuple(str(arch[edge_gene(edge)]) for edge in range(len(EDGES)))

    def from_string(self, text: str) -> Architecture:
        """The architecture of an official arch string, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

        Raises:
            SpaceError: the text has another form, or an unknown operator.
        """
        terms = _TERM.findall(text)
        if text != _arch_string([op for op, _ in terms]):
            raise SpaceError(f"{text!r} is no NAS-Bench-201 arch string", hint=f"it looks like {_EXAMPLE}")
        return self.from_ops([op for op, _ in terms])

    def to_string(self, arch: Architecture) -> str:
        """The official arch string.

        Raises:
            SpaceError: an architecture of another space.
        """
        return _arch_string(self.to_ops(arch))

    def functional(self, genomes_NG: Genomes) -> Genomes:
        """Genomes with "none" on every edge that lies on no path from the input to the output."""
        genomes_NG = self.canonicalise(genomes_NG)
        none = _BY_COST.index("none")
        used_NE = np.asarray(genomes_NG != none)
        # Edges are listed by the node in which they end, so one pass in this order, and one backwards, is enough.
        reached_VN = np.zeros((_NODES, len(genomes_NG)), dtype=np.bool_)
        needed_VN = np.zeros_like(reached_VN)
        reached_VN[0] = needed_VN[_NODES - 1] = True
        for edge, (source, target) in enumerate(EDGES):
            reached_VN[target] |= reached_VN[source] & used_NE[:, edge]
        for edge, (source, target) in reversed(list(enumerate(EDGES))):
            needed_VN[source] |= needed_VN[target] & used_NE[:, edge]
        live_NE = np.stack([reached_VN[source] & needed_VN[target] for source, target in EDGES], axis=1)
        return np.where(live_NE, genomes_NG, none).astype(np.int8)

    def path_features(self, genomes_NG: Genomes) -> Mapping[str, npt.NDArray[np.float64]]:
        """Which paths lead from the input to the output, and how many convolutions lie on them.

        Returns:
            paths: (N, 40), 1.0 for each sequence of operators, skips left out, that some path has (cells encoded by
                their paths: White, Neiswanger, Savani, BANANAS, AAAI 2021, section 4).
            depths: (N, 13): the number of paths with 0 ... 3 convolutions; how many the deepest path has, one-hot; and
                the shallowest, one-hot, behind "no path at all".
        """
        op_NE = self.canonicalise(genomes_NG).astype(np.intp)
        skip, convolution = _BY_COST.index("skip_connect"), _BY_COST.index("nor_conv_1x1")
        is_open_NP = np.stack([(op_NE[:, path] >= skip).all(axis=1) for path in _PATHS], axis=1)
        sequence_NP = np.zeros(is_open_NP.shape, dtype=np.intp)
        depth_NP = np.zeros_like(sequence_NP)
        for p, path in enumerate(_PATHS):
            for edge in path:
                digit_N = np.maximum(op_NE[:, edge] - skip, 0)
                sequence_NP[:, p] = np.where(digit_N > 0, sequence_NP[:, p] * _DIGITS + digit_N, sequence_NP[:, p])
                depth_NP[:, p] += op_NE[:, edge] >= convolution
        has_NC = (is_open_NP[:, :, None] & (sequence_NP[:, :, None] == np.array(_SEQUENCES))).any(axis=1)
        depths = np.arange(_LONGEST + 1)
        deepest_N = np.where(is_open_NP, depth_NP, 0).max(axis=1)
        shallowest_N = np.where(is_open_NP, depth_NP, _LONGEST + 1).min(axis=1)
        return {
            "paths": has_NC.astype(np.float64),
            "depths": np.concatenate(
                [
                    (is_open_NP[:, :, None] & (depth_NP[:, :, None] == depths)).sum(axis=1),
                    deepest_N[:, None] == depths,
                    ~is_open_NP.any(axis=1, keepdims=True),
                    shallowest_N[:, None] == depths,
                ],
                axis=1,
            ).astype(np.float64),
        }

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        """Operators of many architectures; the classifier is counted for `num_classes`."""
        genomes_NG = self.canonicalise(genomes_NG)
        build = OpTableBuilder(len(genomes_NG), network_input_elements=math.prod(_IMAGE_SHAPE))
        size_N = np.full(len(genomes_NG), _IMAGE_SHAPE[1], dtype=np.int64)
        add_conv(build, "stem", stage=-1, c_in=_IMAGE_SHAPE[0], c_out=_CHANNELS[0], kernel=3, sizes=(size_N, size_N))
        for stage, channels in enumerate(_CHANNELS):
            if stage > 0:
                size_N = _add_reduction(build, f"reduction{stage}", channels=channels, size_N=size_N)
            for cell in range(_CELLS):
                _add_cell(build, f"stage{stage + 1}.cell{cell + 1}", stage, genomes_NG, channels, size_N)
        add_tail(build, channels=_CHANNELS[-1], size=size_N, num_classes=num_classes, norm=True)
        return build.build()


def _operator(edge: int, op: object) -> Value:
    if isinstance(op, str) and op in OPERATORS:
        return op
    if isinstance(op, int | np.integer) and not isinstance(op, bool) and 0 <= op < len(OPERATORS):
        return OPERATORS[int(op)]
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(OPERATORS))
    raise SpaceError(f"edge {edge} has operator {op!r}", hint=f"the operators are: {numbered}")


def _arch_string(ops: Sequence[str]) -> str:
    nodes = [
        "|" + "".join(f"{op}~{source}|" for op, (source, target) in zip(ops, EDGES, strict=False) if target == node)
        for node in (1, 2, 3)
    ]
    return "+".join(nodes)


def _add_cell(build: OpTableBuilder, name: str, stage: int, genomes_NG: Genomes, channels: int, size_N: Counts) -> None:
    """Add the operators of a cell and the sums in its nodes; "none" and "skip_connect" compute nothing."""
    sizes = (size_N, size_N)
    used_NE = genomes_NG != _BY_COST.index("none")
    nodes = [build.latest]
    for node in (1, 2, 3):
        incoming = [edge for edge, (_, target) in enumerate(EDGES) if target == node]
        terms: list[Slots] = []
        for edge in incoming:
            op_N = genomes_NG[:, edge]
            kernel_N = np.where(op_N == _BY_COST.index("nor_conv_3x3"), 3, 1).astype(np.int64)
            add_conv(
                build,
                f"{name}.edge{edge}.conv",
                stage=stage,
                c_in=channels,
                c_out=channels,
                kernel=kernel_N,
                sizes=sizes,
                present=op_N >= _BY_COST.index("nor_conv_1x1"),
                reads=[nodes[EDGES[edge][0]]],
            )
            is_pool_N = op_N == _BY_COST.index("avg_pool_3x3")
            add_pool(build, f"{name}.edge{edge}.pool", stage=stage, channels=channels, sizes=sizes, present=is_pool_N)
            terms.append(np.where(used_NE[:, edge], build.latest, NOTHING).astype(np.int32))
        outgoing = [edge for edge, (source, _) in enumerate(EDGES) if source == node]
        is_read_N = used_NE[:, outgoing].any(axis=1) if outgoing else np.True_
        num_terms_N = used_NE[:, incoming].sum(axis=1)
        add_sum(
            build,
            f"{name}.node{node}.add",
            stage=stage,
            channels=channels,
            size=size_N,
            terms=num_terms_N,
            present=(num_terms_N > 1) | ((num_terms_N == 0) & is_read_N),
            reads=terms,
        )
        nodes.append(build.latest)


def _add_reduction(build: OpTableBuilder, name: str, *, channels: int, size_N: Counts) -> Counts:
    """Add the residual block that halves the image and doubles the channels; returns the new size."""
    half_N, before, cell = size_N // 2, channels // 2, build.latest
    add_conv(build, f"{name}.conv1", stage=-1, c_in=before, c_out=channels, kernel=3, sizes=(size_N, half_N))
    body = add_conv(build, f"{name}.conv2", stage=-1, c_in=channels, c_out=channels, kernel=3, sizes=(half_N, half_N))
    add_pool(build, f"{name}.shortcut_pool", stage=-1, channels=before, sizes=(size_N, half_N), reads=[cell])
    shortcut = add_conv(
        build, f"{name}.shortcut_conv", stage=-1, c_in=before, c_out=channels, sizes=(half_N, half_N), norm=False
    )
    add_sum(build, f"{name}.add", stage=-1, channels=channels, size=half_N, reads=[body, shortcut])
    return half_N


def nasbench201() -> NASBench201Space:
    """The space of NAS-Bench-201; see the module's text."""
    return NASBench201Space()


SPACES: Mapping[str, Callable[..., SearchSpace]] = {"nasbench201": nasbench201}
