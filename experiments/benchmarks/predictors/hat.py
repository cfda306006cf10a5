"""Latencies of transformers (data of HAT) from averages of their layers: no space of ours, the cost model by itself."""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.coverage import add_coverage
from experiments.benchmarks.predictors.methods import Outcome, errors_of, mean_outcome, plain_ridge
from predictors.features import Blocks, take
from predictors.model import fit_cost_model
from predictors.prediction import FloatArray

_FILES = {
    "iwslt14deen_gpu_titanxp": "hat/iwslt14deen_gpu_titanxp_all.csv",
    "wmt14ende_cpu_raspberrypi": "hat/wmt14ende_cpu_raspberrypi_all.csv",
    "wmt14ende_cpu_xeon": "hat/wmt14ende_cpu_xeon_all.csv",
    "wmt14ende_gpu_titanxp": "hat/wmt14ende_gpu_titanxp_all.csv",
}
_SIZES = (100, 400, 1600)
_SEEDS = 3


def add_hat(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Every table with 100, 400 and 1,600 of its 2,000 rows, at most three seeds: the largest fits take a while."""
    rows, all_means = [], []
    for name, file in _FILES.items():
        path = report.data_file(file)
        if path is None:
            continue
        blocks, cost_N, noise_N = _read(path)
        report.add(f"hat/{name}/noise/relative", float(np.median(noise_N / cost_N)))
        for n in _SIZES[:1] if options.quick else _SIZES:
            found: dict[str, list[Outcome]] = {"ours": [], "ridge": []}
            for seed in range(min(options.seeds, _SEEDS)):
                fitted = np.random.default_rng((seed, 3)).choice(len(cost_N), n, replace=False)
                others = np.setdiff1d(np.arange(len(cost_N)), fitted)
                found["ours"].append(_ours(blocks, cost_N, fitted=fitted, others=others))
                inputs_NF = blocks["totals"]
                guess_N = plain_ridge(inputs_NF[fitted], cost_N[fitted], inputs_NF[others])
                found["ridge"].append(Outcome(**errors_of(guess_N, cost_N[others])))
            means = {method: mean_outcome(outcomes) for method, outcomes in found.items()}
            for method, figures in means.items():
                for key, value in figures.items():
                    limit = means["ridge"]["spearman"] if (method, key) == ("ours", "spearman") else None
                    report.add(f"hat/{name}/n{n}/{method}/{key}", value, at_least=limit)
            all_means.append((n, means))
            ours, ridge = means["ours"], means["ridge"]
            rows.append(
                [
                    name,
                    str(n),
                    f"{ours['spearman']:.4f} {ours['mape']:.1f} %",
                    f"{ridge['spearman']:.4f} {ridge['mape']:.1f} %",
                    f"{ours['coverage']:.0%}",
                ]
            )
    if rows:
        headings = ["table", "n", "ours: Spearman, error", "ridge: Spearman, error", "coverage"]
        report.show("HAT: encoder and decoder together", headings=headings, rows=rows)
        add_coverage(report, "hat", all_means, methods=["ours"])


def _ours(blocks: Blocks, cost_N: FloatArray, *, fitted: np.ndarray, others: np.ndarray) -> Outcome:
    model = fit_cost_model(take(blocks, fitted), cost_N[fitted], population=blocks)
    found = model.predict(len(others), lambda part: take(blocks, others[part]))
    held_N = (found.lower <= cost_N[others]) & (cost_N[others] <= found.upper)
    return Outcome(
        **errors_of(found.mean, cost_N[others]),
        coverage=float(held_N[found.in_range].mean()),
        in_range=float(found.in_range.mean()),
    )


def _read(path: Path) -> tuple[Blocks, FloatArray, FloatArray]:
    """Averages of the layers and their products; latency of encoder and decoder together; its standard deviation."""
    table = pd.read_csv(path)
    inputs = [name for name in table.columns if not name.startswith("latency")]
    totals_NT = table[inputs].to_numpy(dtype=np.float64)
    products = [totals_NT[:, a] * totals_NT[:, b] for a, b in itertools.combinations(range(len(inputs)), 2)]
    blocks = {
        "totals": totals_NT,
        "kinds": np.stack(products, axis=1),
        "choices": np.zeros((len(totals_NT), 0)),
    }
    parts = ("encoder", "decoder")
    cost_N = sum(table[f"latency_mean_{part}"].to_numpy(dtype=np.float64) for part in parts)
    noise_N = np.sqrt(sum(table[f"latency_std_{part}"].to_numpy(dtype=np.float64) ** 2 for part in parts))
    return blocks, np.asarray(cost_N), np.asarray(noise_N)
