"""Where a search looks when its sampler only repeats itself: small spaces are listed, large ones searched nearby."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nas.objectives import Limit
from nas.pricing import Compute, violations
from searchspaces import Architecture, SearchSpace
from searchspaces.enumeration import ENUMERABLE, enumerate_genomes
from searchspaces.genomes import Genomes, unique_genomes

_TRIES = 400
_STEPS = 10


class Neighbours:
    """Finds feasible architectures that nobody has seen."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        costs: Mapping[str, Compute],
        limits: Sequence[Limit],
        rng: np.random.Generator,
    ) -> None:
        self._space, self._costs, self._limits, self._rng = space, costs, tuple(limits), rng
        # What is left of a listed space, in random order; None while it is not listed.
        self._left: list[Genomes] | None = None

    def find(self, *, near: Sequence[Architecture], is_new: Callable[[Architecture], bool]) -> Architecture | None:
        """An unseen architecture within the limits, or None.

        In a space of up to 20,000 architectures None means that there is none; in a larger one, that none was found
        near the given ones, near the smallest one, anywhere, nor by a walk from those.

        Args:
            near: architectures whose neighbours are tried first.
            is_new: whether an architecture was never proposed.
        """
        if self._space.size <= ENUMERABLE:
            return self._next_of_all(is_new)
        space, rng = self._space, self._rng
        parents = list(near) or [space.smallest]
        near_NG = space.mutate_many(np.repeat(space.genomes(parents), -(-_TRIES // len(parents)), axis=0), rng)
        small_NG = np.repeat(space.genomes([space.smallest]), _TRIES, axis=0)
        far_NG = space.mutate_many(small_NG, rng, probability=0.5)
        genomes_NG = self._feasible(np.concatenate([near_NG, far_NG, space.sample_many(_TRIES, rng)]))
        for _ in range(_STEPS):
            found = next((arch for arch in space.architectures(genomes_NG) if is_new(arch)), None)
            if found is not None or not len(genomes_NG):
                return found
            # All of these are known: on from them, within the limits.
            parents_NG = genomes_NG[rng.integers(len(genomes_NG), size=_TRIES)]
            genomes_NG = self._feasible(unique_genomes(space.mutate_many(parents_NG, rng)))
        return None

    def _next_of_all(self, is_new: Callable[[Architecture], bool]) -> Architecture | None:
        if self._left is None:
            genomes_NG = self._feasible(enumerate_genomes(self._space))
            self._left = np.split(self._rng.permutation(genomes_NG), len(genomes_NG)) if len(genomes_NG) else []
        while self._left:
            arch = self._space.architectures(self._left.pop())[0]
            if is_new(arch):
                return arch
        return None

    def _feasible(self, genomes_NG: Genomes) -> Genomes:
        return genomes_NG[violations(genomes_NG, costs=self._costs, limits=self._limits) <= 0]
