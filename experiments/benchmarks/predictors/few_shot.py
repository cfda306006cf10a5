"""Latencies of networks of our spaces from few measurements, on published tables: FBNet, OFA, NAS-Bench-201."""

import argparse
import json
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.coverage import add_coverage, share_text
from experiments.benchmarks.predictors.curves import draw_curves
from experiments.benchmarks.predictors.methods import (
    Outcome,
    Target,
    ceiling,
    fit_source,
    mean_outcome,
)
from experiments.benchmarks.predictors.outside import add_outside
from experiments.benchmarks.predictors.published import LatencyTable, read_fbnet, read_nasbench201, read_ofa, readable
from experiments.benchmarks.predictors.sizes import fitting_sizes
from predictors.features import Blocks, LatencyFeatures
from predictors.latency import LatencyPredictor

_FBNET, _SPLITS = "help/fbnet_latency.npz", "help/fbnet_device_splits.json"
_OFA, _NB201 = "help/ofa_mbv3_latency.npz", "help/nasbench201_latency.npz"
_FBNET_TARGETS_20 = {"0": 0.975, "1": 0.89, "2": 0.88, "3": 0.55, "4": 0.815, "5": 0.65}
_FBNET_SIZES = (10, 20, 50, 100)
_QUICK_ROWS = 1000


def add_fbnet(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """The tasks of HELP: some devices are sources, some targets; without a file of tasks, every device."""
    path = report.data_file(_FBNET)
    if path is None:
        return
    table = _usable(report, "fbnet", read_fbnet(path), quick=options.quick)
    splits = report.data_file(_SPLITS)
    if splits is None:
        _each_device(report, options, "fbnet", table, sizes=_FBNET_SIZES)
        return
    with readable(splits):
        tasks = json.loads(splits.read_text(encoding="utf-8"))
        known = {device for task in tasks.values() for part in (task["train"], task["test"]) for device in part}
    if missing := sorted(known - set(table.latency)):
        report.skip("fbnet", f"{path} has no columns of {', '.join(missing)}")
        return
    if not (sizes := _sizes(report, options, "fbnet", _FBNET_SIZES, table)):
        return
    trained = sorted({device for task in tasks.values() for device in task["train"]})
    blocks, sources = _sources(table, trained)
    all_means = []
    for name, task in tasks.items() if not options.quick else list(tasks.items())[:1]:
        target = Target(table, [sources[device] for device in task["train"]])
        best = float(np.mean([_ceiling(table, device, blocks=blocks, options=options) for device in task["test"]]))
        report.add(f"fbnet/task{name}/ceiling/spearman", best)
        rows = []
        for n in sizes:
            found: dict[str, list[list[Outcome]]] = {}
            for device in task["test"]:
                for method, judge in target.judges(table.latency[device]).items():
                    by_seed = found.setdefault(method, [[] for _ in range(options.seeds)])
                    for seed in range(options.seeds):
                        by_seed[seed].append(judge(n, seed))
            means = {method: mean_outcome(outcomes) for method, outcomes in found.items()}
            ridge = max(means["ridge"]["spearman"], means["ridge_onehot"]["spearman"])
            least = max(ridge, _FBNET_TARGETS_20[name]) if n == 20 and name in _FBNET_TARGETS_20 else ridge
            _add(report, f"fbnet/task{name}/n{n}", means, at_least=least)
            rows.append([str(n), *_cells(means), f"{best:.3f}"])
            all_means.append((f"task {name}", n, means))
        report.show(f"FBNet, task {name}: {', '.join(task['test'])}", headings=["n", *_headings(means)], rows=rows)
    add_coverage(report, "fbnet", all_means)
    draw_curves(options.out, "fbnet", all_means)
    targets = dict.fromkeys(device for task in tasks.values() for device in task["test"])
    add_outside(report, options, "fbnet", Target(table, blocks=blocks), devices=list(targets))


def add_ofa(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Every device of OFA-MobileNetV3; the sources are those of other families: what stands before the batch size."""
    path = report.data_file(_OFA)
    if path is None:
        return
    table = _usable(report, "ofa", read_ofa(path), quick=options.quick)
    family = {device: device.rpartition("_")[0] or device for device in table.latency}
    _each_device(report, options, "ofa", table, sizes=(10, 20, 100), family=family)


def add_nasbench201(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Every device of NAS-Bench-201; the sources are all others."""
    path = report.data_file(_NB201)
    if path is None:
        return
    table = _usable(report, "nb201", read_nasbench201(path), quick=options.quick)
    _each_device(report, options, "nb201", table, sizes=(10, 50, 100))


def _each_device(
    report: BenchmarkReport,
    options: argparse.Namespace,
    case: str,
    table: LatencyTable,
    *,
    sizes: Sequence[int],
    family: Mapping[str, str] | None = None,
) -> None:
    """Every device of a table by itself, without sources and with those of another family."""
    if not (sizes := _sizes(report, options, case, sizes, table)):
        return
    blocks, sources = _sources(table, list(table.latency))
    alone, family = Target(table, blocks=blocks), family or {device: device for device in table.latency}
    helped = {
        name: Target(table, [sources[device] for device in table.latency if family[device] != name])
        for name in dict.fromkeys(family.values())
    }
    rows, all_means = [], []
    for device, cost_N in list(table.latency.items())[: 2 if options.quick else None]:
        best = _ceiling(table, device, blocks=blocks, options=options)
        report.add(f"{case}/{device}/ceiling/spearman", best)
        judges = alone.judges(cost_N)
        if helped[family[device]].sources:
            more = helped[family[device]].judges(cost_N)
            names = {"ours": "transfer_ours", "ridge": "transfer_ridge", "best_source": "best_source"}
            judges |= {names[method]: judge for method, judge in more.items() if method in names}
        for n in sizes:
            means = {
                method: mean_outcome([judge(n, seed) for seed in range(options.seeds)])
                for method, judge in judges.items()
            }
            ridge = max(means["ridge_analytic"]["spearman"], means["ridge_onehot"]["spearman"])
            _add(report, f"{case}/{device}/n{n}", means, at_least=ridge)
            rows.append([device, str(n), *_cells(means), f"{best:.3f}"])
            all_means.append((device, n, means))
    if not rows:
        return
    report.show(
        f"{case}: Spearman; within 10 % and coverage of ours", headings=["device", "n", *_headings(means)], rows=rows
    )
    add_coverage(report, case, all_means)
    draw_curves(options.out, case, all_means)
    add_outside(report, options, case, alone, devices=list(table.latency)[: 2 if options.quick else None])


def _usable(report: BenchmarkReport, case: str, table: LatencyTable, *, quick: bool) -> LatencyTable:
    """The table without columns that are no latencies; a part of its networks if it is to be quick."""
    for device, problem in table.problems().items():
        report.skip(f"{case}/{device}", problem)
    return table.part(
        devices=[d for d in table.latency if d not in table.problems()], rows=_QUICK_ROWS if quick else None
    )


def _sources(table: LatencyTable, devices: Sequence[str]) -> tuple[Blocks, Mapping[str, LatencyPredictor]]:
    """Features of a table's networks, and a predictor of each of some devices."""
    blocks = LatencyFeatures(space=table.space).encode(table.genomes_NG)
    return blocks, {device: fit_source(table, device, blocks=blocks) for device in devices}


def _ceiling(table: LatencyTable, device: str, *, blocks: Blocks, options: argparse.Namespace) -> float:
    return ceiling(table.latency[device], blocks["choices"], seeds=options.seeds)


def _sizes(
    report: BenchmarkReport, options: argparse.Namespace, case: str, sizes: Sequence[int], table: LatencyTable
) -> Sequence[int]:
    return fitting_sizes(report, case, sizes[:2] if options.quick else sizes, num=len(table.genomes_NG))


def _add(report: BenchmarkReport, case: str, means: Mapping[str, Mapping[str, float]], *, at_least: float) -> None:
    for method, figures in means.items():
        for name, value in figures.items():
            limit = at_least if (method, name) == ("ours", "spearman") else None
            if np.isfinite(value) or limit is not None:
                report.add(f"{case}/{method}/{name}", value, at_least=limit)


def _headings(means: Mapping[str, object]) -> list[str]:
    return [*(name.replace("_", " ") for name in means), "within 10 %", "coverage", "ceiling"]


def _cells(means: Mapping[str, Mapping[str, float]]) -> list[str]:
    ours = means["ours"]
    cells = [f"{found['spearman']:.3f}" for found in means.values()]
    return [*cells, share_text(ours["within_10"]), share_text(ours["coverage"])]
