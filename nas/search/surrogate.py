"""Our sampler: models of every objective, and the candidate that is expected to add most to the front.

After some first architectures every proposal is the candidate with the largest
expected hypervolume improvement, times the probability that it meets the limits. Objectives that can be computed are;
the others are predicted by the families of `predictors`, with their spread. Proposals that wait for their values count
as if they had the predicted ones, so that many workers can ask at once.

Letters: N architectures, G genes, M objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from moocore import is_nondominated
from scipy.special import ndtr

from nas.errors import RunError
from nas.objectives import LATENCY
from nas.pricing import Compute
from nas.search.acquisition import expected_improvement
from nas.search.candidates import find_candidates
from nas.search.models import ObjectiveModels, fit_models, without_hopeless
from nas.search.seen import Genome
from nas.search.space_sampler import FIRST, SpaceOptions, SpaceSampler
from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

# Models are fitted again after so many new values; with many workers, after a quarter of what they work on.
_REFIT_AFTER, _REFIT_SHARE = 4, 0.25
# The front may turn out as far out as this many standard deviations promise ...
_OPTIMISM = 1.0
# ... and what lies this share of its width beyond it still counts.
_BEYOND = 0.1
_LEAST_SPREAD = 1e-9
_BEYOND_LIMITS = 1e9


class SurrogateSampler(SpaceSampler):
    """Surrogate-assisted multi-objective sampler for discrete architecture spaces.

    Args:
        space, objectives, computed, limits, first, seed: see `SpaceSampler`.
        elsewhere: the computed latency_ms on further devices. Each device has a front of its own, and every new fit
            looks at the next one's; accuracy has one model for all.

    Raises:
        RunError: as `SpaceSampler`, or `elsewhere` without a latency that is computed.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        elsewhere: Sequence[Compute] = (),
        first: int = FIRST,
        **options: Unpack[SpaceOptions],
    ) -> None:
        super().__init__(space, first=first, **options)
        names = [objective.name for objective in self._objectives]
        if elsewhere and not (LATENCY.name in names and LATENCY.name in self._computed):
            raise RunError(
                f"further devices need the objective {LATENCY.name}, computed",
                hint="say in `computed` how it is computed on the first device",
            )
        self._latency = names.index(LATENCY.name) if elsewhere else -1
        self._devices = [self._computed, *({**self._computed, LATENCY.name: compute} for compute in elsewhere)]
        self._outlook: _Outlook | None = None
        self._looks = 0

    def _next(self, pending_NG: Genomes) -> Genome:
        if self._knows_little(pending_NG):
            return self._first_one()
        new = max(_REFIT_AFTER, int(_REFIT_SHARE * len(pending_NG)))
        if self._outlook is None or len(self._seen.genomes) >= self._outlook.predictions.models.num_fitted + new:
            self._outlook = self._look()
        computed = self._outlook.predictions.models.computed
        # A limit on the first device's latency is no limit on that of another one: candidates keep to it already.
        limits = {m: high for m, high in self._limits.items() if computed is self._computed or m != self._latency}
        cost_NM = self._cost_NM(computed)[self._counts_N()]
        chosen_G = self._outlook.best(cost_NM, pending_NG, known=self._seen.known, limits=limits)
        return self._random() if chosen_G is None else chosen_G

    def _cost_NM(self, computed: Mapping[str, Compute]) -> FloatArray:
        """What was told; on a further device with the latencies there."""
        told_NM = self._told_NM()
        if computed is not self._computed:
            told_NM[:, self._latency] = computed[LATENCY.name](np.array(self._seen.genomes, dtype=np.int8))
        return without_hopeless(told_NM, objectives=self._objectives)

    def _look(self) -> "_Outlook":
        """Fit models and look for candidates."""
        computed = self._devices[self._looks % len(self._devices)]
        self._looks += 1
        genomes_NG, cost_NM = np.array(self._seen.genomes, dtype=np.int8), self._cost_NM(computed)
        models = fit_models(genomes_NG, cost_NM, space=self._space, objectives=self._objectives, computed=computed)
        predictions = _Predictions(models)
        counts_N = self._counts_N()
        near_NG = genomes_NG[counts_N]
        found_NG = find_candidates(
            self._space,
            near_NG=near_NG[is_nondominated(cost_NM[counts_N], keep_weakly=True)] if len(near_NG) else near_NG,
            known=self._seen.known,
            # Whatever is within the limits comes before all that is not, and that by how far it is beyond them.
            optimism=lambda some_NG: (
                _optimism(*predictions.of(some_NG)) + _BEYOND_LIMITS * np.maximum(self._missed(some_NG), 0.0)[:, None]
            ),
            rng=self._rng,
        )
        found_NG = self._within(found_NG)
        mean_NM, spread_NM = predictions.of(found_NG)
        return _Outlook(predictions=predictions, candidates_NG=found_NG, mean_NM=mean_NM, spread_NM=spread_NM)


class _Predictions:
    """What models say, asked once for each genome."""

    def __init__(self, models: ObjectiveModels) -> None:
        self.models = models
        self._place: dict[bytes, int] = {}
        nothing = np.empty((0, len(models.objectives)))
        self._mean_NM, self._spread_NM = nothing, nothing

    def of(self, genomes_NG: Genomes) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations (N, M)."""
        keys = [genome_G.tobytes() for genome_G in genomes_NG]
        new = [n for n, key in enumerate(keys) if key not in self._place]
        if new:
            mean_NM, spread_NM = self.models.predict(genomes_NG[new])
            first = len(self._mean_NM)
            self._place.update({keys[n]: first + i for i, n in enumerate(new)})
            self._mean_NM = np.concatenate([self._mean_NM, mean_NM])
            self._spread_NM = np.concatenate([self._spread_NM, spread_NM])
        places = [self._place[key] for key in keys]
        return self._mean_NM[places], self._spread_NM[places]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outlook:
    """Candidates, and what is predicted of them."""

    predictions: _Predictions
    candidates_NG: Genomes
    mean_NM: FloatArray
    spread_NM: FloatArray

    def best(
        self, cost_PM: FloatArray, pending_NG: Genomes, *, known: set[bytes], limits: Mapping[int, float]
    ) -> Genome | None:
        """The unseen candidate that is expected to add most to the front of `cost_PM`; None if none adds anything."""
        open_N = np.array([genome_G.tobytes() not in known for genome_G in self.candidates_NG], dtype=np.bool_)
        if not open_N.any():
            return None
        candidates_NG, mean_NM, spread_NM = self.candidates_NG[open_N], self.mean_NM[open_N], self.spread_NM[open_N]
        # What waits counts with what is predicted of it.
        points_PM = np.concatenate([cost_PM, self.predictions.of(pending_NG)[0]])
        for m, highest in limits.items():
            points_PM = points_PM[points_PM[:, m] <= highest]
        front_PM = points_PM[is_nondominated(points_PM)] if len(points_PM) else points_PM
        ref_M = reference_beyond(front_PM, _optimism(mean_NM, spread_NM))
        gain_N = expected_improvement(mean_NM, spread_NM, front_PM, ref_M)
        for m, highest in limits.items():
            gain_N *= ndtr((highest - mean_NM[:, m]) / np.maximum(spread_NM[:, m], _LEAST_SPREAD))
        best = int(gain_N.argmax())
        # Where nothing is expected of any of them, chance is better than the order of the genomes.
        return candidates_NG[best] if gain_N[best] > 0.0 else None


def _optimism(mean_NM: FloatArray, spread_NM: FloatArray) -> FloatArray:
    return mean_NM - _OPTIMISM * spread_NM


def reference_beyond(front_PM: FloatArray, optimistic_NM: FloatArray) -> FloatArray:
    """A point beyond the front and beyond what may become of it.

    With the front alone, whatever is slower than its slowest point would add nothing, and no search would find the
    front's far end.
    """
    together = np.concatenate([front_PM, optimistic_NM])
    outer = together[is_nondominated(together)]
    low_M, high_M = outer.min(axis=0), outer.max(axis=0)
    reference_M: FloatArray = high_M + _BEYOND * np.maximum(high_M - low_M, _LEAST_SPREAD)
    return reference_M
