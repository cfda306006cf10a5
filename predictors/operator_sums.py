"""Sums over the operators of many architectures, from tables of parts instead of from every operator of every one.

An operator depends on few genes: one in a block of a stage on the resolution, on whether its block is there, on kernel
and expand ratio. Which ones is found out by changing every gene of some architectures and looking at what changes.
Operators are grouped by these genes, every combination of a group's genes is computed once, and the sums of an
architecture are then sums of a few rows. What was found is checked on other architectures; where it does not hold, or
the tables would be large, sums are taken over the operators themselves.

Letters: N architectures, S operator slots, G genes, C columns.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.prediction import FloatArray
from searchspaces import OpTable, SearchSpace

# What every slot adds, one array (N, S) for each quantity.
Quantities = Callable[[OpTable], Sequence[FloatArray]]

# Architectures whose genes are changed: some dependencies show in few of them.
_FEWEST_PROBES, _MOST_PROBES = 48, 512
_CHANGES = 16_384
_NUM_CHECKS = 256
MOST_ROWS = 65_536
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatorGroup:
    """Slots that depend on the same genes.

    Attributes:
        genes: their positions; a row of `table` is a combination of their values, the last gene changing fastest.
        strides_G: a row of `table` is the sum of entry * stride over all genes.
        columns: which of all columns the table has; the others are zero.
        table: (rows, its columns).
    """

    genes: npt.NDArray[np.intp]
    strides_G: FloatArray
    columns: npt.NDArray[np.intp]
    table: FloatArray

    def rows(self, number_N: npt.NDArray[np.intp]) -> FloatArray:
        """What its slots add up to, (N, its columns)."""
        # "clip" leaves out a check of every row; all are inside.
        picked: FloatArray = self.table.take(number_N, axis=0, mode="clip")
        return picked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneCombinations:
    """All combinations of the values of some genes, the last gene changing fastest.

    Attributes:
        genes: their positions, ascending.
        strides_G: the number of a combination is the sum of entry * stride over all genes.
        genomes_RG: canonical genomes that have them, the other genes at their first value.
    """

    genes: npt.NDArray[np.intp]
    strides_G: FloatArray
    genomes_RG: npt.NDArray[np.int8]

    @classmethod
    def of(cls, space: SearchSpace, genes: Sequence[int]) -> "GeneCombinations":
        """The combinations of the genes at these positions, ascending."""
        positions = np.array(genes, dtype=np.intp)
        limits = [len(space.choices[gene].values) for gene in genes]
        strides_G = np.zeros(len(space.choices))
        strides_G[positions] = [float(math.prod(limits[n + 1 :])) for n in range(len(limits))]
        combinations = np.array(list(itertools.product(*(range(limit) for limit in limits))), dtype=np.int8)
        raw_RG = np.zeros((len(combinations), len(space.choices)), dtype=np.int8)
        raw_RG[:, positions] = combinations
        return cls(genes=positions, strides_G=strides_G, genomes_RG=space.canonicalise(raw_RG))


def row_numbers(strides_KG: FloatArray, genomes_NG: npt.NDArray[np.int8]) -> npt.NDArray[np.intp]:
    """Which combination of each of K sets of genes N canonical genomes have, (K, N)."""
    # What an inactive gene is does not matter, so its first value stands for it.
    entries_NG = np.maximum(genomes_NG, 0).astype(np.float64)
    # Products of small integers: exact, and much faster than numpy's product of integers.
    number_KN: npt.NDArray[np.intp] = (strides_KG @ entries_NG.T).astype(np.intp)
    return number_KN


class OperatorSums:
    """Sums of some columns over the operators of a space's architectures.

    Args:
        space: the architectures' space.
        quantities: what is summed.
        members: for each quantity (S, columns): 1.0 where a slot counts for a column.
    """

    def __init__(self, space: SearchSpace, quantities: Quantities, *, members: Sequence[FloatArray]) -> None:
        self._space, self._quantities, self._members = space, quantities, members
        self._groups = self._find_groups()
        if self._groups:
            checks_NG = space.sample_many(_NUM_CHECKS, np.random.default_rng(1))
            # Equal but for the order in which floating-point numbers are added.
            if not np.allclose(self._from_tables(checks_NG), self._directly(checks_NG), rtol=1e-9, atol=1e-6):
                self._groups = ()

    @property
    def groups(self) -> tuple[OperatorGroup, ...]:
        """The tables; none if sums are taken over the operators themselves."""
        return self._groups

    @property
    def num_tables(self) -> int:
        """How many tables of parts there are; 0 if sums are taken over the operators themselves."""
        return len(self._groups)

    def of(self, genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
        """Sums (N, C) of canonical genomes."""
        return _in_pieces(self._from_tables if self._groups else self._directly, genomes_NG)

    def _directly(self, genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
        return self._sum_of(genomes_NG, slots=np.arange(len(self._members[0])))

    def _sum_of(self, genomes_NG: npt.NDArray[np.int8], *, slots: npt.NDArray[np.intp]) -> FloatArray:
        added = self._quantities(self._space.op_table(genomes_NG))
        parts = [added_NS[:, slots] @ member[slots] for added_NS, member in zip(added, self._members, strict=True)]
        return np.concatenate(parts, axis=1)

    def _from_tables(self, genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
        number_KN = row_numbers(np.stack([group.strides_G for group in self._groups]), genomes_NG)
        numbers = {id(group): number_N for group, number_N in zip(self._groups, number_KN, strict=True)}
        sums_NC = np.zeros((len(genomes_NG), sum(member.shape[1] for member in self._members)))
        for columns, groups in itertools.groupby(self._groups, key=lambda group: group.columns.tobytes()):
            alike = list(groups)
            sums_NC[:, np.frombuffer(columns, dtype=np.intp)] += functools.reduce(
                np.add, (group.rows(numbers[id(group)]) for group in alike)
            )
        return sums_NC

    def _find_groups(self) -> tuple[OperatorGroup, ...]:
        members = _merge(gene_dependencies(self._space, self._quantities))
        sizes = [math.prod(len(self._space.choices[gene].values) for gene in genes) for genes in members]
        if sum(sizes) > MOST_ROWS:
            return ()
        groups = []
        for genes, slots in members.items():
            combined = GeneCombinations.of(self._space, sorted(genes))
            add = functools.partial(self._sum_of, slots=np.array(slots, dtype=np.intp))
            table = _in_pieces(add, combined.genomes_RG)
            used = np.flatnonzero((table != 0).any(axis=0))
            groups.append(
                OperatorGroup(
                    genes=combined.genes,
                    strides_G=combined.strides_G,
                    columns=used,
                    table=np.ascontiguousarray(table[:, used]),
                )
            )
        return tuple(sorted(groups, key=lambda group: group.columns.tobytes()))


def _in_pieces(add: Callable[..., FloatArray], genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
    starts = range(0, max(len(genomes_NG), 1), _ROWS_AT_ONCE)
    return np.concatenate([add(genomes_NG[start : start + _ROWS_AT_ONCE]) for start in starts])


def gene_dependencies(space: SearchSpace, quantities: Quantities) -> npt.NDArray[np.bool_]:
    """(S, G): whether what a slot adds changes with a gene."""
    rng = np.random.default_rng(0)
    cardinalities = [len(choice.values) for choice in space.choices]
    num_probes = int(np.clip(_CHANGES // sum(cardinalities), _FEWEST_PROBES, _MOST_PROBES))
    raw_NG = np.stack([rng.integers(0, num, num_probes) for num in cardinalities], axis=1).astype(np.int8)
    before = quantities(space.op_table(space.canonicalise(raw_NG)))
    found = np.zeros((before[0].shape[1], len(cardinalities)), dtype=np.bool_)
    changes = [(gene, value) for gene, num in enumerate(cardinalities) for value in range(num)]
    # Many changes at once: calls cost more than rows.
    num_at_once = max(_ROWS_AT_ONCE // num_probes, 1)
    for start in range(0, len(changes), num_at_once):
        some = changes[start : start + num_at_once]
        changed_KPG = np.repeat(raw_NG[None], len(some), axis=0)
        for changed_PG, (gene, value) in zip(changed_KPG, some, strict=True):
            changed_PG[:, gene] = value
        after = quantities(space.op_table(space.canonicalise(changed_KPG.reshape(-1, len(cardinalities)))))
        for before_PS, after_NS in zip(before, after, strict=True):
            differs_KS = (after_NS.reshape(len(some), *before_PS.shape) != before_PS).any(axis=1)
            for differs_S, (gene, _) in zip(differs_KS, some, strict=True):
                found[:, gene] |= differs_S
    return found


def _merge(depends_SG: npt.NDArray[np.bool_]) -> dict[frozenset[int], list[int]]:
    """Slots by the genes they depend on; those whose genes another group has as well join it."""
    by_genes: dict[frozenset[int], list[int]] = {}
    for slot, depends_G in enumerate(depends_SG):
        by_genes.setdefault(frozenset(np.flatnonzero(depends_G).tolist()), []).append(slot)
    merged: dict[frozenset[int], list[int]] = {}
    for genes in sorted(by_genes, key=len, reverse=True):
        home = next((wider for wider in merged if genes <= wider), genes)
        merged.setdefault(home, []).extend(by_genes[genes])
    return merged
