"""Latencies of transformers (data of HAT) from averages of their layers: no space of ours, the cost model by itself."""

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.coverage import add_coverage
from experiments.benchmarks.predictors.curves import draw_curves
from experiments.benchmarks.predictors.methods import Outcome, judge_best_proxy, judged, mean_outcome
from experiments.benchmarks.predictors.published import readable
from experiments.benchmarks.predictors.ridge import plain_ridge
from experiments.benchmarks.predictors.sizes import fitting_sizes
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


def add_hat(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Every table with 100, 400 and 1,600 of its rows; published are 2,000."""
    rows, all_means = [], []
    tables = {name: _read(path) for name, file in _FILES.items() if (path := report.data_file(file)) is not None}
    asked = _SIZES[:1] if options.quick else _SIZES
    sizes = {name: fitting_sizes(report, f"hat/{name}", asked, num=len(table.cost_N)) for name, table in tables.items()}
    tables = {name: table for name, table in tables.items() if sizes[name]}
    for name, table in tables.items():
        blocks, cost_N, noise_N = table.blocks, table.cost_N, table.noise_N
        inputs_NF = blocks["totals"]
        sources = [other for key, other in tables.items() if key != name]
        said = [plain_ridge(other.blocks["totals"], other.cost_N, inputs_NF).mean for other in sources]
        report.add(f"hat/{name}/noise/relative", float(np.median(noise_N / cost_N)))
        for n in sizes[name]:
            found: dict[str, list[Outcome]] = {}
            for seed in range(options.seeds):
                fitted = np.random.default_rng((seed, 3)).choice(len(cost_N), n, replace=False)
                others = np.setdiff1d(np.arange(len(cost_N)), fitted)
                outcomes = {
                    "ours": _ours(blocks, cost_N, noise_N, fitted=fitted, others=others),
                    "ridge": judged(plain_ridge(inputs_NF[fitted], cost_N[fitted], inputs_NF[others]), cost_N[others]),
                    "macs": judge_best_proxy(cost_N, fitted, proxies_NP=table.macs_N[:, None]),
                }
                if said:
                    outcomes["best_source"] = judge_best_proxy(cost_N, fitted, proxies_NP=np.stack(said, axis=1))
                for method, outcome in outcomes.items():
                    found.setdefault(method, []).append(outcome)
            means = {method: mean_outcome(outcomes) for method, outcomes in found.items()}
            for method, figures in means.items():
                for key, value in figures.items():
                    limit = means["ridge"]["spearman"] if (method, key) == ("ours", "spearman") else None
                    if np.isfinite(value) or limit is not None:
                        report.add(f"hat/{name}/n{n}/{method}/{key}", value, at_least=limit)
            all_means.append((name, n, means))
            ours, ridge = means["ours"], means["ridge"]
            rows.append(
                [
                    name,
                    str(n),
                    f"{ours['spearman']:.4f} {ours['mape']:.1f} %",
                    f"{ridge['spearman']:.4f} {ridge['mape']:.1f} %",
                    f"{means['macs']['spearman']:.3f}",
                    f"{means['best_source']['spearman']:.3f}" if said else "",
                    f"{ours['coverage']:.0%}",
                    f"{ours['repeat_coverage']:.0%}",
                ]
            )
    if rows:
        headings = [
            "table",
            "n",
            "ours: Spearman, error",
            "ridge: Spearman, error",
            "MACs",
            "best source",
            "coverage",
            "of a repeat",
        ]
        report.show("HAT: encoder and decoder together", headings=headings, rows=rows)
        add_coverage(report, "hat", all_means, methods=["ours"])
        draw_curves(options.out, "hat", all_means)


def _ours(
    blocks: Blocks, cost_N: FloatArray, noise_N: FloatArray, *, fitted: np.ndarray, others: np.ndarray
) -> Outcome:
    model = fit_cost_model(take(blocks, fitted), cost_N[fitted], population=blocks)
    found = model.predict(len(others), lambda part: take(blocks, others[part]))
    return judged(found, cost_N[others], noise_N=noise_N[others])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Transformers:
    """A table of HAT.

    Attributes:
        blocks: averages of the layers and their products.
        cost_N, noise_N: latency of encoder and decoder together, and its standard deviation.
        macs_N: weights that one token is multiplied with.
    """

    blocks: Blocks
    cost_N: FloatArray
    noise_N: FloatArray
    macs_N: FloatArray


def _read(path: Path) -> _Transformers:
    with readable(path):
        table = pd.read_csv(path).astype(np.float64)
        inputs = [name for name in table.columns if not name.startswith("latency")]
        totals_NT = table[inputs].to_numpy()
        products = [totals_NT[:, a] * totals_NT[:, b] for a, b in itertools.combinations(range(len(inputs)), 2)]
        latency, noise, macs = (np.zeros(len(table)) for _ in range(3))
        # A decoder's layers attend twice; every projection has 512 columns, however many heads.
        for part, projections in (("encoder", 4), ("decoder", 8)):
            latency += table[f"latency_mean_{part}"].to_numpy()
            noise += table[f"latency_std_{part}"].to_numpy() ** 2
            columns = projections * 512 + 2 * table[f"{part}_ffn_embed_dim_avg"]
            macs += (table[f"{part}_layer_num"] * table[f"{part}_embed_dim"] * columns).to_numpy()
        return _Transformers(
            blocks={"totals": totals_NT, "kinds": np.stack(products, axis=1), "choices": np.zeros((len(totals_NT), 0))},
            cost_N=latency,
            noise_N=np.sqrt(noise),
            macs_N=macs,
        )
