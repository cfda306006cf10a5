"""Once-for-all's evolution (`nas.search.evolution`) on its own objectives, under one latency limit."""

from dataclasses import dataclass

import numpy as np

from experiments.benchmarks.search.ofa_objectives import OfaObjectives
from nas.search.evolution import GENERATIONS, POPULATION, Evolution


@dataclass(frozen=True, slots=True, kw_only=True)
class OfaFound:
    """The best network: its accuracy (a fraction), its latency in ms, and how many were judged."""

    accuracy: float
    latency_ms: float
    judged: int


def ofa_evolution(
    objectives: OfaObjectives, *, limit_ms: float, seed: int, generations: int = GENERATIONS
) -> OfaFound | None:
    """Run it once; None if too few random networks meet the limit.

    Args:
        objectives: accuracy and latency.
        limit_ms: largest allowed latency.
        seed: of all choices.
        generations: fewer for trying out.
    """
    evolution = Evolution(
        objectives.space,
        judge=objectives.accuracy,
        allows=lambda genomes_NG: objectives.latency(genomes_NG) <= limit_ms,
        rng=np.random.default_rng((seed, 17)),
    )
    start_NG = evolution.random_start()
    if start_NG is None:
        return None
    found = evolution.run(start_NG, generations=generations)
    return OfaFound(
        accuracy=float(found.value_N[0]),
        latency_ms=float(objectives.latency(found.genomes_NG[:1])[0]),
        judged=POPULATION * (1 + generations),
    )
