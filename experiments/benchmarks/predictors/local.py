"""This machine's devices: how many measurements it takes until nine of ten other networks are predicted well enough."""

import argparse

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.coverage import add_coverage
from experiments.benchmarks.predictors.local_costs import add_int8, add_p99
from experiments.benchmarks.predictors.local_devices import LocalDevice, read_device
from experiments.benchmarks.predictors.methods import Target, mean_outcome
from experiments.recipe import load_recipe
from experiments.session import recipe_space

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
    devices: list[LocalDevice] = []
    rows, all_means = [], []
    for folder in sorted(path for path in (options.measurements / "measurements").iterdir() if path.is_dir()):
        device = read_device(folder, space=space)
        cost_N = device.cost_N
        if len(cost_N) < _FEWEST_ROWS:
            report.skip(f"local/{folder.name}", f"{len(cost_N)} good measurements, at least {_FEWEST_ROWS} are needed")
            continue
        devices.append(device)
        target = Target(device.table)
        needed: dict[str, int | None] = {"within_10": None, "within_5": None}
        for n in _SIZES[:3] if options.quick else _SIZES:
            found = {
                "ours": [target.judge_ours(cost_N, target.designed(n, seed=seed)) for seed in range(options.seeds)],
                "ours_random": [
                    target.judge_ours(cost_N, target.random(n, seed=seed)) for seed in range(options.seeds)
                ],
            }
            means = {name: mean_outcome(outcomes) for name, outcomes in found.items()}
            for name, figures in means.items():
                for key, value in figures.items():
                    report.add(f"local/{folder.name}/n{n}/{name}/{key}", value)
            for key in needed:
                if needed[key] is None and means["ours"][key] >= _ENOUGH:
                    needed[key] = n
            all_means.append((n, means))
            ours = means["ours"]
            rows.append(
                [
                    folder.name,
                    str(n),
                    f"{ours['spearman']:.3f}",
                    f"{ours['within_10']:.0%}",
                    f"{ours['within_5']:.0%}",
                    f"{ours['coverage']:.0%}",
                ]
            )
        for key, n_needed in needed.items():
            report.add(f"local/{folder.name}/measurements_for_90_percent_{key}", n_needed)
    if rows:
        headings = ["device", "n", "Spearman", "within 10 %", "within 5 %", "coverage"]
        report.show("Devices of this machine", headings=headings, rows=rows)
        add_coverage(report, "local", all_means)
        add_p99(report, devices, seeds=options.seeds)
        add_int8(report, devices, seeds=options.seeds)
