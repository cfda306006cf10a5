"""How fast genomes become predictions on one core, and how long fitting takes."""

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.harness import BenchmarkReport
from predictors.features import LatencyFeatures
from predictors.model import fit_cost_model
from searchspaces import get_space

_NUM = 100_000
_ONE_BY_ONE = 200
_ROUNDS = 5


def measure_speed(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Encoding and predicting 100,000 architectures of `ofa-mobilenetv3-w1.0`, against one by one."""
    space = get_space("ofa-mobilenetv3-w1.0")
    features = LatencyFeatures(space=space)
    rng = np.random.default_rng(0)
    genomes_NG = space.sample_many(_NUM // 20 if options.quick else _NUM, rng)
    started = time.perf_counter()
    features.encode(genomes_NG[:1])
    report.add("speed/tables/seconds", time.perf_counter() - started)
    fitted_NG = space.sample_many(50, rng)
    blocks = features.encode(fitted_NG)
    cost_N = 1.0 + blocks["totals"][:, 1] / 1e8 * np.exp(rng.normal(0.0, 0.05, len(fitted_NG)))
    model = fit_cost_model(blocks, cost_N, population=features.population())

    def predict(asked_NG: npt.NDArray[np.int8]) -> None:
        model.predict(len(asked_NG), lambda rows: features.encode(asked_NG[rows]))

    def one_by_one() -> None:
        for n in range(_ONE_BY_ONE):
            predict(genomes_NG[n : n + 1])

    work: dict[str, Callable[[], object]] = {
        "fit": lambda: fit_cost_model(blocks, cost_N, population=features.population()),
        "encode": lambda: features.encode(genomes_NG),
        "predict": lambda: predict(genomes_NG),
        "one_by_one": one_by_one,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(_ROUNDS):
        for name, step in work.items():
            share = len(genomes_NG) / _ONE_BY_ONE if name == "one_by_one" else 1.0
            seconds[name].append(share * _timed(step))
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    report.add("speed/fit_50/seconds", medians["fit"])
    report.add("speed/encode_100000/seconds", medians["encode"] * _NUM / len(genomes_NG), at_most=1.0)
    report.add("speed/predict_100000/seconds", medians["predict"] * _NUM / len(genomes_NG))
    report.add("speed/one_by_one_over_batch/ratio", medians["one_by_one"] / medians["predict"], at_least=8.0)
    report.show(
        f"One core, {len(genomes_NG):,} architectures",
        headings=["step", "seconds (median)", "lowest", "highest"],
        rows=[
            [name, f"{medians[name]:.3f}", f"{min(values):.3f}", f"{max(values):.3f}"]
            for name, values in seconds.items()
        ],
    )


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
