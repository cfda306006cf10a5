"""All samplers on one known space: shares of the exact hypervolume by evaluations, medians over seeds."""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.search.samplers import BUDGETS, ONE_COST, OURS, run_search
from experiments.benchmarks.search.store import Searched, SearchStore
from experiments.benchmarks.search.truth import ExactFront, Problem, evaluations_to
from nas.pricing import Compute
from predictors.prediction import FloatArray

AT = (60, 120, 200, 500)
TO = (0.98, 0.99)
_QUICK_BUDGET = 60
_SLOW = ("tpe", "gp", "ofa-evolution", "gradient")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """What one sampler found in one case.

    Attributes:
        budget: unique evaluations of a seed.
        shares_SN: of the exact hypervolume after each evaluation, a row a seed.
        seconds: median time of a seed.
    """

    budget: int
    shares_SN: FloatArray
    seconds: float

    def to(self, share: float) -> FloatArray:
        """Evaluations until a share is reached, by seed; inf where it is not within the budget."""
        return np.array([evaluations_to(share, shares_N) for shares_N in self.shares_SN])


def compare(
    report: BenchmarkReport,
    options: argparse.Namespace,
    case: str,
    problem: Problem,
    *,
    front: ExactFront,
    unfiltered: ExactFront | None = None,
    computed: Mapping[str, Compute] | None = None,
    wanted: Mapping[int, float] | None = None,
) -> Mapping[str, Curves]:
    """Run what is not stored yet, record the figures, and return the curves by sampler.

    Args:
        report: takes the figures `CASE/SAMPLER/...`.
        options: of the benchmark.
        case: path of the figures.
        problem: what is searched.
        front: what is to be found.
        unfiltered: another front that the same searches are judged by.
        computed: objectives that ours may compute.
        wanted: targets of ours by number of evaluations.
    """
    store = SearchStore(options.work)
    report.add(f"{case}/exact/front_size", front.size)
    curves = {}
    for sampler in options.samplers:
        if sampler in ONE_COST and len(problem.objectives) != 2:
            continue
        searches = [
            _searched(
                report, store, case, problem, sampler, seed=seed, budget=_budget(options, sampler), computed=computed
            )
            for seed in range(options.first_seed, options.first_seed + _seeds(options, sampler))
        ]
        curves[sampler] = _curves(searches, front)
        _add(report, f"{case}/{sampler}", curves[sampler], wanted=(wanted or {}) if sampler == OURS else {})
        if unfiltered is not None:
            shares_SN = _curves(searches, unfiltered).shares_SN
            for n in _within(shares_SN):
                report.add(f"{case}/{sampler}/unfiltered_hypervolume_at_{n}", float(np.median(shares_SN[:, n - 1])))
    headings = [case, *(f"at {n}" for n in AT), *(f"to {share:g}" for share in TO), "seconds"]
    report.show(
        f"{case}: share of the exact hypervolume ({front.size} points), evaluations to a share; medians of seeds",
        headings=headings,
        rows=[[sampler, *_cells(found)] for sampler, found in curves.items()],
    )
    report.save()
    return curves


def _budget(options: argparse.Namespace, sampler: str) -> int:
    return _QUICK_BUDGET if options.quick else int(options.evaluations.get(sampler, BUDGETS[sampler]))


def _seeds(options: argparse.Namespace, sampler: str) -> int:
    return min(options.seeds, options.slow_seeds) if sampler in _SLOW else int(options.seeds)


def _searched(
    report: BenchmarkReport,
    store: SearchStore,
    case: str,
    problem: Problem,
    sampler: str,
    *,
    seed: int,
    budget: int,
    computed: Mapping[str, Compute] | None,
) -> Searched:
    known = store.find(case=case, sampler=sampler, seed=seed, budget=budget)
    if known is not None:
        return known
    started_s = time.perf_counter()
    rows = run_search(problem, sampler, seed=seed, budget=budget, computed=computed)
    seconds = round(time.perf_counter() - started_s, 3)
    searched = Searched(case=case, sampler=sampler, seed=seed, budget=budget, rows=rows, seconds=seconds)
    store.add(searched)
    report.say(f"{case}: {sampler}, seed {seed}: {len(rows)} evaluations in {seconds:.1f} s")
    return searched


def _curves(searches: Sequence[Searched], front: ExactFront) -> Curves:
    return Curves(
        budget=searches[0].budget,
        shares_SN=np.stack([front.shares(one.rows) for one in searches]),
        seconds=float(np.median([one.seconds for one in searches])),
    )


def _within(shares_SN: FloatArray) -> list[int]:
    return [n for n in AT if n <= shares_SN.shape[1]]


def _add(report: BenchmarkReport, key: str, found: Curves, *, wanted: Mapping[int, float]) -> None:
    for n in _within(found.shares_SN):
        add_spread(report, f"{key}/hypervolume_at_{n}", found.shares_SN[:, n - 1], at_least=wanted.get(n))
    for share in TO:
        add_spread(report, f"{key}/evaluations_to_{share:g}", found.to(share))
    report.add(f"{key}/budget", found.budget)
    report.add(f"{key}/num_seeds", len(found.shares_SN))
    report.add(f"{key}/seconds", found.seconds)


def add_spread(report: BenchmarkReport, key: str, values_S: FloatArray, *, at_least: float | None = None) -> None:
    """Record the median over seeds, with a target if there is one, and the extremes beside it."""
    report.add(key, float(np.median(values_S)), at_least=at_least)
    report.add(f"{key}_lowest", float(values_S.min()))
    report.add(f"{key}_highest", float(values_S.max()))


def _cells(found: Curves) -> list[str]:
    shares_SN = found.shares_SN
    cells = [f"{np.median(shares_SN[:, n - 1]):.3f}" if n <= shares_SN.shape[1] else "" for n in AT]
    to = [float(np.median(found.to(share))) for share in TO]
    return [*cells, *(f"{n:.0f}" if np.isfinite(n) else f"> {found.budget}" for n in to), f"{found.seconds:.1f}"]
