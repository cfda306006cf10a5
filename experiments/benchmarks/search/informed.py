"""What a search could reach that knew far more than any does: ceilings for ours.

It predicts latencies from 1,500 cells that it did not pay for (two halves, so that no cell is predicted from itself).
Accuracies it predicts in the same way, or it is told all of them: that tells the cases whose latencies follow no rule.
It proposes as ours does, by expected hypervolume improvement over all cells.

Letters: N cells, P points of a front.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
from moocore import is_nondominated
from scipy.special import ndtri

from experiments.benchmarks.search.truth import Problem
from nas.search.acquisition import expected_improvement
from nas.search.surrogate import reference_beyond
from predictors import fit_accuracy_predictor, fit_latency_predictor
from predictors.prediction import FloatArray, Prediction
from searchspaces.genomes import Genomes

KNOWN = 1500
_LEAST_SPREAD = 1e-6
_LEAST_ERROR = 1e-4


# Of every cell, mean and spread of a logarithm.
Guess = tuple[FloatArray, FloatArray]


def informed_search(
    problem: Problem, *, budget: int, counts_N: npt.NDArray[np.bool_], latency: Guess, error: Guess | None
) -> list[int]:
    """The rows that it evaluates, in their order.

    Args:
        problem: of accuracy and one latency.
        budget: evaluations.
        counts_N: cells that are looked at.
        latency: from `guess_latencies`.
        error: from `guess_errors`; None: it is told the accuracies of all cells.
    """
    accuracy_N, latency_N = problem.values_NM.T
    error_N = np.maximum(1.0 - accuracy_N, _LEAST_ERROR)
    if error is None:
        true_N2 = np.column_stack([error_N, np.log(latency_N)])
        error = error_N, np.full(len(error_N), _LEAST_SPREAD)
    else:
        true_N2 = np.log(np.column_stack([error_N, latency_N]))
    mean_N2, spread_N2 = (np.column_stack(pair) for pair in zip(error, latency, strict=True))
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


# Predicts the cells of some rows from those of others.
_Predict = Callable[[npt.NDArray[np.intp], Genomes], Prediction]


def guess_latencies(problem: Problem, *, seed: int) -> Guess:
    """Of every cell the latency, as `KNOWN` others tell it; `seed` chooses them."""
    latency_N = problem.values_NM[:, 1]
    texts = [arch.to_json() for arch in problem.space.architectures(problem.genomes_NG)]

    def predict(fitted: npt.NDArray[np.intp], asked_NG: Genomes) -> Prediction:
        table = pd.DataFrame({"architecture": [texts[n] for n in fitted], "latency_ms": latency_N[fitted]})
        return fit_latency_predictor(table, space=problem.space, device_id="known").predict(asked_NG)

    return _guess(problem, predict, seed=seed)


def guess_errors(problem: Problem, *, seed: int) -> Guess:
    """The same of the error rate."""
    accuracy_N = problem.values_NM[:, 0]

    def predict(fitted: npt.NDArray[np.intp], asked_NG: Genomes) -> Prediction:
        predictor = fit_accuracy_predictor(
            problem.genomes_NG[fitted], accuracy_N[fitted], space=problem.space, task="known"
        )
        found = predictor.predict(asked_NG)
        mean_N, lower_N, upper_N = (
            np.maximum(1.0 - said_N, _LEAST_ERROR) for said_N in (found.mean, found.upper, found.lower)
        )
        return Prediction(mean=mean_N, lower=lower_N, upper=upper_N, level=found.level, in_range=found.in_range)

    return _guess(problem, predict, seed=seed)


def _guess(problem: Problem, predict: _Predict, *, seed: int) -> Guess:
    """Mean and spread of the logarithm of what every cell costs, from cells other than itself."""
    num = len(problem.genomes_NG)
    order = np.random.default_rng((seed, 23)).permutation(num)
    halves = order[:KNOWN], order[KNOWN : 2 * KNOWN]
    mean_N, spread_N = np.empty(num), np.empty(num)
    for fitted, asked in zip(halves, (np.setdiff1d(order, halves[0]), halves[0]), strict=True):
        found = predict(fitted, problem.genomes_NG[asked])
        mean_N[asked] = np.log(found.mean)
        spread_N[asked] = np.log(found.upper / found.lower) / (2.0 * ndtri(0.5 + found.level / 2.0))
    return mean_N, spread_N
