"""A search space as data: a finite conditional product of named choices, with pure functions on its architectures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from searchspaces.architecture import Architecture, Value
from searchspaces.errors import SpaceError
from searchspaces.genomes import Choice, GenomeAlgebra, Genomes
from searchspaces.graph import OpGraph, OpTable

if TYPE_CHECKING:
    from searchspaces.elastic.supernet import Supernet

__all__ = ["Choice", "SearchSpace", "SuggestingTrial"]


class SuggestingTrial(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> object:
        """Return one of `choices`."""


class SearchSpace(ABC):
    """What can be built. A subclass says the choices, the operators and the supernet; the rest follows from them.

    Attributes:
        space_id: identity; spaces with different choices or widths have different ids.
        weights_id: identity of the weights; spaces that differ in nothing but input sizes share it, so that a supernet
            of one can go on as a supernet of the other.
        choices: all decisions, parents before the choices that depend on them.
    """

    def __init__(self, space_id: str, *, choices: Sequence[Choice], weights_id: str | None = None) -> None:
        self.space_id = space_id
        self.weights_id = weights_id or space_id
        self.choices = tuple(choices)
        self._algebra = GenomeAlgebra(self.choices)
        self._by_name = {choice.name: choice for choice in self.choices}

    @abstractmethod
    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        """Operators of many architectures at once, the classifier counted for `num_classes`; see `OpTable`."""

    @abstractmethod
    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) in pixels for images, (C, T) for time series."""

    def build_supernet(self, *, num_classes: int) -> "Supernet":
        """Build the weight-sharing network with freshly initialised weights (imports torch).

        Raises:
            SpaceError: the space has no supernet (`trainable` is False), or too few classes.
        """
        raise SpaceError(
            f"space {self.space_id!r} has no supernet: it serves published tables only",
            hint="train another space: `nas spaces list` says which ones have a supernet",
        )

    @property
    def trainable(self) -> bool:
        """Whether the space has a supernet."""
        return type(self).build_supernet is not SearchSpace.build_supernet

    @property
    def has_unused(self) -> bool:
        """Whether some of its networks hold operators whose results nobody uses; see `functional`."""
        return type(self).functional is not SearchSpace.functional

    @cached_property
    def size(self) -> int:
        """Exact number of architectures, resolutions included."""
        return self._algebra.size()

    @cached_property
    def smallest(self) -> Architecture:
        """The architecture with the first value of every choice."""
        return self.architecture({choice.name: choice.values[0] for choice in self.choices})

    @cached_property
    def largest(self) -> Architecture:
        """The architecture with the last value of every choice."""
        return self.architecture({choice.name: choice.values[-1] for choice in self.choices})

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of `encode_many`."""
        return self._algebra.feature_names()

    def architecture(self, genes: Mapping[str, Value]) -> Architecture:
        """Make an architecture from gene values; values of inactive genes are dropped.

        Raises:
            SpaceError: an unknown gene, a missing active gene, or a value outside its allowed set (all named).
        """
        unknown = sorted(set(genes) - set(self._by_name))
        if unknown:
            raise SpaceError(
                f"space {self.space_id!r} has no gene {', '.join(map(repr, unknown))}",
                hint=f"its genes are: {', '.join(self._by_name)}",
            )
        kept: dict[str, Value] = {}
        for choice in self.choices:
            if choice.name in genes and not _contains(choice.values, genes[choice.name]):
                raise SpaceError(
                    f"gene {choice.name!r} has value {genes[choice.name]!r}, allowed are {list(choice.values)}",
                    hint="choose an allowed value",
                )
            if choice.parent is not None and kept.get(choice.parent) not in choice.parent_values:
                continue
            if choice.name not in genes:
                raise SpaceError(
                    f"gene {choice.name!r} is active but has no value",
                    hint=f"give it one of {list(choice.values)}",
                )
            kept[choice.name] = genes[choice.name]
        return Architecture(space_id=self.space_id, genes=tuple(kept.items()))

    def validate(self, arch: Architecture) -> None:
        """Check that `arch` is an architecture of this space, in its one spelling.

        Raises:
            SpaceError: no `Architecture`, another space, a bad gene, or genes that are inactive.
        """
        if not isinstance(arch, Architecture):
            raise SpaceError(
                f"expected an Architecture of space {self.space_id!r}, got {type(arch).__name__}",
                hint="build it with `space.architecture({...})` or `space.sample(rng)`",
            )
        if arch.space_id != self.space_id:
            raise SpaceError(
                f"architecture {arch.arch_id} belongs to space {arch.space_id!r}, not to {self.space_id!r}",
                hint="use the space that made it",
            )
        canonical = self.architecture(dict(arch.genes))
        if canonical != arch:
            inactive = sorted(set(dict(arch.genes)) - set(dict(canonical.genes)))
            raise SpaceError(
                f"architecture {arch.arch_id} carries inactive genes: {', '.join(inactive)}",
                hint="build it with `space.architecture(...)`, which drops them",
            )

    def suggest(self, trial: SuggestingTrial) -> Architecture:
        """Let a trial (Optuna's, or anything with `suggest_categorical`) decide every choice.

        Inactive choices are asked for too and dropped afterwards: Optuna's samplers inherit and model only the
        parameters that all trials have.

        Raises:
            SpaceError: the trial returned something that is no allowed value.
        """
        genes: dict[str, Value] = {}
        for choice in self.choices:
            value = trial.suggest_categorical(choice.name, choice.values)
            if not isinstance(value, int | float | str):
                raise SpaceError(
                    f"gene {choice.name!r} was suggested {value!r}, allowed are {list(choice.values)}",
                    hint="suggest_categorical must return one of the choices",
                )
            genes[choice.name] = value
        return self.architecture(genes)

    def complete_genes(self, arch: Architecture) -> dict[str, Value]:
        """A value for every choice: the architecture's own, the first allowed one where it has none."""
        self.validate(arch)
        genes = dict(arch.genes)
        return {choice.name: genes.get(choice.name, choice.values[0]) for choice in self.choices}

    def genomes(self, archs: Sequence[Architecture]) -> Genomes:
        """Architectures to canonical genomes (N, G).

        Raises:
            SpaceError: an architecture is not of this space.
        """
        genomes_NG = np.full((len(archs), len(self.choices)), -1, dtype=np.int8)
        for n, arch in enumerate(archs):
            self.validate(arch)
            genes = dict(arch.genes)
            for g, choice in enumerate(self.choices):
                if choice.name in genes:
                    genomes_NG[n, g] = choice.values.index(genes[choice.name])
        return genomes_NG

    def architectures(self, genomes_NG: Genomes) -> list[Architecture]:
        """Genomes (N, G), canonical or not, to architectures.

        Raises:
            SpaceError: an entry is out of range, or an active choice has none.
        """
        return [
            Architecture(
                space_id=self.space_id,
                genes=tuple(
                    (choice.name, choice.values[entry])
                    for choice, entry in zip(self.choices, row, strict=True)
                    if entry >= 0
                ),
            )
            for row in self.canonicalise(genomes_NG).tolist()
        ]

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw one architecture, every choice uniform over its values."""
        return self.architectures(self.sample_many(1, rng))[0]

    def mutate(self, arch: Architecture, rng: np.random.Generator, *, probability: float = 0.1) -> Architecture:
        """Redraw every active gene with `probability`; the result differs from `arch` wherever the space allows it."""
        return self.architectures(self.mutate_many(self.genomes([arch]), rng, probability=probability))[0]

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Uniform crossover of two architectures."""
        return self.architectures(self.crossover_many(self.genomes([a]), self.genomes([b]), rng))[0]

    def sample_many(self, n: int, rng: np.random.Generator, *, lowest_G: npt.NDArray[np.int8] | None = None) -> Genomes:
        """Draw `n` canonical genomes (N, G); repetitions can occur.

        Args:
            n: how many.
            rng: source of randomness.
            lowest_G: the smallest position that each choice may take, from `lowest_positions`; no limit if None.

        Raises:
            SpaceError: a negative `n`, or positions outside the choices.
        """
        return self._algebra.sample(n, rng, lowest_G=lowest_G)

    def lowest_positions(self, opened: Mapping[str, int]) -> npt.NDArray[np.int8]:
        """The smallest position (G,) of each choice when only the largest values of some kinds are open.

        Args:
            opened: kind of choice ("kernel", "depth", "expand", ...) -> how many of its largest values may be used,
                at least 1; kinds that are not named are fully open.

        Raises:
            SpaceError: a kind without any open value.
        """
        for kind, num in opened.items():
            if num < 1:
                raise SpaceError(
                    f"opened[{kind!r}] is {num}, at least the largest value is in use",
                    hint=f"give 1 before the first smaller {kind} is opened",
                )
        lowest = [max(0, len(c.values) - opened.get(c.kind, len(c.values))) for c in self.choices]
        return np.array(lowest, dtype=np.int8)

    def open_values(self, opened: Mapping[str, int]) -> dict[str, tuple[Value, ...]]:
        """Name of each choice -> its open values; see `lowest_positions`."""
        return {c.name: c.values[low:] for c, low in zip(self.choices, self.lowest_positions(opened), strict=True)}

    def mutate_many(self, genomes_NG: Genomes, rng: np.random.Generator, *, probability: float = 0.1) -> Genomes:
        """`mutate` for every row; returns canonical genomes of the same shape."""
        return self._algebra.mutate(genomes_NG, rng, probability=probability)

    def crossover_many(self, a_NG: Genomes, b_NG: Genomes, rng: np.random.Generator) -> Genomes:
        """`crossover` row by row; returns canonical genomes of the same shape."""
        return self._algebra.crossover(a_NG, b_NG, rng)

    def canonicalise(self, genomes_NG: Genomes) -> Genomes:
        """Set the entries of inactive choices to -1.

        Raises:
            SpaceError: an entry is out of range, or an active choice has none.
        """
        return self._algebra.canonicalise(genomes_NG)

    def functional(self, genomes_NG: Genomes) -> Genomes:
        """Genomes (N, G) of the networks' functions: equal where two networks compute the same function.

        A network may hold operators whose results nobody uses. They cost time and change no output, so what depends on
        outputs alone, as accuracy does, is better told from these genomes. In most spaces they are the canonical ones.

        Raises:
            SpaceError: as `canonicalise`.
        """
        return self.canonicalise(genomes_NG)

    def path_features(self, genomes_NG: Genomes) -> Mapping[str, npt.NDArray[np.float64]]:
        """How operators follow each other from the input to the output, where a genome decides that.

        Returns:
            By name, arrays of N rows that depend on the networks' functions alone; nothing in most spaces, whose
            operators stand in one order.

        Raises:
            SpaceError: as `canonicalise`.
        """
        return {}

    def encode_many(self, genomes_NG: Genomes) -> npt.NDArray[np.float32]:
        """One-hot features (N, F) of canonical genomes; all zero for an inactive choice."""
        return self._algebra.encode(genomes_NG)

    def graph(self, arch: Architecture, *, num_classes: int = 10) -> OpGraph:
        """The operators of one architecture."""
        return self.op_table(self.genomes([arch]), num_classes=num_classes).graph(0)


def _contains(values: Sequence[Value], value: object) -> bool:
    """Membership that does not take True for 1 or 3.0 for 3."""
    return any(type(allowed) is type(value) and allowed == value for allowed in values)
