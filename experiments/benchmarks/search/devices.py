"""One search for all devices: the exact fronts of NAS-Bench-201 on six devices after one budget of evaluations.

As in a run, accuracies are told by evaluation and latencies are computed (here from the published tables, without
error). Beside it stand the search that knows the first device alone, and one search for each device with its share of
the budget.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import optuna

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.published import LatencyTable
from experiments.benchmarks.search.nb201 import LEAST_ACCURACY, read_cells
from experiments.benchmarks.search.samplers import search_with
from experiments.benchmarks.search.truth import ExactFront, Problem, rows_by_genome
from nas.objectives import ACCURACY, LATENCY
from nas.pricing import Compute
from nas.search.surrogate import SurrogateSampler
from predictors.prediction import FloatArray
from searchspaces.genomes import Genomes

_BUDGET, _AT = 120, (60, 120)


def add_devices(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Shares of every device's exact front, medians over seeds."""
    cells = read_cells(report, options)
    if cells is None:
        return
    table, accuracy_N = cells
    names = [name for name in options.devices or table.latency if name in table.latency]
    if len(names) < 2:
        report.skip("devices", "it takes two devices or more")
        return
    ways: Mapping[str, Callable[[int], list[list[int]]]] = {
        "all at once": lambda seed: [_searched(table, accuracy_N, names, seed=seed, budget=_BUDGET)] * len(names),
        f"{names[0]} alone": lambda seed: (
            [_searched(table, accuracy_N, names[:1], seed=seed, budget=_BUDGET)] * len(names)
        ),
        "one each": lambda seed: [
            _searched(table, accuracy_N, [name], seed=seed, budget=_BUDGET // len(names)) for name in names
        ],
    }
    fronts = [_front(table, accuracy_N, name) for name in names]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows = []
    for way, search in ways.items():
        shares_SDA = np.array([_shares(search(seed), fronts) for seed in seeds])
        for at, n in enumerate(_AT):
            shares_SD = shares_SDA[:, :, at]
            key = f"devices/{way.replace(' ', '-')}"
            for d, name in enumerate(names):
                report.add(f"{key}/{name}/hypervolume_at_{n}", float(np.median(shares_SD[:, d])))
            report.add(f"{key}/worst_device/hypervolume_at_{n}", float(np.median(shares_SD.min(axis=1))))
            rows.append(
                [way, str(n), *(f"{share:.3f}" for share in np.median(shares_SD, axis=0)),
                 f"{np.median(shares_SD.min(axis=1)):.3f} ({shares_SD.min():.3f} - {shares_SD.min(axis=1).max():.3f})"]
            )  # fmt: skip
    report.show(
        f"share of each device's exact hypervolume, medians of {options.seeds} seeds; evaluations of all devices",
        headings=["searched", "evaluations", *names, "worst device (lowest - highest seed)"],
        rows=rows,
    )


def _shares(found: Sequence[Sequence[int]], fronts: Sequence[ExactFront]) -> FloatArray:
    """(D, A): of each device's front, after as many evaluations of its search as that has of the whole budget."""
    return np.array(
        [
            front.shares(rows)[[round(n * len(rows) / _BUDGET) - 1 for n in _AT]]
            for rows, front in zip(found, fronts, strict=True)
        ]
    )


def _searched(
    table: LatencyTable, accuracy_N: FloatArray, names: Sequence[str], *, seed: int, budget: int
) -> list[int]:
    problem = Problem(
        space=table.space,
        genomes_NG=table.genomes_NG,
        objectives=(ACCURACY, LATENCY),
        values_NM=np.column_stack([accuracy_N, table.latency[names[0]]]),
    )
    first, *elsewhere = (_compute(table, name) for name in names)
    sampler = SurrogateSampler(
        table.space, objectives=problem.objectives, computed={LATENCY.name: first}, elsewhere=elsewhere, seed=seed
    )
    directions = [objective.direction for objective in problem.objectives]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, directions=directions)
    return search_with(problem, study, seed=seed, budget=budget)


def _compute(table: LatencyTable, name: str) -> Compute:
    row_of = rows_by_genome(table.genomes_NG)
    latency_N = table.latency[name]

    def compute(genomes_NG: Genomes) -> FloatArray:
        canonical_NG = table.space.canonicalise(genomes_NG)
        found: FloatArray = latency_N[[row_of[genome_G.tobytes()] for genome_G in canonical_NG]]
        return found

    return compute


def _front(table: LatencyTable, accuracy_N: FloatArray, name: str) -> ExactFront:
    return ExactFront(np.column_stack([-accuracy_N, table.latency[name]]), counts_N=accuracy_N >= LEAST_ACCURACY)
