"""How fast genomes become predictions on one core, how long fitting takes, and how long a search of a whole space."""

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.specialized import specialize_seconds
from predictors.features import LatencyFeatures, take
from predictors.model import CostModel, fit_cost_model
from searchspaces import get_space

_NUM = 100_000
_ONE_BY_ONE = 200
_ROUNDS = 5
_ROWS_AT_ONCE = 2048


def measure_speed(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Encoding and predicting 100,000 architectures of `ofa-mobilenetv3-w1.0`, against one by one and bare products."""
    space = get_space("ofa-mobilenetv3-w1.0")
    features = LatencyFeatures(space=space)
    rng = np.random.default_rng(0)
    genomes_NG = space.sample_many(_NUM // 20 if options.quick else _NUM, rng)
    report.add("speed/tables/seconds", timed(lambda: features.encode(genomes_NG[:1])))
    fitted_NG = space.sample_many(50, rng)
    blocks = features.encode(fitted_NG)
    cost_N = 1.0 + blocks["totals"][:, 1] / 1e8 * np.exp(rng.normal(0.0, 0.05, len(fitted_NG)))
    model = fit_cost_model(blocks, cost_N, population=features.population())
    encoded = features.encode(genomes_NG)

    def predict(asked_NG: npt.NDArray[np.int8]) -> None:
        model.predict(len(asked_NG), lambda rows: features.encode(asked_NG[rows]))

    def one_by_one() -> None:
        for n in range(_ONE_BY_ONE):
            predict(genomes_NG[n : n + 1])

    work: dict[str, Callable[[], object]] = {
        "fit": lambda: fit_cost_model(blocks, cost_N, population=features.population()),
        "encode": lambda: features.encode(genomes_NG),
        "predict": lambda: predict(genomes_NG),
        "predict_encoded": lambda: model.predict(
            len(genomes_NG), lambda rows: take(encoded, np.arange(len(genomes_NG))[rows])
        ),
        "products": _bare_products(model, len(genomes_NG)),
        "one_by_one": one_by_one,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(_ROUNDS):
        for name, step in work.items():
            share = len(genomes_NG) / _ONE_BY_ONE if name == "one_by_one" else 1.0
            seconds[name].append(share * timed(step))
    seconds |= specialize_seconds(space, rounds=_ROUNDS, timed=timed)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    scale = _NUM / len(genomes_NG)
    report.add("speed/fit_50/seconds", medians["fit"])
    report.add("speed/encode_100000/seconds", medians["encode"] * scale, at_most=1.0)
    report.add("speed/predict_100000/seconds", medians["predict"] * scale)
    report.add("speed/products_100000/seconds", medians["products"] * scale)
    report.add("speed/one_by_one_over_batch/ratio", medians["one_by_one"] / medians["predict"], at_least=8.0)
    report.add("speed/batch_over_products/ratio", medians["predict"] / medians["products"], at_most=1.2)
    report.add("speed/batch_of_features_over_products/ratio", medians["predict_encoded"] / medians["products"])
    report.add("speed/specialize/seconds", medians["specialize"], at_most=2.0)
    report.add("speed/specialize/command_seconds", medians["command"], at_most=2.0)
    report.add("speed/specialize/space_size", f"{space.size:.2g}")
    report.show(
        f"One core, {len(genomes_NG):,} architectures",
        headings=["step", "seconds (median)", "lowest", "highest"],
        rows=[
            [name, f"{medians[name]:.3f}", f"{min(values):.3f}", f"{max(values):.3f}"]
            for name, values in seconds.items()
        ],
    )


def _bare_products(model: CostModel, num: int) -> Callable[[], object]:
    """The matrix products of a prediction with intervals, piece by piece as it makes them, and nothing else."""
    shapes: list[tuple[int, int]] = []
    for member in model.blend.members:
        arrays = member.arrays()
        num_fitted, width = arrays["fitted_ND"].shape
        shapes += [(width, num_fitted), (num_fitted, 1), (num_fitted, num_fitted)]
        if arrays["place_NE"].shape[1]:
            shapes.append((arrays["place_NE"].shape[1], num_fitted))
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(_ROWS_AT_ONCE, shape[0])), rng.normal(size=shape)) for shape in shapes]

    def multiply() -> None:
        for start in range(0, num, _ROWS_AT_ONCE):
            for left_ND, right_DM in pairs:
                left_ND[: min(_ROWS_AT_ONCE, num - start)] @ right_DM

    return multiply


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
