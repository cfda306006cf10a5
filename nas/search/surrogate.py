"""Our sampler: models of every objective, and the candidate that is expected to add most to the front.

After some first architectures every proposal is the candidate with the largest
expected hypervolume improvement, times the probability that it meets the limits. Objectives that can be computed are;
the others are predicted by the families of `predictors`, with their spread. Proposals that wait for their values count
as if they had the predicted ones, so that many workers can ask at once.

Letters: N architectures, G genes, M objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from moocore import is_nondominated
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from nas.errors import RunError
from nas.objectives import Limit, Objective
from nas.pricing import Compute, violations
from nas.search.acquisition import expected_improvement
from nas.search.candidates import find_candidates
from nas.search.models import ObjectiveModels, as_costs, fit_models, without_hopeless
from nas.search.neighbours import Neighbours
from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

NOT_EVALUATED = "not_evaluated"
"""User attribute of trials that were closed without an evaluation: their values mean nothing."""

_Genome = npt.NDArray[np.int8]

_FIRST = 12
_FEWEST_FITTED = 5
_REFIT_AFTER = 4
# The front may turn out as far out as this many standard deviations promise ...
_OPTIMISM = 1.0
# ... and what lies this share of its width beyond it still counts.
_BEYOND = 0.1
_LEAST_SPREAD = 1e-9
_BEYOND_LIMITS = 1e9
_DRAWN = 256


class SurrogateSampler(BaseSampler):
    """Surrogate-assisted multi-objective sampler for discrete architecture spaces.

    Args:
        space: whose architectures the trials suggest (`space.suggest(trial)`).
        objectives: one for each value of a trial. A maximised one is a fraction (accuracy), a minimised one positive.
        computed: by name of an objective or a further cost, how to compute it for any genomes; it is not modelled.
        limits: upper bounds on objectives that are minimised, and on what is computed.
        first: architectures before the first model; those that the study has already count.
        seed: of all choices.

    Raises:
        RunError: a limit on something that is neither minimised nor computed.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        objectives: Sequence[Objective],
        computed: Mapping[str, Compute] | None = None,
        limits: Sequence[Limit] = (),
        first: int = _FIRST,
        seed: int | None = None,
    ) -> None:
        maximised = [objective.name for objective in objectives if objective.direction == "maximize"]
        names = [objective.name for objective in objectives]
        allowed = [name for name in dict.fromkeys([*names, *(computed or {})]) if name not in maximised]
        if wrong := [limit.name for limit in limits if limit.name not in allowed]:
            raise RunError(f"limits on {', '.join(wrong)}", hint=f"limits can be set on: {', '.join(allowed)}")
        self._space, self._objectives, self._first = space, tuple(objectives), first
        self._computed = dict(computed or {})
        # What is computed is within its limit or not; of what is predicted, that has a probability.
        self._exact_limits = [limit for limit in limits if limit.name in self._computed]
        self._limits = {names.index(limit.name): limit.value for limit in limits if limit.name in names}
        self._rng = np.random.default_rng(seed)
        self._neighbours = Neighbours(space, costs=self._computed, limits=self._exact_limits, rng=self._rng)
        self._independent = RandomSampler(seed=seed)
        self._distributions = {choice.name: CategoricalDistribution(choice.values) for choice in space.choices}
        self._seen = _Seen(space)
        self._design: list[_Genome] | None = None
        self._outlook: _Outlook | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All choices of the space."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next architecture, as a value for every choice; nothing for a trial that was queued with its values."""
        if set(self._distributions) <= set(trial.system_attrs.get("fixed_params", {})):
            return {}
        pending_NG = self._seen.read(study)
        chosen_G = self._next(pending_NG)
        return dict(self._space.complete_genes(self._space.architectures(chosen_G[None])[0]))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - Optuna's own signature
        """Parameters that are no choices of the space are drawn at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Called by Optuna in every worker of its own parallel loop."""
        # The generator itself is shared with `_neighbours`.
        self._rng.bit_generator.state = np.random.default_rng().bit_generator.state
        self._independent.reseed_rng()

    def _next(self, pending_NG: Genomes) -> _Genome:
        num = len(self._seen.genomes)
        if num + len(pending_NG) < self._first or num < _FEWEST_FITTED:
            return self._first_one()
        if self._outlook is None or num >= self._outlook.models.num_fitted + _REFIT_AFTER:
            self._outlook = self._look()
        chosen_G = self._outlook.best(self._cost_NM(), pending_NG, known=self._seen.known, limits=self._limits)
        return self._random() if chosen_G is None else chosen_G

    def _first_one(self) -> _Genome:
        """The ends of the space, then random ones: what tells most of costs is too extreme to tell of accuracy."""
        if self._design is None:
            ends_NG = self._space.genomes([self._space.smallest, self._space.largest])
            drawn_NG = self._within(self._space.sample_many(_DRAWN, self._rng))[: self._first]
            self._design = list(np.concatenate([self._within(ends_NG), drawn_NG]))
        while self._design:
            genome_G = self._design.pop(0)
            if self._is_new(genome_G):
                return genome_G
        return self._random()

    def _random(self) -> _Genome:
        """An unseen one within the limits on what is computed, while there is one."""
        drawn_NG = self._space.sample_many(_DRAWN, self._rng)
        new = [genome_G for genome_G in self._within(drawn_NG) if self._is_new(genome_G)]
        if not new:
            found = self._neighbours.find(near=[], is_new=lambda arch: self._is_new(self._space.genomes([arch])[0]))
            new = list(drawn_NG if found is None else self._space.genomes([found]))
        chosen_G: _Genome = new[0]
        return chosen_G

    def _is_new(self, genome_G: _Genome) -> bool:
        return genome_G.tobytes() not in self._seen.known

    def _within(self, genomes_NG: Genomes) -> Genomes:
        return genomes_NG[self._missed(genomes_NG) <= 0]

    def _missed(self, genomes_NG: Genomes) -> FloatArray:
        return violations(genomes_NG, costs=self._computed, limits=self._exact_limits)

    def _cost_NM(self) -> FloatArray:
        cost_NM = as_costs(np.array(self._seen.values, dtype=np.float64), objectives=self._objectives)
        return without_hopeless(cost_NM, objectives=self._objectives)

    def _look(self) -> "_Outlook":
        """Fit models and look for candidates."""
        genomes_NG, cost_NM = np.array(self._seen.genomes, dtype=np.int8), self._cost_NM()
        models = fit_models(
            genomes_NG, cost_NM, space=self._space, objectives=self._objectives, computed=self._computed
        )
        found_NG = find_candidates(
            self._space,
            near_NG=genomes_NG[is_nondominated(cost_NM, keep_weakly=True)],
            known=self._seen.known,
            # Whatever is within the limits comes before all that is not, and that by how far it is beyond them.
            optimism=lambda some_NG: (
                _optimism(*models.predict(some_NG)) + _BEYOND_LIMITS * np.maximum(self._missed(some_NG), 0.0)[:, None]
            ),
            rng=self._rng,
        )
        found_NG = self._within(found_NG)
        mean_NM, spread_NM = models.predict(found_NG)
        return _Outlook(models=models, candidates_NG=found_NG, mean_NM=mean_NM, spread_NM=spread_NM)


@dataclass(slots=True)
class _Seen:
    """The trials of a study, as genomes; grows with it."""

    space: SearchSpace
    genomes: list[_Genome] = field(default_factory=list)
    values: list[Sequence[float]] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)

    def read(self, study: Study) -> Genomes:
        """Learn of new trials; returns the genomes of those that wait for their values."""
        waiting: list[_Genome] = []
        for trial in study.get_trials(deepcopy=False):
            genome_G = None if trial.number in self.finished else self._genome(trial)
            if genome_G is None:
                continue
            self.known.add(genome_G.tobytes())
            if not trial.state.is_finished():
                waiting.append(genome_G)
                continue
            self.finished.add(trial.number)
            is_told = trial.state == TrialState.COMPLETE and NOT_EVALUATED not in trial.user_attrs
            if is_told and np.isfinite(trial.values).all():
                self.genomes.append(genome_G)
                self.values.append(trial.values)
        return np.array(waiting, dtype=np.int8).reshape(len(waiting), len(self.space.choices))

    def _genome(self, trial: FrozenTrial) -> _Genome | None:
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        if any(choice.name not in params for choice in self.space.choices):
            return None
        entries = [choice.values.index(params[choice.name]) for choice in self.space.choices]
        genome_G: _Genome = self.space.canonicalise(np.array([entries], dtype=np.int8))[0]
        return genome_G


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outlook:
    """Candidates and what is predicted of them."""

    models: ObjectiveModels
    candidates_NG: Genomes
    mean_NM: FloatArray
    spread_NM: FloatArray

    def best(
        self, cost_PM: FloatArray, pending_NG: Genomes, *, known: set[bytes], limits: Mapping[int, float]
    ) -> _Genome | None:
        """The unseen candidate that is expected to add most to the front of `cost_PM`; None if none adds anything."""
        open_N = np.array([row.tobytes() not in known for row in self.candidates_NG], dtype=np.bool_)
        if not open_N.any():
            return None
        candidates_NG, mean_NM, spread_NM = self.candidates_NG[open_N], self.mean_NM[open_N], self.spread_NM[open_N]
        pending_QM = self.models.predict(pending_NG)[0] if len(pending_NG) else mean_NM[:0]
        points_PM = np.concatenate([cost_PM, pending_QM])
        for m, highest in limits.items():
            points_PM = points_PM[points_PM[:, m] <= highest]
        front_PM = points_PM[is_nondominated(points_PM)] if len(points_PM) else points_PM
        ref_M = _reference(front_PM, _optimism(mean_NM, spread_NM))
        gain_N = expected_improvement(mean_NM, spread_NM, front_PM, ref_M)
        for m, highest in limits.items():
            gain_N *= ndtr((highest - mean_NM[:, m]) / np.maximum(spread_NM[:, m], _LEAST_SPREAD))
        best = int(gain_N.argmax())
        # Where nothing is expected of any of them, chance is better than the order of the genomes.
        return candidates_NG[best] if gain_N[best] > 0.0 else None


def _optimism(mean_NM: FloatArray, spread_NM: FloatArray) -> FloatArray:
    return mean_NM - _OPTIMISM * spread_NM


def _reference(front_PM: FloatArray, optimistic_NM: FloatArray) -> FloatArray:
    """A point beyond the front and beyond what may become of it.

    With the front alone, whatever is slower than its slowest point would add nothing, and no search would find the
    front's far end.
    """
    together = np.concatenate([front_PM, optimistic_NM])
    outer = together[is_nondominated(together)]
    low_M, high_M = outer.min(axis=0), outer.max(axis=0)
    reference_M: FloatArray = high_M + _BEYOND * np.maximum(high_M - low_M, _LEAST_SPREAD)
    return reference_M
