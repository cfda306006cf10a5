"""MnasNet's reward as a sampler: accuracy times a power of latency over its target (Tan et al., CVPR 2019, eq. 2).

The reward is ACC x (LAT / T)^w, with one w up to the target T and another beyond it. There, a recurrent network that
proposes is trained by policy gradient, over thousands of evaluations. Here the policy is regularised evolution (Real et
al., "Regularized evolution for image classifier architecture search", AAAI 2019), which needs no training and works
from the first evaluation on: of the youngest architectures some are drawn, and the one with the highest reward is
mutated.

With a limit on the cost, T is that limit and the reward is MnasNet's own, w = -.07 on both sides. That reward orders
architectures alike for every T, so without a limit it would lead to one point. Then the reward is MnasNet's other one,
w = 0 up to the target and -1 beyond, and targets are spread over the costs seen so far.

Letters: N architectures, G genes.
"""

from typing import Unpack

import numpy as np

from nas.search.seen import Genome
from nas.search.space_sampler import SpaceOptions, SpaceSampler, accuracy_and_cost
from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

# Exponents up to the target and beyond it.
SOFT, HARD = (-0.07, -0.07), (0.0, -1.0)
# Of the youngest, as there: 25 of 100 are drawn.
_TOURNAMENT = 0.25
_ONE_GENE, _MORE_GENES = 1e-6, 0.1
_CHILDREN = 16


class MnasNetSampler(SpaceSampler):
    """Regularised evolution by MnasNet's reward.

    Args:
        space, objectives, computed, limits, seed: see `SpaceSampler`; one accuracy and one cost.
        population: how many of the youngest evaluated architectures can be parents, at least 4; as many come first.

    Raises:
        RunError: as `SpaceSampler`, or other objectives than an accuracy and a cost.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int,
        **options: Unpack[SpaceOptions],
    ) -> None:
        super().__init__(space, first=population, **options)
        self._accuracy, self._cost = accuracy_and_cost(self._objectives, sampler="mnasnet")
        self._population = population

    def _next(self, pending_NG: Genomes) -> Genome:
        if self._knows_little(pending_NG):
            return self._first_one()
        parent_G = self._parent()
        for probability in (_ONE_GENE, _MORE_GENES):
            parents_NG = np.repeat(parent_G[None], _CHILDREN, axis=0)
            children_NG = self._space.mutate_many(parents_NG, self._rng, probability=probability)
            child_G = self._unseen(self._within(children_NG))
            if child_G is not None:
                return child_G
        return self._random()

    def _parent(self) -> Genome:
        """The best of some of the youngest."""
        # What a newer limit excludes has no children, as long as there is something else.
        counting = np.flatnonzero(self._counts_N()) if self._counts_N().any() else np.arange(len(self._seen.genomes))
        told_NM = self._told_NM()[counting]
        accuracy_N, cost_N = 1.0 - np.exp(told_NM[:, self._accuracy]), told_NM[:, self._cost]
        limit = self._limits.get(self._cost)
        low, high = float(cost_N.min()), float(cost_N.max())
        target = low * (high / low) ** self._spread() if limit is None else limit
        youngest = np.arange(len(cost_N))[-self._population :]
        drawn = self._rng.choice(youngest, size=max(1, round(_TOURNAMENT * len(youngest))), replace=False)
        reward_N = reward(accuracy_N[drawn], cost_N[drawn], target=target, exponents=HARD if limit is None else SOFT)
        parent_G: Genome = self._seen.genomes[int(counting[drawn[reward_N.argmax()]])]
        return parent_G


def reward(accuracy_N: FloatArray, cost_N: FloatArray, *, target: float, exponents: tuple[float, float]) -> FloatArray:
    """MnasNet's reward (N,), to be maximised.

    Args:
        accuracy_N: fractions.
        cost_N: positive, in the unit of the target.
        target: cost that is asked for.
        exponents: w up to the target and beyond it, `SOFT` or `HARD`.
    """
    ratio_N = cost_N / target
    return np.asarray(accuracy_N * ratio_N ** np.where(ratio_N <= 1.0, *exponents))
