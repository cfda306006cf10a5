"""Our own supernet: the verified front by evaluations, and what device seconds buy.

Searches see accuracies of the search split and predicted latencies, as real ones do. Verified is the front that they
end with: accuracies of the verify split, measured latencies. Hypervolumes are shares of that of everything verified,
scaled by its ideal and nadir.

Letters: S seeds, N evaluations, K of them after which a front is verified.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.search.compare import Curves, add_spread
from experiments.benchmarks.search.curves import draw_curves
from experiments.benchmarks.search.device_cost import Cost, Measured
from experiments.benchmarks.search.samplers import OURS
from experiments.benchmarks.search.truth import ExactFront
from nas.near_front import possible_front
from nas.pareto import pareto_mask
from predictors.prediction import FloatArray
from searchspaces import Architecture
from searchspaces.errors import Hinted

if TYPE_CHECKING:
    from experiments.benchmarks.search.supernet_runs import SupernetRuns

AT = (10, 20, 40, 60, 80, 120)
_QUICK_AT = (8, 16)
_CASE, _PEER = "supernet", "nsga2"
_MEASURING_SEEDS = 3
_FEW = 0.5

Front = Sequence[Architecture]


def add_supernet(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Ours against NSGA-II, then the ways of measuring; skipped without a run."""
    if options.run is None:
        report.skip(_CASE, "pass --run RUN with a trained supernet: nas run RECIPE --run-dir RUN makes one")
        return
    # Torch and Ray take seconds, which the other parts need not wait.
    from experiments.benchmarks.search.supernet_runs import SupernetRuns

    samplers = [name for name in (OURS, _PEER) if name in options.samplers]
    with tempfile.TemporaryDirectory() if options.work is None else nullcontext(options.work) as work:
        try:
            runs = SupernetRuns(options.run, directory=Path(work) / _CASE, say=report.say)
            at = _QUICK_AT if options.quick else _within_budgets(samplers, options.evaluations)
            compare_on_supernet(report, runs, samplers=samplers, seeds=options.seeds, at=at, out=options.out)
        except Hinted as e:
            report.skip(_CASE, f"{e}; {e.hint}")


def _within_budgets(samplers: Sequence[str], evaluations: Mapping[str, int]) -> list[int]:
    """Of `AT` what no sampler's budget (--evaluations) ends before, but the first in any case."""
    least = min((evaluations[name] for name in samplers if name in evaluations), default=AT[-1])
    return [AT[0], *(n for n in AT[1:] if n <= least)]


def compare_on_supernet(
    report: BenchmarkReport, runs: "SupernetRuns", *, samplers: Sequence[str], seeds: int, at: Sequence[int], out: Path
) -> None:
    """Search, measure and verify what is missing, and record the figures `supernet/...`.

    Args:
        report: takes the figures.
        runs: searches, judges and measures.
        samplers: what is compared; ways of measuring are compared if ours is among them.
        seeds: of each sampler; the first three of ours measure.
        at: evaluations after which a front is verified.
        out: the benchmark's file.
    """
    report.note(_CASE, dict(runs.facts()))
    full = runs.profiled("full", share=1.0)
    found = {
        name: [runs.searched(name, profiled="full", seed=seed, evaluations=at[-1]) for seed in range(seeds)]
        for name in samplers
    }
    fronts = {name: [[_front(rows.head(n)) for n in at] for rows in tables] for name, tables in found.items()}
    passive = found.get(OURS, [])[:_MEASURING_SEEDS]
    few, active = _search_actively(runs, seeds=len(passive), evaluations=at[-1])
    # What surely lies behind others need not be measured to know the front that measuring everything gives.
    may_be = [possible_front(rows) for rows in passive]
    promised = [front for by_n in fronts.values() for one in by_n for front in one]
    promised += [_front(rows) for rows, _ in active]
    measured = runs.measured(_union([*promised, *may_be]))
    by_all = [_measured_front(rows, some, measured) for rows, some in zip(passive, may_be, strict=True)]
    candidates = _union([*promised, *by_all])
    truth = _Truth(candidates, measured=measured, accuracy=runs.verified(candidates))
    spent = sum((cost for _, cost in active), full + few + measured.cost)
    _describe(report, truth, measured=measured, spent=spent)
    _add_curves(report, {name: truth.shares(one) for name, one in fronts.items()}, at=at, out=out)
    if passive:
        by_prediction = [one[-1] for one in fronts[OURS][: len(passive)]]
        by_turns = [_front(rows) for rows, _ in active]
        searching = [few.subnets + cost.subnets for _, cost in active]
        _add_ways(
            report,
            {
                "verify": _Way(truth, by_prediction, [full.subnets + len(front) for front in by_prediction]),
                "active": _Way(
                    truth,
                    by_turns,
                    [num + len(front) for num, front in zip(searching, by_turns, strict=True)],
                ),
                "everything": _Way(truth, by_all, [full.subnets + len(rows) for rows in passive]),
            },
            spent=spent,
        )


def _search_actively(
    runs: "SupernetRuns", *, seeds: int, evaluations: int
) -> tuple[Cost, list[tuple[pd.DataFrame, Cost]]]:
    """What the smaller profile cost, and searches that go on from it with what they measured."""
    if not seeds:
        return Cost(subnets=0, seconds=0.0), []
    few = runs.profiled("few", share=_FEW)
    return few, [
        runs.actively_searched(profiled="few", share=_FEW, seed=seed, evaluations=evaluations) for seed in range(seeds)
    ]


class _Truth:
    """What was found of all candidates: verified accuracies, measured latencies."""

    def __init__(self, archs: Front, *, measured: Measured, accuracy: Mapping[str, float]) -> None:
        self._row = {arch: n for n, arch in enumerate(archs)}
        cost_N2 = np.array([[1.0 - accuracy[arch.arch_id], measured.latency_ms[arch.arch_id]] for arch in archs])
        self.front = ExactFront(cost_N2)
        self.num = len(archs)

    def shares(self, fronts_SK: Sequence[Sequence[Front]]) -> FloatArray:
        """Share of the whole hypervolume (S, K) that each front is found to have."""
        return np.array(
            [[self.front.shares([self._row[arch] for arch in front])[-1] for front in one] for one in fronts_SK]
        )


class _Way:
    """What one way to measure came to, by seed: shares (S,) of its last fronts, and how often it measured."""

    def __init__(self, truth: _Truth, fronts: Sequence[Front], measurements: Sequence[int]) -> None:
        self.share_S = truth.shares([fronts])[0]
        self.measurements_S = np.array(measurements, dtype=np.float64)


def _front(rows: pd.DataFrame, *, latency: str = "latency_predicted_ms") -> list[Architecture]:
    """What is not dominated by accuracy on the search split and a latency."""
    accuracy_N, latency_N = (rows[name].to_numpy(dtype=np.float64) for name in ("accuracy", latency))
    return [Architecture.from_json(text) for text in rows["architecture"][pareto_mask(accuracy_N, latency_N)]]


def _measured_front(rows: pd.DataFrame, may_be: Front, measured: Measured) -> list[Architecture]:
    """The front of a search whose latencies are all measured; `may_be` are those that may be on it."""
    rows = rows[rows["arch_id"].isin([arch.arch_id for arch in may_be])]
    return _front(rows.assign(latency_ms=rows["arch_id"].map(measured.latency_ms)), latency="latency_ms")


def _union(fronts: Sequence[Front]) -> list[Architecture]:
    return list(dict.fromkeys(arch for front in fronts for arch in front))


def _describe(report: BenchmarkReport, truth: _Truth, *, measured: Measured, spent: Cost) -> None:
    report.add(f"{_CASE}/verified/candidates", truth.num)
    report.add(f"{_CASE}/verified/front_size", truth.front.size)
    report.add(f"{_CASE}/measured/subnets", len(measured.latency_ms))
    report.add(f"{_CASE}/measured/suspect", measured.num_suspect)
    report.add(f"{_CASE}/measured/device_seconds_per_subnet", spent.price(1))
    if measured.num_suspect:
        report.say(f"{measured.num_suspect} of {len(measured.latency_ms)} measurements are suspect: the host was busy")


def _add_curves(report: BenchmarkReport, shares: Mapping[str, FloatArray], *, at: Sequence[int], out: Path) -> None:
    """Figures, table and picture of shares (S, K) by sampler."""
    for name, shares_SK in shares.items():
        for n, share_S in zip(at, shares_SK.T, strict=True):
            add_spread(report, f"{_CASE}/{name}/verified_hypervolume_at_{n}", share_S)
        report.add(f"{_CASE}/{name}/num_seeds", len(shares_SK))
    if {OURS, _PEER} <= shares.keys():
        for n, ours_S, peer_S in zip(at, shares[OURS].T, shares[_PEER].T, strict=True):
            key = f"{_CASE}/{OURS}_over_{_PEER}/verified_hypervolume_at_{n}"
            report.add(key, float(np.median(ours_S) / np.median(peer_S)))
        wanted = float(np.median(shares[_PEER][:, -1]))
        reached = [n for n, ours_S in zip(at, shares[OURS].T, strict=True) if np.median(ours_S) >= wanted]
        report.add(f"{_CASE}/{OURS}/evaluations_to_{_PEER}_at_{at[-1]}", reached[0] if reached else None)
    report.show(
        f"{_CASE}: share of the verified hypervolume after evaluations; medians of seeds (lowest to highest)",
        headings=[_CASE, *(f"at {n}" for n in at)],
        rows=[
            [name, *(f"{np.median(one_S):.3f} ({one_S.min():.3f}-{one_S.max():.3f})" for one_S in shares_SK.T)]
            for name, shares_SK in shares.items()
        ],
    )
    curves = {name: _held(shares_SK, at=at) for name, shares_SK in shares.items()}
    if curves:
        draw_curves(out, _CASE, {_CASE: curves}, whole="verified hypervolume")


def _held(shares_SK: FloatArray, *, at: Sequence[int]) -> Curves:
    """A column for each evaluation: the front that was verified last."""
    column_N = np.searchsorted(at, np.arange(1, at[-1] + 1), side="right") - 1
    shares_SN = np.where(column_N >= 0, shares_SK[:, column_N], 0.0)
    return Curves(budget=at[-1], shares_SN=shares_SN, seconds=float("nan"))


def _add_ways(report: BenchmarkReport, ways: Mapping[str, _Way], *, spent: Cost) -> None:
    """Figures and table of the ways to measure, and ratios to measuring everything.

    Seconds are the measurements at the mean price of all sessions: those of single sessions depend on how often a busy
    host makes them repeat a round.
    """
    medians = {}
    for name, way in ways.items():
        values = {
            "verified_hypervolume": way.share_S,
            "measurements": way.measurements_S,
            "device_seconds": way.measurements_S * spent.price(1),
        }
        for metric, values_S in values.items():
            add_spread(report, f"{_CASE}/measure_{name}/{metric}", values_S)
        report.add(f"{_CASE}/measure_{name}/num_seeds", len(way.share_S))
        medians[name] = {metric: float(np.median(values_S)) for metric, values_S in values.items()}
    for name in [name for name in medians if name != "everything"]:
        for metric, value in medians[name].items():
            report.add(f"{_CASE}/measure_{name}_over_everything/{metric}", value / medians["everything"][metric])
    report.show(
        f"{_CASE}: what measuring brings and takes; medians of seeds (lowest to highest)",
        headings=["measured", "verified hypervolume", "measurements", "device seconds"],
        rows=[
            [
                name,
                f"{np.median(way.share_S):.3f} ({way.share_S.min():.3f}-{way.share_S.max():.3f})",
                f"{medians[name]['measurements']:.0f}",
                f"{medians[name]['device_seconds']:.1f}",
            ]
            for name, way in ways.items()
        ],
    )
