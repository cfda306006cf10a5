"""This machine's devices: how many measurements it takes until nine of ten other networks are predicted well enough."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.benchmarks.audited_subnets import REFERENCE
from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.coverage import add_coverage
from experiments.benchmarks.predictors.curves import draw_curves
from experiments.benchmarks.predictors.methods import Target, fit_source, mean_outcome
from experiments.benchmarks.predictors.published import LatencyTable
from experiments.recipe import load_recipe
from experiments.session import recipe_space
from hardware.measurement import MEASUREMENT_SCHEMA
from hardware.table import Table
from nas.profile import ratio_to_reference
from searchspaces import Architecture, SearchSpace

_SIZES = (10, 15, 20, 30, 50, 75, 100)
# Fewer leave too few to judge by.
_FEWEST_ROWS = 130
_ENOUGH = 0.90


def add_local(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Every device below --measurements with enough networks; suspects are left out."""
    if options.measurements is None:
        report.skip(
            "local", "pass --measurements DIR of proxy_audit (its --work DIR) and --recipe, the run's recipe.yaml"
        )
        return
    space = recipe_space(load_recipe(options.recipe))
    rows, all_means = [], []
    targets = _targets(report, options.measurements, space=space)
    sources = {name: fit_source(target.table, name, blocks=target.blocks) for name, target in targets.items()}
    for name, target in targets.items():
        cost_N, genomes_NG = target.table.latency[name], target.table.genomes_NG
        said = [source.predict(genomes_NG).mean for other, source in sources.items() if other != name]
        judges = target.judges(cost_N, proxies={"best_source": np.stack(said, axis=1)} if said else {})
        needed: dict[str, int | None] = {"within_10": None, "within_5": None}
        for n in _SIZES[:3] if options.quick else _SIZES:
            means = {
                method: mean_outcome([judge(n, seed) for seed in range(options.seeds)])
                for method, judge in judges.items()
            }
            for method, figures in means.items():
                for key, value in figures.items():
                    if np.isfinite(value):
                        report.add(f"local/{name}/n{n}/{method}/{key}", value)
            for key in needed:
                if needed[key] is None and means["ours"][key] >= _ENOUGH:
                    needed[key] = n
            all_means.append((name, n, means))
            ours = means["ours"]
            rows.append(
                [
                    name,
                    str(n),
                    f"{ours['spearman']:.3f}",
                    *(f"{means[other]['spearman']:.3f}" for other in means if not other.startswith("ours")),
                    f"{ours['within_10']:.0%}",
                    f"{ours['within_5']:.0%}",
                    f"{ours['coverage']:.0%}",
                ]
            )
        for key, n_needed in needed.items():
            report.add(f"local/{name}/measurements_for_90_percent_{key}", n_needed)
    if rows:
        others = [other for other in means if not other.startswith("ours")]
        headings = ["device", "n", "Spearman", *others, "within 10 %", "within 5 %", "coverage"]
        report.show("Devices of this machine", headings=headings, rows=rows)
        add_coverage(report, "local", all_means)
        draw_curves(options.out, "local", all_means)


def _targets(report: BenchmarkReport, measurements: Path, *, space: SearchSpace) -> Mapping[str, Target]:
    """The devices that have enough networks, by name."""
    targets: dict[str, Target] = {}
    for folder in sorted(path for path in (measurements / "measurements").iterdir() if path.is_dir()):
        table, references = _read(folder)
        if len(table) < _FEWEST_ROWS:
            report.skip(f"local/{folder.name}", f"{len(table)} good measurements, at least {_FEWEST_ROWS} are needed")
            continue
        archs = [Architecture.from_json(text) for text in table["architecture"]]
        # In units of the reference network beside them: the host's speed changes from session to session.
        cost_N = np.array(
            [
                ratio_to_reference(raw_ms, references[session])
                for raw_ms, session in zip(table["raw_ms"], table["session_id"], strict=True)
            ]
        )
        latency = {folder.name: cost_N}
        targets[folder.name] = Target(LatencyTable(space=space, genomes_NG=space.genomes(archs), latency=latency))
    return targets


def _read(folder: Path) -> tuple[pd.DataFrame, Mapping[str, Sequence[Sequence[float]]]]:
    """The good rows, and the reference's runs of each session."""
    rows = Table(folder, schema=MEASUREMENT_SCHEMA).read()
    rows = rows[~rows["suspect"]]
    is_reference = rows["purpose"] == REFERENCE
    references = dict(zip(rows["session_id"][is_reference], rows["raw_ms"][is_reference], strict=True))
    others = rows[~is_reference & rows["session_id"].isin(list(references))]
    return others.drop_duplicates("arch_id", keep="last"), references
