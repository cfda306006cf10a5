"""Few-shot latency prediction on published measurements, against plain ridge.

Every measurement on the target device is counted, the test set is every other network, untrimmed. "ours" measures the
networks that tell most, "ours_random" random ones, as the ridges do: one-hot genes, analytic cost (MACs, bytes moved,
operators), and what the source devices say. FBNet: six transfer tasks (data of HELP). OFA: every device without
sources and with those of other GPU families. NAS-Bench-201: every device without and with the others. Accuracy:
NAS-Bench-Macro, from 50 to 250 trained networks. HAT: transformers, from averages of their layers. This machine's
devices: what proxy_audit measured. Operators: an operator lookup table of this machine's CPU, which is measured here.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.predictors.accuracy import add_accuracy
from experiments.benchmarks.predictors.coverage import add_coverage
from experiments.benchmarks.predictors.hat import add_hat
from experiments.benchmarks.predictors.local import add_local
from experiments.benchmarks.predictors.methods import Judge, Outcome, Target, fit_source, mean_outcome
from experiments.benchmarks.predictors.operators import add_operators
from experiments.benchmarks.predictors.published import LatencyTable, read_fbnet, read_nasbench201, read_ofa
from experiments.benchmarks.predictors.speed import measure_speed
from predictors.features import Blocks, LatencyFeatures
from predictors.latency import LatencyPredictor

PARTS = ("fbnet", "ofa", "nb201", "hat", "local", "operators", "accuracy", "speed")
RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
_FBNET, _SPLITS = "help/fbnet_latency.npz", "help/fbnet_device_splits.json"
_OFA, _NB201 = "help/ofa_mbv3_latency.npz", "help/nasbench201_latency.npz"
_FBNET_TARGETS_20 = {"0": 0.975, "1": 0.89, "2": 0.88, "3": 0.55, "4": 0.815, "5": 0.65}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = benchmark_parser("predictors", description=__doc__, seeds=10)
    parser.add_argument(
        "--parts", type=_parts, default=PARTS, metavar="LIST", help=f"some of {','.join(PARTS)} [default: all]"
    )
    parser.add_argument(
        "--measurements", type=Path, metavar="DIR", help="of this machine's devices: proxy_audit's --work"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps what the part operators has measured")
    parser.add_argument(
        "--recipe", type=Path, default=RECIPE, metavar="RECIPE", help="names their space [default: quickstart.yaml]"
    )
    options, report = start(parser, argv)
    parts: Mapping[str, Callable[[BenchmarkReport, argparse.Namespace], None]] = {
        "fbnet": _fbnet,
        "ofa": _ofa,
        "nb201": _nb201,
        "hat": add_hat,
        "local": add_local,
        "operators": add_operators,
        "accuracy": add_accuracy,
        "speed": measure_speed,
    }
    for name in options.parts:
        parts[name](report, options)
        report.save()
    return report.finish()


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(PARTS)}")
    return parts


def _fbnet(report: BenchmarkReport, options: argparse.Namespace) -> None:
    path, splits = report.data_file(_FBNET), report.data_file(_SPLITS)
    if path is None or splits is None:
        return
    table = _thinned(read_fbnet(path), quick=options.quick)
    tasks = json.loads(splits.read_text(encoding="utf-8"))
    known = {device for task in tasks.values() for part in task.values() for device in part}
    if missing := sorted(known - set(table.latency)):
        report.skip("fbnet", f"{path} has no columns of {', '.join(missing)}")
        return
    trained = sorted({device for task in tasks.values() for device in task["train"]})
    _, sources = _sources(table, trained)
    for name, task in tasks.items() if not options.quick else list(tasks.items())[:1]:
        target = Target(table, [sources[device] for device in task["train"]])
        said_NS = np.stack([np.log(sources[device].predict(table.genomes_NG).mean) for device in task["train"]], axis=1)
        rows = []
        for n in _sizes(options, (10, 20, 50, 100)):
            found: dict[str, list[Outcome]] = {}
            for device in task["test"]:
                for method, judge in _methods(target, table.latency[device], ridges={"ridge": said_NS}).items():
                    found.setdefault(method, []).extend(judge(n, seed) for seed in range(options.seeds))
            means = {method: mean_outcome(outcomes) for method, outcomes in found.items()}
            ridge = max(means["ridge"]["spearman"], means["ridge_onehot"]["spearman"])
            least = max(ridge, _FBNET_TARGETS_20[name]) if n == 20 and name in _FBNET_TARGETS_20 else ridge
            _add(report, f"fbnet/task{name}/n{n}", means, at_least=least)
            rows.append([str(n), *_cells(means)])
        report.show(f"FBNet, task {name}: {', '.join(task['test'])}", headings=["n", *_headings(means)], rows=rows)


def _ofa(report: BenchmarkReport, options: argparse.Namespace) -> None:
    path = report.data_file(_OFA)
    if path is None:
        return
    table = _thinned(read_ofa(path), quick=options.quick)
    blocks, sources = _sources(table, list(table.latency))
    family = {device: device.rpartition("_")[0] for device in table.latency}
    alone = Target(table, blocks=blocks)
    helped = {
        name: Target(table, [sources[device] for device in table.latency if family[device] != name])
        for name in dict.fromkeys(family.values())
    }
    _each_device(
        report, options, "ofa", alone, {device: helped[family[device]] for device in table.latency}, (10, 20, 100)
    )


def _nb201(report: BenchmarkReport, options: argparse.Namespace) -> None:
    path = report.data_file(_NB201)
    if path is None:
        return
    table = _thinned(read_nasbench201(path), quick=options.quick)
    blocks, sources = _sources(table, list(table.latency))
    helped = {
        device: Target(table, [sources[other] for other in table.latency if other != device])
        for device in table.latency
    }
    _each_device(report, options, "nb201", Target(table, blocks=blocks), helped, (10, 50, 100))


def _sources(table: LatencyTable, devices: Sequence[str]) -> tuple[Blocks, Mapping[str, LatencyPredictor]]:
    """Features of a table's networks, and a predictor of each of some devices."""
    blocks = LatencyFeatures(space=table.space).encode(table.genomes_NG)
    return blocks, {device: fit_source(table, device, blocks=blocks) for device in devices}


def _each_device(
    report: BenchmarkReport,
    options: argparse.Namespace,
    case: str,
    alone: Target,
    helped: Mapping[str, Target],
    sizes: Sequence[int],
) -> None:
    """Every device of a table by itself, without sources and with them."""
    rows, all_means = [], []
    for device, cost_N in list(alone.table.latency.items())[: 2 if options.quick else None]:
        for n in _sizes(options, sizes):
            judges = dict(_methods(alone, cost_N, ridges={}))
            judges |= {
                f"transfer_{m}": j for m, j in _methods(helped[device], cost_N, ridges={}).items() if m == "ours"
            }
            means = {
                method: mean_outcome([judge(n, seed) for seed in range(options.seeds)])
                for method, judge in judges.items()
            }
            best = max(means["ridge_analytic"]["spearman"], means["ridge_onehot"]["spearman"])
            _add(report, f"{case}/{device}/n{n}", means, at_least=best)
            rows.append([device, str(n), *_cells(means)])
            all_means.append((n, means))
    report.show(f"{case}: Spearman, within 10 %", headings=["device", "n", *_headings(means)], rows=rows)
    add_coverage(report, case, all_means)


def _methods(target: Target, cost_N: np.ndarray, *, ridges: Mapping[str, np.ndarray]) -> dict[str, Judge]:
    inputs = {**ridges, "ridge_onehot": target.blocks["choices"], "ridge_analytic": target.analytic_N3}
    judges: dict[str, Judge] = {
        "ours": lambda n, seed: target.judge_ours(cost_N, target.designed(n, seed=seed)),
        "ours_random": lambda n, seed: target.judge_ours(cost_N, target.random(n, seed=seed)),
    }
    for name, inputs_NF in inputs.items():
        judges[name] = lambda n, seed, x=inputs_NF: target.judge_ridge(  # type: ignore[misc]
            cost_N, target.random(n, seed=seed), inputs_NF=x
        )
    return judges


def _sizes(options: argparse.Namespace, sizes: Sequence[int]) -> Sequence[int]:
    return sizes[:2] if options.quick else sizes


def _thinned(table: LatencyTable, *, quick: bool) -> LatencyTable:
    if not quick:
        return table
    return replace(
        table,
        genomes_NG=table.genomes_NG[:1000],
        latency={device: cost_N[:1000] for device, cost_N in table.latency.items()},
    )


def _add(report: BenchmarkReport, case: str, means: Mapping[str, Mapping[str, float]], *, at_least: float) -> None:
    for method, figures in means.items():
        for name, value in figures.items():
            limit = at_least if (method, name) == ("ours", "spearman") else None
            report.add(f"{case}/{method}/{name}", value, at_least=limit)


def _headings(means: Mapping[str, object]) -> list[str]:
    return [*means, "coverage"]


def _cells(means: Mapping[str, Mapping[str, float]]) -> list[str]:
    cells = [f"{found['spearman']:.3f} {found['within_10']:.0%}" for found in means.values()]
    return [*cells, f"{means['ours']['coverage']:.0%}"]


if __name__ == "__main__":
    raise SystemExit(main())
