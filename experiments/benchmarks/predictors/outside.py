"""Out of range: fitted to one part of a space and asked about another, intervals must say so and hold all the same."""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.methods import Outcome, Rows, Target, mean_outcome

_NUM = 50
_FLAGGED = 0.95
_COVERED = 0.80


def add_outside(
    report: BenchmarkReport, options: argparse.Namespace, case: str, target: Target, *, devices: Sequence[str]
) -> None:
    """For every way to part the networks: the flagged share, and how many of the flagged lie in their intervals.

    Args:
        report: where to.
        options: of the benchmark.
        case: the data.
        target: without sources.
        devices: some of its table; the figures are means over them.
    """
    rows = []
    for name, (inside, outside) in _partings(target).items():
        if len(inside) < 2 * _NUM or not len(outside):
            continue
        inputs_NF = target.analytic_N3
        found: dict[str, list[list[Outcome]]] = {"ours": [], "ours_random": [], "ridge_analytic": []}
        for seed in range(options.seeds):
            designed = target.designed(_NUM, seed=seed, among=inside)
            drawn = target.random(_NUM, seed=seed, among=inside)
            costs = [target.table.latency[device] for device in devices]
            found["ours"].append([target.judge_ours(c, designed, asked=outside) for c in costs])
            found["ours_random"].append([target.judge_ours(c, drawn, asked=outside) for c in costs])
            found["ridge_analytic"].append(
                [target.judge_ridge(c, drawn, inputs_NF=inputs_NF, asked=outside) for c in costs]
            )
        means = {method: mean_outcome(outcomes) for method, outcomes in found.items()}
        for method in ("ours", "ours_random"):
            key, figures = f"{case}/outside_{name}/n{_NUM}/{method}", means[method]
            report.add(f"{key}/flagged", 1.0 - figures["in_range"], at_least=_FLAGGED)
            report.add(f"{key}/coverage", figures["outside_coverage"], at_least=_COVERED)
            report.add(f"{key}/mape", figures["mape"])
        # Ridge flags nothing.
        ridge = means["ridge_analytic"]
        report.add(f"{case}/outside_{name}/n{_NUM}/ridge_analytic/coverage", ridge["coverage"])
        report.add(f"{case}/outside_{name}/n{_NUM}/ridge_analytic/mape", ridge["mape"])
        rows.append([name, *(_cell(means[method]) for method in found)])
    if rows:
        report.show(
            f"{case}: out of range, {_NUM} measurements: flagged, coverage, mean error",
            headings=["fitted to, asked about", "ours", "ours_random", "ridge_analytic"],
            rows=rows,
        )


def _partings(target: Target) -> Mapping[str, tuple[Rows, Rows]]:
    """Networks to fit and networks to ask about, by name."""
    macs_N = target.analytic_N3[:, 0]
    parts = {
        "more_macs": (macs_N <= np.quantile(macs_N, 0.5), macs_N > np.quantile(macs_N, 0.8)),
        "fewer_macs": (macs_N >= np.quantile(macs_N, 0.5), macs_N < np.quantile(macs_N, 0.2)),
    }
    columns = target.features.resolution_columns()
    resolution_NR = target.blocks["choices"][:, columns] > 0
    if (used := np.flatnonzero(resolution_NR.any(axis=0))).size > 1:
        parts["higher_resolution"] = (~resolution_NR[:, used[-1]], resolution_NR[:, used[-1]])
    return {name: (np.flatnonzero(inside_N), np.flatnonzero(asked_N)) for name, (inside_N, asked_N) in parts.items()}


def _cell(figures: Mapping[str, float]) -> str:
    coverage = figures["outside_coverage"] if np.isfinite(figures["outside_coverage"]) else figures["coverage"]
    return f"{1.0 - figures['in_range']:.0%} {coverage:.0%} {figures['mape']:.1f} %"
