"""Once-for-all's evolution: the most accurate network under one latency limit.

Written from the description of the published search (Cai et al., ICLR 2020; public code once-for-all at f03b267): a
hundred random networks, then 500 generations; the best 25 are parents and survive, fifty children are mutations of them
and fifty uniform crossings of two. A mutation redraws each block (kernel and expand ratio together) and each stage's
depth with probability .1, the resolution with .5. What exceeds the limit is drawn again. As there, blocks that a depth
leaves out keep their genes. Children are drawn and judged in bulk, which the published code does one by one: the time
that is compared is that of the faster form.

Letters: N architectures, G genes, U units that mutate together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.search.ofa_objectives import OfaObjectives
from searchspaces.gene_names import RESOLUTION
from searchspaces.genomes import Genomes

GENERATIONS = 500
_POPULATION, _PARENTS, _MUTATED = 100, 25, 50
_MUTATION, _RESOLUTION_MUTATION = 0.1, 0.5
_DRAWS_AT_ONCE, _MOST_ROUNDS = 200, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class OfaFound:
    """The best network: its accuracy (a fraction), its latency in ms, and how many were judged."""

    accuracy: float
    latency_ms: float
    judged: int


def ofa_evolution(
    objectives: OfaObjectives, *, limit_ms: float, seed: int, generations: int = GENERATIONS
) -> OfaFound | None:
    """Run it once; None if too few random networks meet the limit (the published code would go on for ever).

    Args:
        objectives: accuracy and latency.
        limit_ms: largest allowed latency.
        seed: of all choices.
        generations: fewer for trying out.
    """
    return _Evolution(objectives, limit_ms=limit_ms, seed=seed).run(generations)


class _Evolution:
    def __init__(self, objectives: OfaObjectives, *, limit_ms: float, seed: int) -> None:
        self._objectives, self._limit_ms = objectives, limit_ms
        self._rng = np.random.default_rng((seed, 17))
        self._parents_NG: Genomes = objectives.space.genomes([])
        choices = objectives.space.choices
        self._counts_G = np.array([len(choice.values) for choice in choices], dtype=np.int8)
        units = [
            choice.name.rpartition(".")[0] if choice.kind in ("kernel", "expand") else choice.name for choice in choices
        ]
        names = list(dict.fromkeys(units))
        self._unit_G = np.array([names.index(unit) for unit in units])
        self._mutation_U = np.array([_RESOLUTION_MUTATION if name == RESOLUTION else _MUTATION for name in names])

    def run(self, generations: int) -> OfaFound | None:
        population_NG = self._feasible(self._random, _POPULATION)
        if population_NG is None:
            return None
        accuracy_N, judged = self._accuracy(population_NG), _POPULATION
        for _ in range(generations):
            best = np.argsort(-accuracy_N, kind="stable")[:_PARENTS]
            self._parents_NG = population_NG[best]
            mutated_NG = self._feasible(self._mutations, _MUTATED)
            crossed_NG = self._feasible(self._crossings, _POPULATION - _MUTATED)
            assert mutated_NG is not None
            assert crossed_NG is not None
            children_NG = np.concatenate([mutated_NG, crossed_NG])
            population_NG = np.concatenate([self._parents_NG, children_NG])
            accuracy_N = np.concatenate([accuracy_N[best], self._accuracy(children_NG)])
            judged += len(children_NG)
        n = int(accuracy_N.argmax())
        latency_ms = float(self._latency(population_NG[n : n + 1])[0])
        return OfaFound(accuracy=float(accuracy_N[n]), latency_ms=latency_ms, judged=judged)

    def _feasible(self, draw: Callable[[int], Genomes], num: int) -> Genomes | None:
        found: list[Genomes] = []
        missing = num
        for _ in range(_MOST_ROUNDS):
            drawn_NG = draw(_DRAWS_AT_ONCE)
            found.append(drawn_NG[self._latency(drawn_NG) <= self._limit_ms][:missing])
            missing -= len(found[-1])
            if not missing:
                return np.concatenate(found)
        return None

    def _random(self, num: int) -> Genomes:
        return self._rng.integers(self._counts_G, size=(num, len(self._counts_G)), dtype=np.int8)

    def _mutations(self, num: int) -> Genomes:
        changed_NU = self._rng.random((num, len(self._mutation_U))) < self._mutation_U
        return np.where(changed_NU[:, self._unit_G], self._random(num), self._some_parents(num))

    def _crossings(self, num: int) -> Genomes:
        from_first_NG = self._rng.random((num, len(self._counts_G))) < 0.5
        return np.where(from_first_NG, self._some_parents(num), self._some_parents(num))

    def _some_parents(self, num: int) -> Genomes:
        some_NG: Genomes = self._parents_NG[self._rng.integers(len(self._parents_NG), size=num)]
        return some_NG

    def _accuracy(self, genomes_NG: Genomes) -> npt.NDArray[np.float64]:
        return self._objectives.accuracy(self._objectives.space.canonicalise(genomes_NG))

    def _latency(self, genomes_NG: Genomes) -> npt.NDArray[np.float64]:
        return self._objectives.latency(self._objectives.space.canonicalise(genomes_NG))
