"""The parts of a space's networks that operator tables have entries for: stem, blocks, head, pool, classifier.

A part is what shares the first names of its operator slots ("stage1.block2" of "stage1.block2.depthwise"). It depends
on few genes; for every combination of their values it has a key that says what it computes and on which shapes, so
that equal parts at different places are one. Networks of inverted residual blocks have the keys of the once-for-all
tables ("expanded_conv-input:20x20x48-output:10x10x96-expand:144-kernel:3-stride:2-idskip:0-se:0-hs:1"), all others
name elements, multiply-accumulate operations, parameters and the part's own genes.

Letters: G genes, R combinations of a part's genes, S operator slots.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError
from predictors.operator_sums import MOST_ROWS, GeneCombinations, gene_dependencies
from predictors.prediction import FloatArray
from searchspaces import OpTable, SearchSpace
from searchspaces.architecture import Value
from searchspaces.channels import round_channels
from searchspaces.gene_names import RESOLUTION, block_gene
from searchspaces.mbconv import MBConvConfig, MBConvSpace

NO_RESOLUTION = 0
"""In place of a resolution where the space has no such choice."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """One part of all networks of a space.

    Attributes:
        name: for example "stage1.block2".
        strides_G: see `GeneCombinations`.
        genomes_RG: one canonical genome for every combination of the genes that the part depends on.
        resolutions_R: in pixels, or `NO_RESOLUTION`.
        keys: what the part is, one for every combination; None where the network lacks it.
    """

    name: str
    strides_G: FloatArray
    genomes_RG: npt.NDArray[np.int8]
    resolutions_R: npt.NDArray[np.int64]
    keys: tuple[str | None, ...]


def part_name(slot: str) -> str:
    """Name of the part that an operator slot belongs to."""
    return slot.rpartition(".")[0] or slot


@functools.lru_cache(maxsize=8)
def parts_of(space: SearchSpace, *, num_classes: int) -> tuple[Part, ...]:
    """The parts of a space's networks in the order in which they run.

    Args:
        space: the space; one object is asked once.
        num_classes: of the classifier.

    Raises:
        PredictorError: a part depends on too many genes to have a table.
    """
    table = space.op_table(space.genomes([space.smallest]), num_classes=num_classes)
    depends_SG = gene_dependencies(space, _counts)
    names = [part_name(slot) for slot in table.names]
    found = []
    for name in dict.fromkeys(names):
        slots = [s for s, other in enumerate(names) if other == name]
        # Dilations change no count, and every network has a resolution.
        genes = [
            g
            for g, gene in enumerate(space.choices)
            if depends_SG[slots, g].any() or gene.name == RESOLUTION or gene.name.startswith(f"{name}.")
        ]
        found.append(_part(space, name, slots, genes, num_classes=num_classes))
    return tuple(found)


def _part(space: SearchSpace, name: str, slots: list[int], genes: list[int], *, num_classes: int) -> Part:
    num_rows = int(np.prod([len(space.choices[gene].values) for gene in genes]))
    if num_rows > MOST_ROWS:
        raise PredictorError(
            f"part {name} of space {space.space_id} has {num_rows:,} forms, at most {MOST_ROWS:,} fit a table",
            hint="use a space with fewer values for each choice, or a predictor that is fitted to whole networks",
        )
    combined = GeneCombinations.of(space, genes)
    table = space.op_table(combined.genomes_RG, num_classes=num_classes)
    present_RS = table.present()[:, slots]
    keys: list[str | None] = []
    resolutions_R = np.full(num_rows, NO_RESOLUTION, dtype=np.int64)
    for row, entries in enumerate(combined.genomes_RG.tolist()):
        genome = {
            choice.name: choice.values[entry]
            for choice, entry in zip(space.choices, entries, strict=True)
            if entry >= 0
        }
        resolutions_R[row] = int(genome.get(RESOLUTION, NO_RESOLUTION))
        if not present_RS[row].any():
            keys.append(None)
        elif isinstance(space, MBConvSpace):
            keys.append(_ofa_key(space.config, name, genome, num_classes=num_classes))
        else:
            keys.append(_plain_key(table, row, slots, name=name, genome=genome))
    return Part(
        name=name,
        strides_G=combined.strides_G,
        genomes_RG=combined.genomes_RG,
        resolutions_R=resolutions_R,
        keys=tuple(keys),
    )


def _counts(table: OpTable) -> list[FloatArray]:
    counts = (table.present(), table.macs, table.params, table.input_elements, table.output_elements)
    return [count_NS.astype(np.float64) for count_NS in counts]


def _plain_key(table: OpTable, row: int, slots: list[int], *, name: str, genome: Mapping[str, Value]) -> str:
    there = [s for s in slots if table.output_elements[row, s] > 0]
    own = {gene.removeprefix(f"{name}."): value for gene, value in genome.items() if gene.startswith(f"{name}.")}
    described = {
        "ops": "+".join(table.kinds[s] for s in there),
        "input": int(table.input_elements[row, there[0]]),
        "output": int(table.output_elements[row, there[-1]]),
        "macs": int(table.macs[row, there].sum()),
        "params": int(table.params[row, there].sum()),
        **own,
    }
    # Blocks of one stage that compute the same are the same.
    return "-".join([name.partition(".")[0], *(f"{what}:{value}" for what, value in described.items())])


def _ofa_key(config: MBConvConfig, name: str, genome: Mapping[str, Value], *, num_classes: int) -> str:
    sizes = [-(-int(genome[RESOLUTION]) // config.stem_stride)]
    for stage in config.stages:
        sizes.append(-(-sizes[-1] // stage.stride))
    stem, head, features = config.stem_channels, config.head_channels, config.mix_channels or config.head_channels
    resolution, last = int(genome[RESOLUTION]), sizes[-1]
    single = {
        "stem": f"Conv-{_shapes(resolution, config.in_channels, sizes[0], stem)}",
        "head": f"Conv_1-{_shapes(last, config.stages[-1].channels, last, head)}",
        "pool": f"AvgPool2D-{_shapes(last, head, 1, head)}",
        "mix": f"Conv_2-{_shapes(1, head, 1, features)}",
        "classifier": f"Logits-input:1x1x{features}-output:{num_classes}",
    }
    if name in single:
        return single[name]
    if name == "first" and config.first_block is not None:
        first = config.first_block
        return _block_key(
            _shapes(sizes[0], stem, sizes[0], first.channels), hidden=stem, kernel=3, stride=1,
            shortcut=stem == first.channels, se=False, activation=first.activation,
        )  # fmt: skip
    number, block = (int(digits) - 1 for digits in re.findall(r"\d+", name))
    stage, c_in = config.stages[number], config.block_inputs(number)[block]
    return _block_key(
        _shapes(sizes[number + (block > 0)], c_in, sizes[number + 1], stage.channels),
        hidden=round_channels(c_in * int(genome[block_gene(number, block, "expand")])),
        kernel=int(genome[block_gene(number, block, "kernel")]),
        stride=stage.stride if block == 0 else 1,
        shortcut=block > 0,
        se=stage.se,
        activation=stage.activation,
    )


def _shapes(size: int, channels: int, out_size: int, out_channels: int) -> str:
    return f"input:{size}x{size}x{channels}-output:{out_size}x{out_size}x{out_channels}"


def _block_key(shapes: str, *, hidden: int, kernel: int, stride: int, shortcut: bool, se: bool, activation: str) -> str:
    return (
        f"expanded_conv-{shapes}-expand:{hidden}-kernel:{kernel}-stride:{stride}"
        f"-idskip:{shortcut:d}-se:{se:d}-hs:{activation == 'h-swish':d}"
    )
