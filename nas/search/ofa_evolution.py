"""Once-for-all's search as a sampler: an evolution under one constraint, on models of what was evaluated.

As there (Cai et al., ICLR 2020), the evolution asks a predictor of accuracy, not the networks; there it is trained on
16,000 evaluated subnets, here it is fitted again whenever the study has some more. The best of an evolution that are
new are the next proposals. With a limit on the cost it is the constraint of every evolution; without one, constraints
are spread over the range of the cost, so that one study comes to a front.

Letters: N architectures, M objectives, G genes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from nas.search.candidates import first_pool
from nas.search.evolution import GENERATIONS, POPULATION, Evolution
from nas.search.models import fit_models, without_hopeless
from nas.search.seen import Genome
from nas.search.space_sampler import SpaceOptions, SpaceSampler, accuracy_and_cost
from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

# As many proposals come from one evolution, and as many evaluations make the next models.
_AT_ONCE = 4
_POOL = 2048

# A number (N,) of each architecture.
_Predict = Callable[[Genomes], FloatArray]


class _Models(NamedTuple):
    """What an evolution asks: the logarithm of the error rate, the cost, and how far it is beyond the limits."""

    error: _Predict
    cost: _Predict
    missed: _Predict


class OfaEvolutionSampler(SpaceSampler):
    """Once-for-all's evolution under one constraint after the other.

    Args:
        space, objectives, computed, limits, seed: see `SpaceSampler`; one accuracy and one cost.
        generations: of each evolution; fewer for trying out.

    Raises:
        RunError: as `SpaceSampler`, or other objectives than an accuracy and a cost.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        generations: int = GENERATIONS,
        **options: Unpack[SpaceOptions],
    ) -> None:
        super().__init__(space, **options)
        self._accuracy, self._cost = accuracy_and_cost(self._objectives, sampler="ofa-evolution")
        self._generations = generations
        self._pool_NG = first_pool(space, _POOL, self._rng)
        self._models: _Models | None = None
        self._num_fitted = 0
        self._found: list[Genome] = []

    def _next(self, pending_NG: Genomes) -> Genome:
        if self._knows_little(pending_NG):
            return self._first_one()
        if self._models is None or len(self._seen.genomes) >= self._num_fitted + _AT_ONCE:
            self._models, self._found = self._fitted(), []
        chosen_G = self._unseen(self._found)
        if chosen_G is None:
            self._found = self._evolve(self._models)
            chosen_G = self._unseen(self._found)
        return self._random() if chosen_G is None else chosen_G

    def _fitted(self) -> _Models:
        genomes_NG = np.array(self._seen.genomes, dtype=np.int8)
        cost_NM = without_hopeless(self._told_NM(), objectives=self._objectives)
        models = fit_models(
            genomes_NG, cost_NM, space=self._space, objectives=self._objectives, computed=self._computed
        )
        self._num_fitted = len(genomes_NG)

        def predict(m: int) -> _Predict:
            name = self._objectives[m].name
            blends = {name: models.blends[name]} if name in models.blends else {}
            alone = replace(models, objectives=(self._objectives[m],), blends=blends)
            return remembered(lambda some_NG: alone.predict(some_NG)[0][:, 0])

        return _Models(error=predict(self._accuracy), cost=predict(self._cost), missed=remembered(self._missed))

    def _evolve(self, models: _Models) -> list[Genome]:
        """The best new ones under the next constraint."""
        limit = self._limits.get(self._cost)
        if limit is None:
            cost_N = models.cost(self._pool_NG)
            low, high = float(cost_N.min()), float(cost_N.max())
            limit = low * (high / low) ** self._spread()

        def allows(genomes_NG: Genomes) -> npt.NDArray[np.bool_]:
            return np.asarray((models.cost(genomes_NG) <= limit) & (models.missed(genomes_NG) <= 0.0))

        start_NG = self._pool_NG[allows(self._pool_NG)]
        if not len(start_NG):
            return []
        evolution = Evolution(
            self._space,
            judge=lambda genomes_NG: -models.error(genomes_NG),
            allows=allows,
            rng=self._rng,
        )
        population = evolution.run(self._rng.permutation(start_NG)[:POPULATION], generations=self._generations)
        new = {genome_G.tobytes(): genome_G for genome_G in population.genomes_NG if self._seen.is_new(genome_G)}
        return list(new.values())[:_AT_ONCE]


def remembered(predict: _Predict) -> _Predict:
    """The same, but every architecture is predicted once: an evolution asks for the same ones again and again."""
    known: dict[bytes, float] = {}

    def predict_new(genomes_NG: Genomes) -> FloatArray:
        keys = [genome_G.tobytes() for genome_G in genomes_NG]
        fresh = {key: n for n, key in enumerate(keys) if key not in known}
        if fresh:
            known.update(zip(fresh, predict(genomes_NG[list(fresh.values())]).tolist(), strict=True))
        return np.array([known[key] for key in keys])

    return predict_new
