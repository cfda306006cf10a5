"""What a search could reach that knew far more than any does: a ceiling for cases whose latencies follow no rule.

It is told the accuracy of every cell, and predicts latencies from 1,500 cells that it did not pay for (two halves, so
that no cell is predicted from itself). It proposes as ours does, by expected hypervolume improvement over all cells.

Letters: N cells, P points of a front.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from moocore import is_nondominated
from scipy.special import ndtri

from experiments.benchmarks.search.truth import Problem
from nas.search.acquisition import expected_improvement
from nas.search.surrogate import reference_beyond
from predictors import fit_latency_predictor
from predictors.prediction import FloatArray

KNOWN = 1500
_LEAST_SPREAD = 1e-6


def informed_search(problem: Problem, *, budget: int, counts_N: npt.NDArray[np.bool_], seed: int) -> list[int]:
    """The rows that it evaluates, in their order.

    Args:
        problem: of accuracy and one latency.
        budget: evaluations.
        counts_N: cells that are looked at.
        seed: chooses the cells whose latencies are known.
    """
    accuracy_N, latency_N = problem.values_NM.T
    mean_N, spread_N = _predicted(problem, latency_N, seed=seed)
    mean_N2 = np.column_stack([1.0 - accuracy_N, mean_N])
    spread_N2 = np.column_stack([np.full(len(mean_N), _LEAST_SPREAD), spread_N])
    true_N2 = np.column_stack([1.0 - accuracy_N, np.log(latency_N)])
    open_N, chosen = counts_N.copy(), list[int]()
    while len(chosen) < min(budget, int(counts_N.sum())):
        points_P2 = true_N2[chosen]
        front_P2 = points_P2[is_nondominated(points_P2)] if chosen else points_P2
        rows = np.flatnonzero(open_N)
        reference_2 = reference_beyond(front_P2, mean_N2[rows] - spread_N2[rows])
        gain = expected_improvement(mean_N2[rows], spread_N2[rows], front_P2, reference_2)
        chosen.append(int(rows[gain.argmax()]))
        open_N[chosen[-1]] = False
    return chosen


def _predicted(problem: Problem, latency_N: FloatArray, *, seed: int) -> tuple[FloatArray, FloatArray]:
    """Mean and spread of the logarithm of every cell's latency, from cells other than itself."""
    order = np.random.default_rng((seed, 23)).permutation(len(latency_N))
    halves = order[:KNOWN], order[KNOWN : 2 * KNOWN]
    texts = [arch.to_json() for arch in problem.space.architectures(problem.genomes_NG)]
    mean_N, spread_N = np.empty(len(latency_N)), np.empty(len(latency_N))
    for fitted, asked in zip(halves, (np.setdiff1d(order, halves[0]), halves[0]), strict=True):
        table = pd.DataFrame({"architecture": [texts[n] for n in fitted], "latency_ms": latency_N[fitted]})
        predictor = fit_latency_predictor(table, space=problem.space, device_id="known")
        found = predictor.predict(problem.genomes_NG[asked])
        mean_N[asked] = np.log(found.mean)
        spread_N[asked] = np.log(found.upper / found.lower) / (2.0 * ndtri(0.5 + found.level / 2.0))
    return mean_N, spread_N
