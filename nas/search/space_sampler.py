"""What samplers of ours have in common: whole architectures, none twice, none beyond the limits on what is computed.

A sampler of ours is a subclass that says which architecture comes next. All that it knows it reads from the study, so
that another process, or another sampler, can go on with it.

Letters: N architectures, G genes, M objectives.
"""

import threading
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Required, TypedDict

import numpy as np
import numpy.typing as npt
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from nas.errors import RunError
from nas.objectives import Limit, Objective
from nas.pricing import Compute, violations
from nas.search.models import as_costs
from nas.search.neighbours import Neighbours
from nas.search.seen import Genome, Seen
from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

FIRST = 12
_FEWEST_FITTED = 5
_DRAWN = 256
_GOLDEN = (5.0**0.5 - 1.0) / 2.0


class SpaceOptions(TypedDict, total=False):
    """What every sampler of ours takes beside the space; see `SpaceSampler`."""

    objectives: Required[Sequence[Objective]]
    computed: Mapping[str, Compute] | None
    limits: Sequence[Limit]
    seed: int | None


class SpaceSampler(BaseSampler):
    """Proposes architectures of a search space.

    Args:
        space: whose architectures the trials suggest (`space.suggest(trial)`).
        objectives: one for each value of a trial. A maximised one is a fraction (accuracy), a minimised one positive.
        computed: by name of an objective or a further cost, how to compute it for any genomes; it is not modelled.
        limits: upper bounds on objectives that are minimised, and on what is computed.
        first: architectures before the sampler's own choices: both ends of the space, then random ones; those that the
            study has already count.
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
        first: int = FIRST,
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
        self._seen = Seen(space)
        self._is_within: list[bool] = []
        self._design: list[Genome] | None = None
        # Optuna's own parallel loop asks from several threads.
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy, as of every sampler of Optuna: everything but the lock."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All choices of the space."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next architecture, as a value for every choice; nothing for a trial that was queued with its values."""
        if set(self._distributions) <= set(trial.system_attrs.get("fixed_params", {})):
            return {}
        with self._lock:
            chosen_G = self._next(self._seen.read(study))
            # The study learns of it only when it is suggested.
            self._seen.known.add(chosen_G.tobytes())
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

    @abstractmethod
    def _next(self, pending_NG: Genomes) -> Genome:
        """The next architecture.

        Args:
            pending_NG: those that wait for their values.
        """

    def _knows_little(self, pending_NG: Genomes) -> bool:
        num = len(self._seen.genomes)
        return num + len(pending_NG) < self._first or num < _FEWEST_FITTED

    def _first_one(self) -> Genome:
        """The ends of the space, then random ones: what tells most of costs is too extreme to tell of accuracy."""
        if self._design is None:
            ends_NG = self._space.genomes([self._space.smallest, self._space.largest])
            drawn_NG = self._within(self._space.sample_many(_DRAWN, self._rng))[: self._first]
            self._design = list(np.concatenate([self._within(ends_NG), drawn_NG]))
        while self._design:
            genome_G = self._design.pop(0)
            if self._seen.is_new(genome_G):
                return genome_G
        return self._random()

    def _random(self) -> Genome:
        """An unseen one within the limits on what is computed, while there is one."""
        drawn_NG = self._space.sample_many(_DRAWN, self._rng)
        chosen_G = self._unseen(self._within(drawn_NG))
        if chosen_G is not None:
            return chosen_G
        seen, space = self._seen, self._space
        found = self._neighbours.find(near=[], is_new=lambda arch: seen.is_new(space.genomes([arch])[0]))
        another_G: Genome = drawn_NG[0] if found is None else space.genomes([found])[0]
        return another_G

    def _unseen(self, genomes_NG: Iterable[Genome]) -> Genome | None:
        """The first of them that is new."""
        return next((genome_G for genome_G in genomes_NG if self._seen.is_new(genome_G)), None)

    def _within(self, genomes_NG: Genomes) -> Genomes:
        return genomes_NG[self._missed(genomes_NG) <= 0]

    def _missed(self, genomes_NG: Genomes) -> FloatArray:
        return violations(genomes_NG, costs=self._computed, limits=self._exact_limits)

    def _counts_N(self) -> npt.NDArray[np.bool_]:
        """Which of the evaluated architectures are within the limits on what is computed: they may be newer."""
        new = self._seen.genomes[len(self._is_within) :]
        if new:
            self._is_within.extend((self._missed(np.array(new, dtype=np.int8)) <= 0).tolist())
        return np.array(self._is_within, dtype=np.bool_)

    def _told_NM(self) -> FloatArray:
        """What was told of the evaluated architectures, as of `as_costs`."""
        return as_costs(np.array(self._seen.values, dtype=np.float64), objectives=self._objectives)

    def _spread(self) -> float:
        """A place in 0 ... 1 for the next proposal: successive ones, or every fourth, lie evenly over the range."""
        return len(self._seen.known) * _GOLDEN % 1.0


def accuracy_and_cost(objectives: Sequence[Objective], *, sampler: str) -> tuple[int, int]:
    """Positions of the accuracy and of the cost that a sampler weighs against each other.

    Raises:
        RunError: there is not exactly one of each.
    """
    directions = [objective.direction for objective in objectives]
    if sorted(directions) != ["maximize", "minimize"]:
        raise RunError(
            f"sampler {sampler} weighs one accuracy against one cost, the objectives are "
            f"{', '.join(objective.name for objective in objectives)}",
            hint="choose the sampler surrogate, nsga2 or nsga3 for other objectives",
        )
    return directions.index("maximize"), directions.index("minimize")
