"""What a user decides about the search; the recipe's section `search` has the same names."""

from dataclasses import dataclass
from typing import Literal

from nas.objectives import Limit

SamplerName = Literal["surrogate", "mnasnet", "ofa-evolution", "gradient", "nsga2", "nsga3", "tpe", "gp", "random"]
"""Ours, published ones that we wrote as samplers, and those of Optuna."""

MeasureMode = Literal["none", "verify", "active"]
"""When a device measures what a search found: never, when it is verified, or already while searching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Budget and sampler.

    Attributes:
        sampler: who proposes architectures.
        evaluations: unique architectures to evaluate, those of earlier calls included.
        population: of NSGA-II, NSGA-III and `mnasnet`; TPE and GP start with as many random proposals.
        subnets_per_task: architectures that a worker gets at once.
        limits: upper bounds on predicted latency and counts, see `nas.pricing.LIMITS`.
        seed: proposals are derived from it and from the number of trials so far.
        early_stopping: confidence with which a candidate must be unable to reach the front to be stopped; None: each is
            evaluated to the end.
    """

    sampler: SamplerName
    evaluations: int
    population: int
    subnets_per_task: int
    limits: tuple[Limit, ...]
    seed: int
    early_stopping: float | None = None
