"""Candidates of a surrogate: a short evolution over the predicted front, on integer genomes, many at a time.

Letters: N candidates, G genes, M objectives.
"""

from collections.abc import Callable

import numpy as np
from moocore import is_nondominated

from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.enumeration import enumerate_genomes
from searchspaces.genomes import Genomes, unique_genomes

# Optimistic values (N, M), to be minimised.
Optimism = Callable[[Genomes], FloatArray]

_RANDOM, _PARENTS, _CHILDREN, _GENERATIONS = 512, 96, 4, 4
_MUTATION = 0.12
_VAST = 8
# A space that is no larger than this is looked at as a whole.
_SMALL_SPACE = 2048


def find_candidates(
    space: SearchSpace, *, near_NG: Genomes, known: set[bytes], optimism: Optimism, rng: np.random.Generator
) -> Genomes:
    """Unseen architectures that may lie on the front, and random ones; canonical genomes, each once.

    Args:
        space: the search space.
        near_NG: genomes to start from, such as those of the present front.
        known: genomes, as bytes, that must not come back.
        optimism: what each genome may reach at best.
        rng: source of randomness.
    """
    if space.size <= _SMALL_SPACE:
        return _unseen(enumerate_genomes(space), known)
    near_NG = np.concatenate([near_NG, space.genomes([space.smallest, space.largest])])
    pool_NG = _unseen(np.concatenate([_neighbours(space, near_NG, rng), space.sample_many(_RANDOM, rng)]), known)
    found = [pool_NG]
    value_NM = optimism(pool_NG)
    for _ in range(_GENERATIONS):
        best = _best(value_NM, _PARENTS)
        parents_NG = pool_NG[best]
        fresh_NG = _unseen(
            np.concatenate([_neighbours(space, parents_NG, rng), parents_NG]),
            known | {row.tobytes() for row in pool_NG},
        )
        if not len(fresh_NG):
            break
        found.append(fresh_NG)
        pool_NG = np.concatenate([parents_NG, fresh_NG])
        value_NM = np.concatenate([value_NM[best], optimism(fresh_NG)])
    return unique_genomes(np.concatenate(found))


def first_pool(space: SearchSpace, num: int, rng: np.random.Generator) -> Genomes:
    """About `num` architectures for an evolution to start from: both ends, what is near them, and random ones."""
    ends_NG = space.genomes([space.smallest, space.largest])
    near_NG = space.mutate_many(np.repeat(ends_NG, num // 4, axis=0), rng, probability=0.3)
    return unique_genomes(np.concatenate([ends_NG, near_NG, space.sample_many(num // 2, rng)]))


def _neighbours(space: SearchSpace, parents_NG: Genomes, rng: np.random.Generator) -> Genomes:
    """Mutations of all, some with one changed gene and some with more, and crossings of pairs."""
    mothers_NG = np.repeat(parents_NG, _CHILDREN, axis=0)
    fathers_NG = parents_NG[rng.integers(len(parents_NG), size=len(mothers_NG))]
    return np.concatenate(
        [
            space.mutate_many(mothers_NG, rng, probability=1e-6),
            space.mutate_many(mothers_NG, rng, probability=_MUTATION),
            space.crossover_many(mothers_NG, fathers_NG, rng),
        ]
    )


def _unseen(genomes_NG: Genomes, known: set[bytes]) -> Genomes:
    genomes_NG = unique_genomes(genomes_NG)
    return genomes_NG[np.array([row.tobytes() not in known for row in genomes_NG], dtype=np.bool_)]


def _best(value_NM: FloatArray, num: int) -> np.ndarray:
    """Positions of at least `num` rows (all, if there are fewer), front after front; of a vast front only some."""
    left = np.arange(len(value_NM))
    best: list[int] = []
    while len(left) and len(best) < num:
        front = is_nondominated(value_NM[left], keep_weakly=True)
        best.extend(left[front].tolist())
        left = left[~front]
    if len(best) > _VAST * num:
        # Where all are equal, everything is one front, and its children would be still more.
        best = [best[n] for n in np.linspace(0, len(best) - 1, _VAST * num).astype(np.intp)]
    return np.array(best, dtype=np.intp)
