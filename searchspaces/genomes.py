"""Architectures in bulk: integer arrays with one row an architecture and one column a choice.

Letters: N architectures, G choices, F features. A genome entry is the position of the value among the allowed ones,
or -1 where the choice is inactive.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Value
from searchspaces.errors import SpaceError
from searchspaces.settings import shortened

Genomes = npt.NDArray[np.int8]

_MOST_VALUES = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One named decision.

    Attributes:
        name: gene name, for example "stage1.block2.kernel".
        values: allowed values, smallest network first.
        parent: an earlier choice that this one depends on, or None when it is always active.
        parent_values: the choice is active when the parent is active and has one of these values.
    """

    name: str
    values: tuple[Value, ...]
    parent: str | None = None
    parent_values: tuple[Value, ...] = ()

    @property
    def kind(self) -> str:
        """What is decided: the last part of the name, for example "kernel", "expand", "depth" or "resolution"."""
        return self.name.rpartition(".")[2]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values) or len(self.values) > _MOST_VALUES:
            got = shortened(self.values) or "none"
            raise SpaceError(
                f"choice {self.name!r} needs 1 to {_MOST_VALUES} distinct values, got {got}",
                hint=f"list at most {_MOST_VALUES} values, each once, smallest network first",
            )
        if (self.parent is None) != (not self.parent_values):
            raise SpaceError(
                f"choice {self.name!r}: parent={self.parent!r} and parent_values={self.parent_values!r} go together",
                hint="give both or neither",
            )


def unique_genomes(genomes_NG: Genomes) -> Genomes:
    """Each row once, in the order of `np.unique(genomes_NG, axis=0)`, which takes nine times as long."""
    # No entry is below -1, so the bytes of what is one larger are in the order of the entries.
    text_N = np.ascontiguousarray(genomes_NG + np.int8(1)).view(f"S{genomes_NG.shape[1]}").ravel()
    return genomes_NG[np.unique(text_N, return_index=True)[1]]


class GenomeAlgebra:
    """Sampling, variation and encoding of genomes of one list of choices; pure functions of their arguments."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = tuple(choices)
        position = {choice.name: g for g, choice in enumerate(self._choices)}
        if len(position) != len(self._choices):
            raise SpaceError("two choices have the same name", hint="rename one of them")
        self._cardinality_G = np.array([len(choice.values) for choice in self._choices], dtype=np.int8)
        self._parent_G: list[int | None] = []
        self._parent_indices: list[list[int]] = []
        # By the parent's position, whether a choice is active; the last entry is for a parent that is not (-1).
        self._opens: list[npt.NDArray[np.bool_]] = []
        for g, choice in enumerate(self._choices):
            parent = None if choice.parent is None else position.get(choice.parent)
            if choice.parent is not None and (parent is None or parent >= g):
                raise SpaceError(
                    f"choice {choice.name!r} depends on {choice.parent!r}, which does not come before it",
                    hint="list a choice after the choice that it depends on",
                )
            self._parent_G.append(parent)
            indices = []
            for value in choice.parent_values:
                allowed = () if parent is None else self._choices[parent].values
                if value not in allowed:
                    raise SpaceError(
                        f"choice {choice.name!r} asks for {choice.parent}={value!r}, allowed are {list(allowed)}",
                        hint="use values that the parent can take",
                    )
                indices.append(allowed.index(value))
            self._parent_indices.append(indices)
            opens = np.zeros(0 if parent is None else len(self._choices[parent].values) + 1, dtype=np.bool_)
            opens[indices] = True
            self._opens.append(opens)

    def size(self) -> int:
        """Exact number of distinct architectures.

        Every choice has at most one parent, so the choices form a forest: a choice offers, summed over its values,
        the product of what its active children offer.
        """
        children: dict[int | None, list[int]] = {}
        for g, parent in enumerate(self._parent_G):
            children.setdefault(parent, []).append(g)
        offers: dict[int, int] = {}
        for g in range(len(self._choices) - 1, -1, -1):
            total = 0
            for value in range(int(self._cardinality_G[g])):
                product = 1
                for child in children.get(g, []):
                    if value in self._parent_indices[child]:
                        product *= offers[child]
                total += product
            offers[g] = total
        size = 1
        for root in children.get(None, []):
            size *= offers[root]
        return size

    def _active(self, genomes_NG: Genomes, g: int) -> npt.NDArray[np.bool_]:
        """Which rows have choice `g` active; columns before `g` must be final."""
        parent = self._parent_G[g]
        if parent is None:
            return np.ones(len(genomes_NG), dtype=np.bool_)
        active_N: npt.NDArray[np.bool_] = self._opens[g][genomes_NG[:, parent]]
        return active_N

    def check(self, genomes_NG: Genomes) -> None:
        """Refuse an array of the wrong type or shape, or entries outside the choices.

        Raises:
            SpaceError: names the choice, the entry and the allowed range.
        """
        if genomes_NG.dtype != np.int8 or genomes_NG.ndim != 2 or genomes_NG.shape[1] != len(self._choices):
            raise SpaceError(
                f"genomes must be int8 of shape (N, {len(self._choices)}), got {genomes_NG.dtype} {genomes_NG.shape}",
                hint="make them with `space.genomes(architectures)` or `space.sample_many(n, rng)`",
            )
        bad = (genomes_NG < -1) | (genomes_NG >= self._cardinality_G)
        if bad.any():
            n, g = (int(i) for i in np.argwhere(bad)[0])
            raise SpaceError(
                f"genome {n}: entry {int(genomes_NG[n, g])} of {self._choices[g].name!r} is outside "
                f"-1 ... {int(self._cardinality_G[g]) - 1}",
                hint=f"the entries are positions in {list(self._choices[g].values)}",
            )

    def canonicalise(self, genomes_NG: Genomes) -> Genomes:
        """Set inactive entries to -1, so that one architecture has one genome.

        Raises:
            SpaceError: an entry is out of range, or an active choice has no value.
        """
        return self._finish(genomes_NG, rng=None)

    def _finish(self, genomes_NG: Genomes, *, rng: np.random.Generator | None) -> Genomes:
        """Canonicalise; active choices without a value are drawn from `rng`, or refused when there is none."""
        self.check(genomes_NG)
        result_NG = genomes_NG.copy()
        for g, choice in enumerate(self._choices):
            active_N = self._active(result_NG, g)
            missing_N = active_N & (result_NG[:, g] < 0)
            if missing_N.any():
                if rng is None:
                    raise SpaceError(
                        f"genome {int(np.argmax(missing_N))} has no value for the active choice {choice.name!r}",
                        hint=f"give it one of {list(choice.values)}",
                    )
                result_NG[missing_N, g] = rng.integers(self._cardinality_G[g], size=int(missing_N.sum()))
            result_NG[~active_N, g] = -1
        return result_NG

    def sample(self, n: int, rng: np.random.Generator, *, lowest_G: npt.NDArray[np.int8] | None = None) -> Genomes:
        """Draw `n` genomes, every choice uniform over its values (the once-for-all way); repetitions can occur.

        Args:
            n: how many.
            rng: source of randomness.
            lowest_G: the smallest position that each choice may take (progressive shrinking opens them one by one);
                all zero if None.

        Raises:
            SpaceError: `n` is negative, or `lowest_G` is outside the choices.
        """
        if n < 0:
            raise SpaceError(f"cannot sample {n} architectures", hint="ask for 0 or more")
        lowest_G = np.zeros(len(self._choices), dtype=np.int8) if lowest_G is None else lowest_G
        if lowest_G.shape != self._cardinality_G.shape or ((lowest_G < 0) | (lowest_G >= self._cardinality_G)).any():
            raise SpaceError(
                f"lowest positions {lowest_G.tolist()} do not fit the choices",
                hint="make them with `space.lowest_positions({...})`",
            )
        entries_NG = rng.integers(lowest_G, self._cardinality_G, size=(n, len(self._choices)), dtype=np.int8)
        return self.canonicalise(entries_NG)

    def mutate(self, genomes_NG: Genomes, rng: np.random.Generator, *, probability: float) -> Genomes:
        """Redraw every active choice with `probability`; at least one choice of every row takes another value.

        Raises:
            SpaceError: `probability` is not within 0 ... 1, or the genomes are malformed.
        """
        if not 0.0 <= probability <= 1.0:
            raise SpaceError(f"mutation probability is {probability}", hint="use a number from 0 to 1")
        self.check(genomes_NG)
        num, num_choices = genomes_NG.shape
        fresh_NG = rng.integers(0, self._cardinality_G, size=(num, num_choices), dtype=np.int8)
        chosen_NG = (rng.random((num, num_choices)) < probability) & (genomes_NG >= 0)
        mutated_NG = np.where(chosen_NG, fresh_NG, genomes_NG)
        # A mutation that changes nothing wastes an evaluation: move one active choice with alternatives by a step.
        open_NG = (genomes_NG >= 0) & (self._cardinality_G > 1)
        forced_N = np.argmax(np.where(open_NG, rng.random((num, num_choices)), -1.0), axis=1)
        rows_N = np.flatnonzero((mutated_NG == genomes_NG).all(axis=1) & open_NG.any(axis=1))
        columns = forced_N[rows_N]
        cardinality = self._cardinality_G[columns].astype(np.int64)
        steps = rng.integers(1, np.maximum(cardinality, 2))
        mutated_NG[rows_N, columns] = (genomes_NG[rows_N, columns] + steps) % cardinality
        return self._finish(mutated_NG.astype(np.int8), rng=rng)

    def crossover(self, a_NG: Genomes, b_NG: Genomes, rng: np.random.Generator) -> Genomes:
        """Uniform crossover of row n of `a_NG` with row n of `b_NG`.

        A choice that is inactive in one parent comes from the other.

        Raises:
            SpaceError: the arrays have different shapes.
        """
        self.check(a_NG)
        self.check(b_NG)
        if a_NG.shape != b_NG.shape:
            raise SpaceError(
                f"parents differ in shape: {a_NG.shape} and {b_NG.shape}", hint="pair the parents row by row"
            )
        from_a_NG = (rng.random(a_NG.shape) < 0.5) & (a_NG >= 0) | (b_NG < 0)
        return self._finish(np.where(from_a_NG, a_NG, b_NG).astype(np.int8), rng=rng)

    def encode(self, genomes_NG: Genomes) -> npt.NDArray[np.float32]:
        """One-hot features (N, F): a column for every (choice, value); all zero where the choice is inactive."""
        self.check(genomes_NG)
        num, width = len(genomes_NG), int(self._cardinality_G.sum())
        first_G = np.cumsum(self._cardinality_G) - self._cardinality_G
        places_NG = genomes_NG + (first_G + width * np.arange(num)[:, None])
        code_NF = np.zeros((num, width), dtype=np.float32)
        code_NF.ravel()[places_NG[genomes_NG >= 0]] = 1.0
        return code_NF

    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns of `encode`, for example "stage1.depth=2"."""
        return tuple(f"{choice.name}={value}" for choice in self._choices for value in choice.values)
