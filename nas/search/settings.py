"""What a user decides about the search; the recipe's section `search` has the same names."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Budget and sampler.

    Attributes:
        sampler: "nsga2" or "tpe".
        evaluations: unique architectures to evaluate, those of earlier calls included.
        population: of NSGA-II; TPE starts with as many random proposals.
        subnets_per_task: architectures that a worker gets at once.
        latency_limit_ms: largest predicted latency, or None.
        seed: proposals are derived from it and from the number of trials so far.
    """

    sampler: Literal["nsga2", "tpe"]
    evaluations: int
    population: int
    subnets_per_task: int
    latency_limit_ms: float | None
    seed: int
