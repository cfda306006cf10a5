"""The exact fronts of NAS-Bench-201: accuracy on CIFAR-10 against latency on six devices, both told by evaluation only.

The front is that of the cells with an accuracy of at least 80 %: on some devices a cell at chance is so fast that it
would stretch the scale, and hand the front to random search. The unfiltered one stands beside it.
"""

import argparse
from collections.abc import Mapping

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.nasbench201_accuracies import WHERE, find_accuracies, read_accuracies
from experiments.benchmarks.predictors.published import LatencyTable, read_nasbench201
from experiments.benchmarks.search.compare import Curves, compare
from experiments.benchmarks.search.curves import draw_curves
from experiments.benchmarks.search.informed import KNOWN, guess_errors, guess_latencies, informed_search
from experiments.benchmarks.search.samplers import ONE_COST, OURS
from experiments.benchmarks.search.truth import ExactFront, Problem, evaluations_to
from experiments.errors import DataError
from nas.objectives import ACCURACY, Objective
from predictors.prediction import FloatArray
from searchspaces.nasbench201 import NASBench201Space

_FILE = "help/nasbench201_latency.npz"
LEAST_ACCURACY, _CHANCE = 0.80, 0.105
_WANTED = {60: 0.96, 120: 0.98, 200: 0.99}
_SHARE, _FEWER = 0.98, 4.0
_THREE = ("gold_6226", "pixel3")


def add_nb201(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Every device by itself, then accuracy and two devices at once."""
    cells = read_cells(report, options)
    if cells is None:
        return
    table, accuracy_N = cells
    _note_agreement(report, table, accuracy_N)
    wanted = options.devices or tuple(table.latency)
    if unknown := sorted(set(wanted) - set(table.latency)):
        report.skip(f"nb201/{','.join(unknown)}", f"{_FILE} has no such devices, it has {', '.join(table.latency)}")
    devices = [device for device in wanted if device in table.latency][: 1 if options.quick else None]
    found = {device: _compare(report, options, table, accuracy_N, device) for device in devices}
    if found:
        draw_curves(options.out, "nb201", found)
    add_ratios(report, found)
    if set(_THREE) <= set(devices):
        joint = "+".join(_THREE)
        draw_curves(options.out, "nb201-three", {joint: _compare(report, options, table, accuracy_N, *_THREE)})


def read_cells(report: BenchmarkReport, options: argparse.Namespace) -> tuple[LatencyTable, FloatArray] | None:
    """Latencies and accuracies of all cells; None, and a note in the report, if a file is missing."""
    path = report.data_file(_FILE)
    accuracies = find_accuracies(options.accuracy)
    if accuracies is None:
        report.skip("nb201", f"no accuracies of the cells: {WHERE}")
    if path is None or accuracies is None:
        return None
    table = read_nasbench201(path)
    assert isinstance(table.space, NASBench201Space)
    try:
        return table, read_accuracies(accuracies, space=table.space, genomes_NG=table.genomes_NG)
    except DataError as e:
        report.skip("nb201", f"{e}; {e.hint}")
        return None


def _compare(
    report: BenchmarkReport, options: argparse.Namespace, table: LatencyTable, accuracy_N: FloatArray, *devices: str
) -> Mapping[str, Curves]:
    latencies = tuple(
        Objective(name=f"latency_{device}", direction="minimize", unit="ms", cost_class="expensive")
        for device in devices
    )
    problem = Problem(
        space=table.space,
        genomes_NG=table.genomes_NG,
        objectives=(ACCURACY, *latencies),
        values_NM=np.column_stack([accuracy_N, *(table.latency[device] for device in devices)]),
    )
    case, counts_N = f"nb201/{'+'.join(devices)}", accuracy_N >= LEAST_ACCURACY
    front = ExactFront(problem.cost_NM, counts_N=counts_N)
    if options.ceiling and len(devices) == 1:
        latency = guess_latencies(problem, seed=0)
        for name, error, knows in (
            ("informed", None, f"told all accuracies, and latencies predicted from {KNOWN} further cells"),
            (
                "modelled",
                guess_errors(problem, seed=0),
                f"accuracies and latencies predicted from {KNOWN} further cells",
            ),
        ):
            rows = informed_search(problem, budget=max(_WANTED), counts_N=counts_N, latency=latency, error=error)
            shares_N = front.shares(rows)
            for n in _WANTED:
                report.add(f"{case}/{name}/hypervolume_at_{n}", float(shares_N[n - 1]))
            to = evaluations_to(_SHARE, shares_N)
            report.add(f"{case}/{name}/evaluations_to_{_SHARE:g}", to if np.isfinite(to) else None)
            found = " / ".join(f"{shares_N[n - 1]:.3f}" for n in _WANTED)
            report.say(f"{case}: {knows}: {found}, to {_SHARE:g} in {to:g}")
    return compare(
        report,
        options,
        case,
        problem,
        front=front,
        unfiltered=ExactFront(problem.cost_NM),
        wanted=_WANTED if len(devices) == 1 else None,
    )


def _note_agreement(report: BenchmarkReport, table: LatencyTable, accuracy_N: FloatArray) -> None:
    """Cells without a path from input to output must be those at chance: both files speak of the same cells."""
    none = table.space.choices[0].values.index("none")
    pathless_N = (table.space.functional(table.genomes_NG) == none).all(axis=1)
    at_chance_N = accuracy_N <= _CHANCE
    disagreeing = int((pathless_N != at_chance_N).sum())
    report.note("nb201_cells", {"at_chance": int(at_chance_N.sum()), "disagreeing_with_paths": disagreeing})
    if disagreeing:
        report.say(f"nb201: {disagreeing} cells have an accuracy that does not fit their paths: is it the right file?")


def add_ratios(report: BenchmarkReport, found: Mapping[str, Mapping[str, Curves]]) -> None:
    """How many times fewer evaluations ours needs than the best of Optuna's samplers of each device.

    A sampler that does not reach the share in the median of its seeds needs at least its budget, and counts with it,
    unless another one with more evaluations is ahead of it where its budget ends. Beside it stands the lower bound in
    which every sampler counts with its budget at most.
    """
    ratios, bounds = [], []
    for device, curves in found.items():
        others = {name: one for name, one in curves.items() if name not in (OURS, *ONE_COST)}
        if OURS not in curves or not others:
            return
        ours = float(np.median(curves[OURS].to(_SHARE)))
        needs = {name: min(float(np.median(one.to(_SHARE))), float(one.budget)) for name, one in others.items()}
        standing = {name: needs[name] for name in others if not _is_behind(name, others, needs)}
        best = min(standing, key=standing.__getitem__)
        ratios.append(needs[best] / ours)
        bounds.append(min(needs.values()) / ours)
        report.add(f"nb201/{device}/all/best_optuna_sampler", best)
        report.add(f"nb201/{device}/all/evaluations_ratio_to_{_SHARE:g}", ratios[-1] or None)
        report.add(f"nb201/{device}/all/evaluations_ratio_to_{_SHARE:g}_lower_bound", bounds[-1] or None)
    if ratios:
        report.add(f"nb201/all/evaluations_ratio_to_{_SHARE:g}", _geometric_mean(ratios), at_least=_FEWER)
        report.add(f"nb201/all/evaluations_ratio_to_{_SHARE:g}_lower_bound", _geometric_mean(bounds))


def _is_behind(name: str, others: Mapping[str, Curves], needs: Mapping[str, float]) -> bool:
    """Whether a sampler ended short of the share, and behind one that went on."""
    last = others[name].shares_SN.shape[1] - 1
    share = float(np.median(others[name].shares_SN[:, last]))
    return share < _SHARE and any(
        needs[other] > last + 1 and float(np.median(one.shares_SN[:, last])) > share for other, one in others.items()
    )


def _geometric_mean(ratios: list[float]) -> float | None:
    """None if ours does not reach the share somewhere."""
    return float(np.exp(np.mean(np.log(ratios)))) if all(ratio > 0 for ratio in ratios) else None
