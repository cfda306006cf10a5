"""Once-for-all's evolution: the best network within a constraint, where judging one costs next to nothing.

Written from the description of the published search (Cai et al., ICLR 2020; public code once-for-all at f03b267): a
hundred networks, then 500 generations; the best 25 are parents and survive, fifty children are mutations of them and
fifty uniform crossings of two. A mutation redraws each block (kernel and expand ratio together) and each other gene, as
a stage's depth, with probability .1, the resolution with .5. What the constraint excludes is drawn again. As there,
genes that a depth leaves out are kept. Children are drawn and judged in bulk, which the published code does one by one.

Letters: N architectures, G genes, U units that mutate together.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.gene_names import RESOLUTION
from searchspaces.genomes import Genomes

GENERATIONS, POPULATION = 500, 100
_PARENTS, _MUTATED = 25, 50
_MUTATION, _RESOLUTION_MUTATION = 0.1, 0.5
_DRAWS_AT_ONCE, _MOST_ROUNDS = 200, 2000

Judge = Callable[[Genomes], FloatArray]
"""What is maximised (N,) of canonical genomes."""
Allows = Callable[[Genomes], npt.NDArray[np.bool_]]
"""Which of N canonical genomes meet the constraint."""


class Population(NamedTuple):
    """The last generation, the best first: canonical genomes, and what the judge said; a network may be in it twice."""

    genomes_NG: Genomes
    value_N: FloatArray


class Evolution:
    """One evolution.

    Args:
        space: that is searched.
        judge: what is maximised.
        allows: the constraint.
        rng: source of randomness.
    """

    def __init__(self, space: SearchSpace, *, judge: Judge, allows: Allows, rng: np.random.Generator) -> None:
        self._space, self._judge, self._allows, self._rng = space, judge, allows, rng
        self._counts_G = np.array([len(choice.values) for choice in space.choices], dtype=np.int8)
        units = [
            choice.name.rpartition(".")[0] if choice.kind in ("kernel", "expand") else choice.name
            for choice in space.choices
        ]
        names = list(dict.fromkeys(units))
        self._unit_G = np.array([names.index(unit) for unit in units])
        self._mutation_U = np.array([_RESOLUTION_MUTATION if name == RESOLUTION else _MUTATION for name in names])

    def random_start(self) -> Genomes | None:
        """A population of random networks, or None if too few of them are allowed (there, it goes on for ever)."""
        return self._allowed(self._random, POPULATION)

    def run(self, start_NG: Genomes, *, generations: int = GENERATIONS) -> Population:
        """Evolve.

        Args:
            start_NG: first generation, at least one network, all of them allowed.
            generations: fewer for trying out.
        """
        absent_NG = start_NG < 0
        population_NG = np.where(absent_NG, self._random(len(start_NG)), start_NG) if absent_NG.any() else start_NG
        value_N = self._judged(population_NG)
        for _ in range(generations):
            best = np.argsort(-value_N, kind="stable")[:_PARENTS]
            parents_NG = population_NG[best]
            mutated_NG = self._allowed(partial(self._mutations, parents_NG), _MUTATED)
            crossed_NG = self._allowed(partial(self._crossings, parents_NG), POPULATION - _MUTATED)
            children_NG = np.concatenate([one for one in (mutated_NG, crossed_NG) if one is not None])
            population_NG = np.concatenate([parents_NG, children_NG])
            value_N = np.concatenate([value_N[best], self._judged(children_NG)])
        order = np.argsort(-value_N, kind="stable")
        return Population(self._space.canonicalise(population_NG[order]), value_N[order])

    def _allowed(self, draw: Callable[[int], Genomes], num: int) -> Genomes | None:
        found: list[Genomes] = []
        missing = num
        for _ in range(_MOST_ROUNDS):
            drawn_NG = draw(_DRAWS_AT_ONCE)
            found.append(drawn_NG[self._allows(self._space.canonicalise(drawn_NG))][:missing])
            missing -= len(found[-1])
            if not missing:
                return np.concatenate(found)
        return None

    def _judged(self, genomes_NG: Genomes) -> FloatArray:
        return self._judge(self._space.canonicalise(genomes_NG))

    def _random(self, num: int) -> Genomes:
        return self._rng.integers(self._counts_G, size=(num, len(self._counts_G)), dtype=np.int8)

    def _mutations(self, parents_NG: Genomes, num: int) -> Genomes:
        changed_NU = self._rng.random((num, len(self._mutation_U))) < self._mutation_U
        return np.where(changed_NU[:, self._unit_G], self._random(num), self._some(parents_NG, num))

    def _crossings(self, parents_NG: Genomes, num: int) -> Genomes:
        from_first_NG = self._rng.random((num, len(self._counts_G))) < 0.5
        return np.where(from_first_NG, self._some(parents_NG, num), self._some(parents_NG, num))

    def _some(self, parents_NG: Genomes, num: int) -> Genomes:
        some_NG: Genomes = parents_NG[self._rng.integers(len(parents_NG), size=num)]
        return some_NG
