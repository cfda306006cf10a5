"""Predicting accuracy, of networks that others have trained.

NAS-Bench-Macro has 6,561 networks, each trained three times; NAS-Bench-201 15,625 cells, of which one in ten classifies
by chance: their errors rule the RMSE over all cells, so the figures of the others stand beside it.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.nasbench201_accuracies import WHERE, find_accuracies, read_accuracies
from experiments.benchmarks.predictors.published import read_ofa_accuracy, readable
from experiments.benchmarks.predictors.ridge import plain_ridge
from experiments.benchmarks.predictors.sizes import fitting_sizes
from experiments.errors import DataError
from predictors.accuracy import fit_accuracy_predictor
from predictors.prediction import FloatArray
from predictors.scores import binomial_noise_points
from searchspaces import SearchSpace, get_space
from searchspaces.enumeration import enumerate_genomes
from searchspaces.nas_bench_macro import NASBenchMacroSpace, nas_bench_macro
from searchspaces.nasbench201 import NASBench201Space

MACRO = "nas_bench_macro/nas-bench-macro_cifar10.json"
_OFA = "ofa/ofa_mbv3_accuracy.npz"
_SIZES = (50, 100, 250)
# Of NAS-Bench-201: cells that a search may end at.
_LEAST_ACCURACY = 0.80
# Both CIFAR-10 files hold accuracies on the test split; that of OFA does not say on how many images.
_CIFAR10_TEST_IMAGES = 10_000
# Kendall's tau at least and RMSE at most.
_WANTED = {("ofa_accuracy", 100): (0.88, 0.22)}

# (fitted genomes as one-hot, their accuracies, the others as one-hot) -> predicted accuracies
_Peer = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]


def add_accuracy(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Kendall's tau and RMSE on all networks that were not fitted, against ridge, random forest and an MLP."""
    if (path := report.data_file(MACRO)) is not None:
        space = nas_bench_macro()
        genomes_NG, accuracy_N, noise = read_macro(path, space)
        report.add("macro/noise/rmse_points", 100.0 * noise)
        data = _Trained(space=space, genomes_NG=genomes_NG, accuracy_N=accuracy_N, num_images=_CIFAR10_TEST_IMAGES)
        _compare(report, options, "macro", data)
    if (path := report.data_file(_OFA)) is not None:
        ofa, genomes_NG, accuracy_N, macs_N = read_ofa_accuracy(path)
        report.add("ofa_accuracy/macs/kendall", float(stats.kendalltau(macs_N, accuracy_N).statistic))
        _compare(report, options, "ofa_accuracy", _Trained(space=ofa, genomes_NG=genomes_NG, accuracy_N=accuracy_N))
    _add_nasbench201(report, options)


def _add_nasbench201(report: BenchmarkReport, options: argparse.Namespace) -> None:
    if (path := find_accuracies(options.accuracy)) is None:
        report.skip("nb201_accuracy", f"no accuracies of the cells: {WHERE}")
        return
    space = get_space("nasbench201")
    assert isinstance(space, NASBench201Space)
    genomes_NG = enumerate_genomes(space)
    try:
        accuracy_N = read_accuracies(path, space=space, genomes_NG=genomes_NG)
    except DataError as e:
        report.skip("nb201_accuracy", f"{e}; {e.hint}")
        return
    data = _Trained(
        space=space,
        genomes_NG=genomes_NG,
        accuracy_N=accuracy_N,
        least_accuracy=_LEAST_ACCURACY,
        num_images=_CIFAR10_TEST_IMAGES,
    )
    _compare(report, options, "nb201_accuracy", data)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trained:
    """Networks whose accuracies (0 to 1) are known; those with `least_accuracy` are judged by themselves as well.

    `num_images` is how many images decided on an accuracy; None if nobody says.
    """

    space: SearchSpace
    genomes_NG: npt.NDArray[np.int8]
    accuracy_N: FloatArray
    least_accuracy: float = 0.0
    num_images: int | None = None

    def scores(self, predicted_M: FloatArray, others: npt.NDArray[np.intp]) -> tuple[float, float, float, float]:
        """Kendall's tau and RMSE of all others, and of those with the least accuracy."""
        accuracy_M = self.accuracy_N[others]
        good_M = accuracy_M >= self.least_accuracy
        return *_scores(predicted_M, accuracy_M), *_scores(predicted_M[good_M], accuracy_M[good_M])


def _compare(report: BenchmarkReport, options: argparse.Namespace, case: str, data: _Trained) -> None:
    space, genomes_NG, accuracy_N = data.space, data.genomes_NG, data.accuracy_N
    code_NF = space.encode_many(genomes_NG).astype(np.float64)
    sizes = fitting_sizes(report, case, _SIZES[:1] if options.quick else _SIZES, num=len(accuracy_N))
    if not sizes:
        return
    rows = []
    for n in sizes:
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(options.seeds):
            fitted = np.random.default_rng((seed, 2)).choice(len(accuracy_N), n, replace=False)
            others = np.setdiff1d(np.arange(len(accuracy_N)), fitted)
            predictor = fit_accuracy_predictor(genomes_NG[fitted], accuracy_N[fitted], space=space, task=case)
            ours = predictor.predict(genomes_NG[others])
            found.setdefault("ours", []).append((*data.scores(ours.mean, others), ours.coverage(accuracy_N[others])))
            for name, peer in _PEERS.items():
                guess_N = peer(code_NF[fitted], accuracy_N[fitted], code_NF[others])
                found.setdefault(name, []).append((*data.scores(guess_N, others), float("nan")))
        means = {name: np.mean(values, axis=0) for name, values in found.items()}
        tau_wanted, rmse_wanted = _WANTED.get((case, n), (-1.0, np.inf))
        best = max(tau_wanted, *(float(mean[0]) for name, mean in means.items() if name != "ours"))
        least = min(rmse_wanted, *(float(mean[1]) for name, mean in means.items() if name != "ours"))
        for name, (tau, rmse, good_tau, good_rmse, coverage) in means.items():
            is_ours, key = name == "ours", f"{case}/n{n}/{name}"
            report.add(f"{key}/kendall", float(tau), at_least=best if is_ours else None)
            report.add(f"{key}/rmse_points", float(rmse), at_most=least if is_ours else None)
            if data.least_accuracy > 0.0:
                report.add(f"{key}/kendall_of_the_good", float(good_tau))
                report.add(f"{key}/rmse_points_of_the_good", float(good_rmse))
            tau_deviation, rmse_deviation = np.std(found[name], axis=0)[:2].tolist()
            report.add(f"{key}/kendall_deviation", tau_deviation)
            report.add(f"{key}/rmse_points_deviation", rmse_deviation)
            if is_ours:
                report.add(f"{key}/coverage", float(coverage), at_least=0.87, at_most=0.93)
        rows.append([str(n), *(f"{mean[0]:.3f} {mean[1]:.3f}" for mean in means.values()), f"{means['ours'][-1]:.0%}"])
    noise = binomial_noise_points(accuracy_N, data.num_images)
    report.add(f"{case}/noise/binomial_points", noise)
    if data.least_accuracy > 0.0:
        good_N = accuracy_N[accuracy_N >= data.least_accuracy]
        report.add(f"{case}/noise/binomial_points_of_the_good", binomial_noise_points(good_N, data.num_images))
    headings = ["n", *means, "coverage of ours"]
    images = "not known" if data.num_images is None else f"{noise:.2f}, of {data.num_images:,} images"
    report.show(f"{case}: Kendall's tau, RMSE in points (binomial noise: {images})", headings=headings, rows=rows)


def read_macro(path: Path, space: NASBenchMacroSpace) -> tuple[npt.NDArray[np.int8], FloatArray, float]:
    """Genomes, mean accuracies (0 to 1) and what the mean of three seeds scatters by."""
    with readable(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        genomes_NG = space.genomes([space.from_key(key) for key in content])
        accuracy_N = np.array([entry["mean_acc"] for entry in content.values()], dtype=np.float64) / 100.0
        deviation_N = np.array([entry["std"] for entry in content.values()], dtype=np.float64) / 100.0
        return genomes_NG, accuracy_N, float(np.sqrt(np.mean(deviation_N**2) / 3))


def _scores(predicted_N: FloatArray, accuracy_N: FloatArray) -> tuple[float, float]:
    tau = float(stats.kendalltau(predicted_N, accuracy_N).statistic)
    return tau, float(100.0 * np.sqrt(np.mean((predicted_N - accuracy_N) ** 2)))


def _ridge(inputs_NF: FloatArray, accuracy_N: FloatArray, question_MF: FloatArray) -> FloatArray:
    # The same ridge as for latencies: logarithm of a positive number, here the error rate.
    return 1.0 - plain_ridge(inputs_NF, 1.0 - accuracy_N, question_MF).mean


def _forest(inputs_NF: FloatArray, accuracy_N: FloatArray, question_MF: FloatArray) -> FloatArray:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=200, random_state=0).fit(inputs_NF, accuracy_N)
    return np.asarray(forest.predict(question_MF), dtype=np.float64)


def _perceptron(inputs_NF: FloatArray, accuracy_N: FloatArray, question_MF: FloatArray) -> FloatArray:
    """The form of the official OFA predictor: three hidden layers of 400."""
    from sklearn.neural_network import MLPRegressor

    center, scale = float(accuracy_N.mean()), float(accuracy_N.std())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = MLPRegressor(hidden_layer_sizes=(400, 400, 400), alpha=1e-3, max_iter=300, random_state=0)
        network.fit(inputs_NF, (accuracy_N - center) / scale)
    return np.asarray(center + scale * network.predict(question_MF), dtype=np.float64)


_PEERS: dict[str, _Peer] = {"ridge": _ridge, "forest": _forest, "mlp": _perceptron}
