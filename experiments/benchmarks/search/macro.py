"""The exact front of NAS-Bench-Macro: accuracy, MACs and parameters; the two counts are computed by ours."""

import argparse
from collections.abc import Callable

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.accuracy import MACRO, read_macro
from experiments.benchmarks.search.compare import compare
from experiments.benchmarks.search.curves import draw_curves
from experiments.benchmarks.search.truth import ExactFront, Problem
from hardware.cost import analytic_costs
from nas.objectives import ACCURACY, Objective
from predictors.prediction import FloatArray
from searchspaces.genomes import Genomes
from searchspaces.nas_bench_macro import nas_bench_macro


def add_macro(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """All networks count, and all three objectives are told to Optuna's samplers."""
    path = report.data_file(MACRO)
    if path is None:
        return
    space = nas_bench_macro()
    genomes_NG, accuracy_N, _ = read_macro(path, space)
    computed: dict[str, Callable[[Genomes], FloatArray]] = {
        "macs": lambda some_NG: analytic_costs(space.op_table(some_NG)).macs_N.astype(np.float64),
        "params": lambda some_NG: analytic_costs(space.op_table(some_NG)).params_N.astype(np.float64),
    }
    counts = tuple(Objective(name=name, direction="minimize", unit=name, cost_class="cheap") for name in computed)
    problem = Problem(
        space=space,
        genomes_NG=genomes_NG,
        objectives=(ACCURACY, *counts),
        values_NM=np.column_stack([accuracy_N, *(compute(genomes_NG) for compute in computed.values())]),
    )
    found = compare(report, options, "macro", problem, front=ExactFront(problem.cost_NM), computed=computed)
    draw_curves(options.out, "macro", {"macro": found})
