"""The whole front by one evolution, against once-for-all's own evolution under one latency limit after the other.

Both look at the same two functions: the published accuracy predictor and the published operator table of the Note 10.
"""

import argparse
import time

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.pictures import COLORS, GREY, Axis, Drawing
from experiments.benchmarks.search.ofa_evolution import ofa_evolution
from experiments.benchmarks.search.ofa_objectives import OfaObjectives, read_ofa_objectives
from nas.pareto import hypervolume
from nas.predicted_front import PredictedFront, predicted_front
from nas.search.evolution import GENERATIONS
from predictors.prediction import FloatArray

_TABLE, _PREDICTOR = "ofa/note10_latency_tables_w1.2.json", "ofa/accuracy_predictor_mbv3_w1.2.npz"
_LIMITS, _QUICK_LIMITS, _QUICK_GENERATIONS = 20, 3, 20
# Their evolution starts from random networks: where less than one in a thousand meets a limit it finds no start.
_RANDOM, _RARE = 20_000, 0.001
_WORST_POINTS, _FASTER = -0.02, 10.0
_WIDTH, _HEIGHT, _EDGE = 720, 420, 60


def add_ofa(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Accuracy at each limit, the fronts as wholes, and the time of both."""
    table, predictor = report.data_file(_TABLE), report.data_file(_PREDICTOR)
    if table is None or predictor is None:
        return
    objectives = read_ofa_objectives(table=table, predictor=predictor)
    limits_L = _limits(objectives, num=_QUICK_LIMITS if options.quick else _LIMITS)
    ours_SL, theirs_SL, seconds = [], [], []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        started_s = time.perf_counter()
        front = predicted_front(objectives.space, objectives.both, seed=seed)
        found_s = time.perf_counter()
        theirs_SL.append(_theirs(objectives, limits_L, seed=seed, quick=options.quick))
        seconds.append((found_s - started_s, time.perf_counter() - found_s))
        ours_SL.append([_best(front, limit) for limit in limits_L])
        report.say(f"ofa: seed {seed}: ours {seconds[-1][0]:.1f} s, {len(limits_L)} evolutions {seconds[-1][1]:.1f} s")
    _add(report, limits_L, 100.0 * np.array(ours_SL), 100.0 * np.array(theirs_SL), np.array(seconds))
    path = options.out.with_name(f"{options.out.stem}-ofa.svg")
    path.write_text(_picture(front, limits_L, np.median(theirs_SL, axis=0)).svg(), encoding="utf-8")


def _limits(objectives: OfaObjectives, *, num: int) -> FloatArray:
    """Equally spaced limits, in ms, between what random networks need at least and at most."""
    genomes_NG = objectives.space.sample_many(_RANDOM, np.random.default_rng(0))
    low, high = np.quantile(objectives.latency(genomes_NG), [_RARE, 1.0 - _RARE])
    return np.linspace(low, high, num)


def _theirs(objectives: OfaObjectives, limits_L: FloatArray, *, seed: int, quick: bool) -> list[float]:
    """The accuracy that an evolution for each limit finds; NaN where it finds no start."""
    generations = _QUICK_GENERATIONS if quick else GENERATIONS
    found = [
        ofa_evolution(objectives, limit_ms=limit, seed=seed, generations=generations) for limit in limits_L.tolist()
    ]
    return [float("nan") if one is None else one.accuracy for one in found]


def _best(front: PredictedFront, limit: float) -> float:
    """Accuracy of the best network of a front within a limit; NaN without one."""
    num = int(np.searchsorted(front.cost_N, limit, side="right"))
    return float(front.accuracy_N[num - 1]) if num else float("nan")


def _add(
    report: BenchmarkReport, limits_L: FloatArray, ours_SL: FloatArray, theirs_SL: FloatArray, seconds_S2: FloatArray
) -> None:
    ours_L, theirs_L = np.median(ours_SL, axis=0), np.median(theirs_SL, axis=0)
    rows = []
    for n, limit in enumerate(limits_L.tolist()):
        gain = float(ours_L[n] - theirs_L[n])
        report.add(f"ofa/limit{n + 1}/limit_ms", limit)
        for name, values_SL in (("ours", ours_SL), ("evolution", theirs_SL)):
            report.add(f"ofa/limit{n + 1}/{name}/accuracy_percent", float(np.median(values_SL[:, n])))
            report.add(f"ofa/limit{n + 1}/{name}/accuracy_percent_lowest", float(values_SL[:, n].min()))
            report.add(f"ofa/limit{n + 1}/{name}/accuracy_percent_highest", float(values_SL[:, n].max()))
        report.add(f"ofa/limit{n + 1}/ours/gain_points", gain)
        rows.append([f"{limit:.1f} ms", f"{ours_L[n]:.3f}", f"{theirs_L[n]:.3f}", f"{gain:+.3f}"])
    ours_s, theirs_s = np.median(seconds_S2, axis=0).tolist()
    gains_L = ours_L - theirs_L
    report.add("ofa/all/ours/worst_gain_points", float(gains_L.min()), at_least=_WORST_POINTS)
    report.add("ofa/all/ours/mean_gain_points", float(gains_L.mean()))
    for name, accuracy_L in (("ours", ours_L), ("evolution", theirs_L)):
        reference = (float(np.nanmin(theirs_L)) - 1.0, float(limits_L[-1]) + 1.0)
        report.add(f"ofa/all/{name}/hypervolume", hypervolume(accuracy_L, limits_L, reference=reference))
    report.add("ofa/all/ours/seconds", ours_s)
    report.add("ofa/all/evolution/seconds", theirs_s)
    report.add("ofa/all/evolution/seconds_for_one_limit", theirs_s / len(limits_L))
    report.add("ofa/all/ours/times_faster", theirs_s / ours_s, at_least=_FASTER)
    report.show(
        f"OFA: accuracy in %, {ours_s:.1f} s for the whole front, {theirs_s:.1f} s for {len(limits_L)} evolutions",
        headings=["limit", "ours", "evolution", "gain"],
        rows=rows,
    )


def _picture(front: PredictedFront, limits_L: FloatArray, theirs_L: FloatArray) -> Drawing:
    """The front of the last seed as a line, the medians of their evolutions as circles."""
    drawing = Drawing(width=_WIDTH, height=_HEIGHT)
    ours_N = 100.0 * front.accuracy_N
    x = Axis(low=float(front.cost_N[0]), high=float(limits_L[-1]) + 5.0, start=_EDGE, end=_WIDTH - 20)
    y = Axis(low=float(ours_N.min()), high=float(ours_N.max()) + 0.2, start=_EDGE, end=_HEIGHT - 40)
    drawing.text(_WIDTH / 2, _HEIGHT - 20, "OFA: predicted accuracy in % over ms on the Note 10", size=14)
    for value in np.linspace(y.low, y.high, 5).tolist():
        drawing.line(x.start, y.at(value), x.end, y.at(value), color=GREY, dashed=True)
        drawing.text(x.start - 6, y.at(value) - 4, f"{value:.1f}", anchor="end")
    for limit in limits_L[::4].tolist():
        drawing.text(x.at(limit), y.start - 20, f"{limit:.0f}")
    for n in range(1, len(ours_N)):
        if front.cost_N[n] <= x.high:
            drawing.line(
                x.at(front.cost_N[n - 1]), y.at(ours_N[n - 1]), x.at(front.cost_N[n]), y.at(ours_N[n]), color=COLORS[0]
            )
    for limit, accuracy in zip(limits_L, 100.0 * theirs_L, strict=True):
        if np.isfinite(accuracy):
            drawing.circle(x.at(limit), y.clipped(accuracy), radius=3, color=COLORS[1])
    for number, name in enumerate(("ours, one evolution", "once-for-all's, one for each limit")):
        drawing.circle(_WIDTH / 2, y.start + 30 + 18 * number, radius=3, color=COLORS[number])
        drawing.text(_WIDTH / 2 + 10, y.start + 26 + 18 * number, name, anchor="start")
    return drawing
