"""This machine's devices: p99 from few measurements, and int8 latency from the same device's in fp32."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.local_devices import LocalDevice
from experiments.benchmarks.predictors.methods import Outcome, Target, fit_source, judged, mean_outcome
from nas.costs import fit_costs
from predictors import fit_cost_predictor, fit_latency_predictor
from predictors.features import LatencyFeatures

_P99_SIZES = (10, 20, 50)
# Five are fewer than a predictor is fitted to.
_INT8_SIZES = (5, 10, 20, 50)
# As many as a profile has.
_SOURCE_ROWS = 40


def add_p99(report: BenchmarkReport, devices: Sequence[LocalDevice], *, seeds: int) -> None:
    """p99 by itself and as `nas profile` fits it, from random networks; beside it how halves of the rounds agree."""
    rows = []
    for device in devices:
        one_N, other_N = device.halves_N
        noise = {
            "spearman": float(stats.spearmanr(one_N, other_N).statistic),
            "mape": float(100.0 * np.abs(one_N / other_N - 1.0).mean()),
        }
        for key, value in noise.items():
            report.add(f"local/{device.name}/p99/halves/{key}", value)
        for n in _P99_SIZES:
            found: dict[str, list[Outcome]] = {"alone": [], "ours": []}
            for seed in range(seeds):
                chosen = Target(device.table).random(n, seed=seed)
                for method, outcome in _p99_outcomes(device, chosen).items():
                    found[method].append(outcome)
            means = {method: mean_outcome(outcomes) for method, outcomes in found.items()}
            _add(report, f"local/{device.name}/p99/n{n}", means)
            rows.append([device.name, str(n), *_cells(means), f"{noise['spearman']:.3f} {noise['mape']:.1f} %"])
    report.show(
        "p99: Spearman, mean error, coverage",
        headings=["device", "n", "alone", "ours", "halves of the rounds"],
        rows=rows,
    )


def add_int8(report: BenchmarkReport, devices: Sequence[LocalDevice], *, seeds: int) -> None:
    """Every int8 device alone, from the fp32 device's predictor, and from those of all other devices."""
    by_name = {device.name: device for device in devices}
    sources = {
        name: fit_source(
            device.table,
            name,
            blocks=LatencyFeatures(space=device.table.space).encode(device.table.genomes_NG),
            num=_SOURCE_ROWS,
        )
        for name, device in by_name.items()
    }
    rows = []
    for name, device in by_name.items():
        sibling = name.removesuffix("-int8")
        if sibling == name or sibling not in by_name:
            continue
        targets = {
            "alone": Target(device.table),
            "from_fp32": Target(device.table, [sources[sibling]]),
            "from_all": Target(device.table, [source for other, source in sources.items() if other != name]),
        }
        for n in _INT8_SIZES:
            means = {
                method: mean_outcome(
                    [target.judge_ours(device.cost_N, target.random(n, seed=seed)) for seed in range(seeds)]
                )
                for method, target in targets.items()
            }
            _add(report, f"local/int8-from-fp32/{name}/n{n}", means)
            rows.append([name, str(n), *_cells(means)])
    if rows:
        headings = ["device", "n", "alone", "from fp32", "from all others"]
        report.show("int8 latency: Spearman, mean error, coverage", headings=headings, rows=rows)


def _p99_outcomes(device: LocalDevice, chosen: np.ndarray) -> Mapping[str, Outcome]:
    space = device.table.space
    others = np.setdiff1d(np.arange(len(device.cost_N)), chosen)
    fit = device.frame(chosen)
    latency = fit_latency_predictor(fit, space=space, device_id=device.name)
    predictors = {
        "alone": fit_cost_predictor(fit, quantity="latency_p99", space=space, device_id=device.name),
        "ours": fit_costs(fit, device.frame(others), latency=latency)["latency_p99"],
    }
    return {
        method: judged(predictor.predict(device.table.genomes_NG[others]), device.p99_N[others])
        for method, predictor in predictors.items()
    }


def _add(report: BenchmarkReport, case: str, means: Mapping[str, Mapping[str, float]]) -> None:
    for method, figures in means.items():
        for key, value in figures.items():
            report.add(f"{case}/{method}/{key}", value)


def _cells(means: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"{one['spearman']:.3f} {one['mape']:.1f} % {one['coverage']:.0%}" for one in means.values()]
