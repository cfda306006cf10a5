"""This machine's devices: how many measurements it takes until nine of ten other networks are predicted well enough."""

import argparse
from pathlib import Path

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.coverage import add_coverage
from experiments.benchmarks.predictors.curves import draw_curves
from experiments.benchmarks.predictors.local_costs import add_int8, add_p99
from experiments.benchmarks.predictors.local_devices import LocalDevice, read_device
from experiments.benchmarks.predictors.methods import Target, fit_source, mean_outcome
from experiments.recipe import load_recipe
from experiments.session import recipe_space
from searchspaces import SearchSpace

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
    devices = _devices(report, options.measurements, space=space)
    targets = {device.name: Target(device.table) for device in devices}
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
        add_p99(report, devices, seeds=options.seeds)
        add_int8(report, devices, seeds=options.seeds)


def _devices(report: BenchmarkReport, measurements: Path, *, space: SearchSpace) -> list[LocalDevice]:
    """Those that have enough networks."""
    devices = []
    for folder in sorted(path for path in (measurements / "measurements").iterdir() if path.is_dir()):
        device = read_device(folder, space=space)
        num = len(device.cost_N)
        if num < _FEWEST_ROWS:
            report.skip(f"local/{folder.name}", f"{num} good measurements, at least {_FEWEST_ROWS} are needed")
            continue
        devices.append(device)
    return devices
