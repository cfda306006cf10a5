"""A whole front by prediction: one evolution, on integer genomes, for all budgets at once.

Where both objectives are cheap (a predictor, a table), hundreds of thousands of architectures can be looked at. The
evolution keeps the most accurate architecture of each of many classes of cost, so that what it keeps is spread over the
whole width, and crosses neighbours in cost: what is good for one budget is nearly good for the next (after Mouret and
Clune, "Illuminating search spaces by mapping elites", 2015). A class keeps its best even while a cheaper class has a
better one: the way to the front often leads through those.

Letters: N architectures, G genes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nas.search.candidates import first_pool
from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes, unique_genomes

# Accuracies (N,), to be maximised, and costs (N,), positive, to be minimised.
Predict = Callable[[Genomes], tuple[FloatArray, FloatArray]]

_FIRST, _CLASSES, _CHILDREN, _GENERATIONS = 4096, 256, 4, 120
_FEW, _MANY = 0.02, 0.08
_NEAR = 6


class PredictedFront(NamedTuple):
    """Architectures that no other one found beats, cheapest and least accurate first: genomes, accuracy, cost."""

    genomes_NG: Genomes
    accuracy_N: FloatArray
    cost_N: FloatArray


def predicted_front(
    space: SearchSpace, predict: Predict, *, seed: int, generations: int = _GENERATIONS
) -> PredictedFront:
    """Search the whole space by prediction, for every budget at once.

    Args:
        space: to search.
        predict: accuracies and costs of canonical genomes.
        seed: of the evolution.
        generations: each looks at up to 1,024 architectures, after 4,096 first ones.
    """
    rng = np.random.default_rng((seed, 23))
    pool_NG = first_pool(space, _FIRST, rng)
    accuracy_N, cost_N = predict(pool_NG)
    for _ in range(generations):
        kept = _best_of_classes(accuracy_N, cost_N)
        children_NG = _children(space, pool_NG[kept], rng)
        child_accuracy_N, child_cost_N = predict(children_NG)
        pool_NG = np.concatenate([pool_NG[kept], children_NG])
        accuracy_N = np.concatenate([accuracy_N[kept], child_accuracy_N])
        cost_N = np.concatenate([cost_N[kept], child_cost_N])
    order = np.lexsort((-accuracy_N, cost_N))
    best_before_N = np.concatenate([[-np.inf], np.maximum.accumulate(accuracy_N[order])[:-1]])
    front = order[accuracy_N[order] > best_before_N]
    return PredictedFront(pool_NG[front], accuracy_N[front], cost_N[front])


def _children(space: SearchSpace, parents_NG: Genomes, rng: np.random.Generator) -> Genomes:
    """Mutations, and crossings with a parent of nearly the same cost; the parents are ordered by cost."""
    mothers = np.repeat(np.arange(len(parents_NG)), _CHILDREN // 2)
    steps = rng.integers(1, _NEAR + 1, size=len(mothers)) * rng.choice([-1, 1], size=len(mothers))
    fathers = np.clip(mothers + steps, 0, len(parents_NG) - 1)
    mothers_NG = parents_NG[mothers]
    children_NG = np.concatenate(
        [
            space.mutate_many(mothers_NG[::2], rng, probability=_FEW),
            space.mutate_many(mothers_NG[1::2], rng, probability=_MANY),
            space.crossover_many(mothers_NG, parents_NG[fathers], rng),
        ]
    )
    return unique_genomes(children_NG)


def _best_of_classes(accuracy_N: FloatArray, cost_N: FloatArray) -> npt.NDArray[np.intp]:
    """Positions of the most accurate of each class of cost, cheapest class first; classes are as wide in logarithms."""
    log_N = np.log(cost_N)
    width = max(float(np.ptp(log_N)), 1e-9)
    class_N = ((log_N - log_N.min()) / width * (_CLASSES - 1)).astype(np.int64)
    order = np.lexsort((-accuracy_N, class_N))
    first_N = np.append(True, class_N[order][1:] != class_N[order][:-1])
    best: npt.NDArray[np.intp] = order[first_N]
    return best
