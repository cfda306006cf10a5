"""One search of a known space by a sampler: Optuna's own and ours, on the same terms.

Only unique evaluations count. What a sampler proposes again is told from the cache; after some repetitions in a row an
unseen architecture is drawn for it, as `nas search` does.
"""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from experiments.benchmarks.search.truth import Problem, rows_by_genome
from nas.pricing import Compute
from nas.search.gradient import GradientSampler
from nas.search.mnasnet import MnasNetSampler
from nas.search.ofa_evolution import OfaEvolutionSampler
from nas.search.space_sampler import SpaceOptions
from nas.search.surrogate import SurrogateSampler

OURS = "surrogate"
_POPULATION = 20
_PATIENCE = 8

_OPTUNA: Mapping[str, Callable[[int], BaseSampler]] = {
    "nsga2": lambda seed: NSGAIISampler(population_size=_POPULATION, seed=seed),
    "nsga3": lambda seed: NSGAIIISampler(population_size=_POPULATION, seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, deterministic_objective=True),
    "random": lambda seed: RandomSampler(seed=seed),
}
ONE_COST = ("mnasnet", "ofa-evolution", "gradient")
"""Published searches as samplers of ours; they weigh accuracy against one cost."""
SAMPLERS = (OURS, *ONE_COST, *_OPTUNA)
BUDGETS: Mapping[str, int] = {
    OURS: 300,
    "mnasnet": 1000,
    "ofa-evolution": 300,
    "gradient": 300,
    "nsga2": 1000,
    "nsga3": 1000,
    "tpe": 500,
    "gp": 120,
    "random": 1000,
}
"""Unique evaluations of a search; TPE repeats itself often, and it and all that fit models get slow."""


def run_search(
    problem: Problem, sampler: str, *, seed: int, budget: int, computed: Mapping[str, Compute] | None = None
) -> list[int]:
    """Search, and return the rows of `problem` that were evaluated, in their order.

    Args:
        problem: what is searched.
        sampler: one of `SAMPLERS`.
        seed: of the sampler.
        budget: unique evaluations; fewer if the space has no more.
        computed: objectives that ours and `ONE_COST` may compute; the others have no place for that.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        chosen = _sampler(problem, sampler, seed=seed, computed=computed)
    directions = [objective.direction for objective in problem.objectives]
    return search_with(problem, optuna.create_study(sampler=chosen, directions=directions), seed=seed, budget=budget)


def _sampler(problem: Problem, sampler: str, *, seed: int, computed: Mapping[str, Compute] | None) -> BaseSampler:
    space, options = problem.space, SpaceOptions(objectives=problem.objectives, computed=computed, seed=seed)
    match sampler:
        case "surrogate":
            return SurrogateSampler(space, **options)
        case "mnasnet":
            return MnasNetSampler(space, population=_POPULATION, **options)
        case "ofa-evolution":
            return OfaEvolutionSampler(space, **options)
        case "gradient":
            return GradientSampler(space, **options)
        case _:
            return _OPTUNA[sampler](seed)


def search_with(problem: Problem, study: optuna.Study, *, seed: int, budget: int) -> list[int]:
    """The same with a study that has its sampler."""
    space = problem.space
    row_of = rows_by_genome(problem.genomes_NG)
    unseen = np.random.default_rng((seed, 31)).permutation(len(problem.genomes_NG)).tolist()
    found: dict[int, None] = {}
    repeated = 0
    while len(found) < min(budget, len(problem.genomes_NG)):
        if repeated >= _PATIENCE:
            while unseen[-1] in found:
                unseen.pop()
            study.enqueue_trial(space.complete_genes(space.architectures(problem.genomes_NG[unseen[-1:]])[0]))
        trial = study.ask()
        row = row_of[space.genomes([space.suggest(trial)])[0].tobytes()]
        study.tell(trial, problem.values_NM[row].tolist())
        repeated = repeated + 1 if row in found else 0
        found[row] = None
    return list(found)
