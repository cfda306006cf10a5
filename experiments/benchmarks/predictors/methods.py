"""The compared ways to predict a device's latencies, and the figures by which they are compared.

The interval score is the width plus 2 / (1 - level) times what a measurement lies outside by (Gneiting and Raftery,
"Strictly proper scoring rules, prediction, and estimation", JASA 2007, section 6.2, doi:10.1198/016214506000001437).

Letters: N networks, F features, S source devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import ndtr

from experiments.benchmarks.predictors.published import LatencyTable
from experiments.benchmarks.predictors.ridge import plain_ridge
from predictors.design import most_telling
from predictors.features import Blocks, LatencyFeatures, take
from predictors.latency import LatencyPredictor
from predictors.model import fit_cost_model
from predictors.prediction import FloatArray, Prediction

Rows = npt.NDArray[np.intp]

# Networks of a source device that its predictor is fitted to; more of them change nothing but the time.
_SOURCE_ROWS = 800
_CEILING_ROWS = 4000
_POOL = 400
_WITH_SPREAD = ("spearman", "within_10", "mape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How good predictions of the networks are that were not fitted.

    Attributes:
        spearman: rank correlation.
        within_10, within_5: share with a relative error of at most 10 % or 5 %.
        mape: mean relative error, percent.
        coverage: share of 90 % intervals that hold the measurement, of the networks in range; NaN without intervals.
        outside_coverage: the same out of range; NaN if there are none.
        in_range: share of the networks that count as in range; NaN without intervals.
        repeat_coverage: the probability that such an interval holds another repeat of the measurement, whose standard
            deviation is published; NaN where it is not.
        interval_score: of all networks, of log(cost), so that devices compare; smaller is better; NaN without
            intervals.
    """

    spearman: float
    within_10: float
    within_5: float
    mape: float
    coverage: float = float("nan")
    outside_coverage: float = float("nan")
    in_range: float = float("nan")
    repeat_coverage: float = float("nan")
    interval_score: float = float("nan")


class Target:
    """All networks of a table, seen from one device, with other devices to learn from.

    Args:
        table: the networks.
        sources: predictors of other devices.
        blocks: features of the networks, if they are at hand.
    """

    def __init__(
        self, table: LatencyTable, sources: Sequence[LatencyPredictor] = (), *, blocks: Blocks | None = None
    ) -> None:
        self.table = table
        self.sources = tuple(sources)
        self.features = LatencyFeatures(space=table.space, sources=self.sources)
        self.blocks = self.features.encode(table.genomes_NG) if blocks is None else blocks
        self._designs: dict[tuple[int, int], Rows] = {}

    @property
    def analytic_N3(self) -> FloatArray:
        """MACs, bytes moved, operators."""
        totals_NT = self.blocks["totals"]
        return np.stack([totals_NT[:, 1], totals_NT[:, 2:].sum(axis=1), totals_NT[:, 0]], axis=1)

    @cached_property
    def said_NS(self) -> FloatArray:
        """Logarithms of what the sources predict."""
        return np.stack([np.log(source.predict(self.table.genomes_NG).mean) for source in self.sources], axis=1)

    def random(self, n: int, *, seed: int, among: Rows | None = None) -> Rows:
        """Networks drawn by chance, of all or of some."""
        rng = np.random.default_rng((seed, 1))
        return rng.choice(len(self.table.genomes_NG) if among is None else among, n, replace=False)

    def designed(self, n: int, *, seed: int, among: Rows | None = None) -> Rows:
        """The most telling of some hundred that were drawn by chance, of all or of some."""
        # The same for all devices: nothing is measured yet.
        if among is None and (n, seed) in self._designs:
            return self._designs[n, seed]
        num = len(self.table.genomes_NG) if among is None else len(among)
        # Of a small table not all, or every seed would choose the same.
        pool = self.random(min(max(_POOL, 2 * n), max(num // 2, min(num, n + n // 4))), seed=seed, among=among)
        rows = pool[most_telling(self.features, self.table.genomes_NG[pool], n=n)]
        if among is None:
            self._designs[n, seed] = rows
        return rows

    def judge_ours(self, cost_N: FloatArray, rows: Rows, *, asked: Rows | None = None) -> Outcome:
        """Our predictor, fitted to `rows` and judged on all others, or on those of `asked`."""
        features = self.features
        model = fit_cost_model(
            take(self.blocks, rows),
            cost_N[rows],
            population=features.population(),
            ordered=features.resolution_columns(),
        )
        others = _others(cost_N, rows) if asked is None else asked
        return judged(model.predict(len(others), lambda part: take(self.blocks, others[part])), cost_N[others])

    def judge_ridge(
        self, cost_N: FloatArray, rows: Rows, *, inputs_NF: FloatArray, asked: Rows | None = None
    ) -> Outcome:
        """Plain ridge on some inputs."""
        others = _others(cost_N, rows) if asked is None else asked
        return judged(plain_ridge(inputs_NF[rows], cost_N[rows], inputs_NF[others]), cost_N[others])

    def judges(self, cost_N: FloatArray, *, proxies: Mapping[str, FloatArray] | None = None) -> dict[str, "Judge"]:
        """All ways to predict these costs, by name; `proxies` (N, P) are further ones that stand for the cost."""
        inputs = {"ridge_onehot": self.blocks["choices"], "ridge_analytic": self.analytic_N3}
        all_proxies = {"macs": self.analytic_N3[:, :1], **(proxies or {})}
        if self.sources:
            inputs = {"ridge": self.said_NS, **inputs}
            all_proxies["best_source"] = np.exp(self.said_NS)

        def ours(n: int, seed: int) -> Outcome:
            return self.judge_ours(cost_N, self.designed(n, seed=seed))

        def ours_random(n: int, seed: int) -> Outcome:
            return self.judge_ours(cost_N, self.random(n, seed=seed))

        def ridge(n: int, seed: int, *, inputs_NF: FloatArray) -> Outcome:
            return self.judge_ridge(cost_N, self.random(n, seed=seed), inputs_NF=inputs_NF)

        def proxy(n: int, seed: int, *, proxies_NP: FloatArray) -> Outcome:
            return judge_best_proxy(cost_N, self.random(n, seed=seed), proxies_NP=proxies_NP)

        return {
            "ours": ours,
            "ours_random": ours_random,
            **{name: partial(ridge, inputs_NF=inputs_NF) for name, inputs_NF in inputs.items()},
            **{name: partial(proxy, proxies_NP=proxies_NP) for name, proxies_NP in all_proxies.items()},
        }


def judge_best_proxy(cost_N: FloatArray, rows: Rows, *, proxies_NP: FloatArray) -> Outcome:
    """Of some numbers that stand for the cost, the one that orders the measured `rows` best, brought to their scale."""
    ranks = [stats.spearmanr(proxy_N[rows], cost_N[rows]).statistic for proxy_N in proxies_NP.T]
    proxy_N = proxies_NP[:, int(np.nan_to_num(ranks, nan=-1.0).argmax())]
    others = _others(cost_N, rows)
    return Outcome(**errors_of(proxy_N[others] * np.median(cost_N[rows] / proxy_N[rows]), cost_N[others]))


def ceiling(cost_N: FloatArray, choices_NF: FloatArray, *, seeds: int) -> float:
    """Spearman of one-hot ridge on 4,000 of the device's own networks: near the limit if that is noise."""
    num = min(_CEILING_ROWS, 4 * len(cost_N) // 5)
    found = []
    for seed in range(seeds):
        order_N = np.random.default_rng((seed, 4)).permutation(len(cost_N))
        rows, others = order_N[:num], order_N[num:]
        predicted = plain_ridge(choices_NF[rows], cost_N[rows], choices_NF[others])
        found.append(float(stats.spearmanr(predicted.mean, cost_N[others]).statistic))
    return float(np.mean(found))


def _others(cost_N: FloatArray, rows: Rows) -> Rows:
    return np.setdiff1d(np.arange(len(cost_N)), rows)


def judged(found: Prediction, cost_N: FloatArray, *, noise_N: FloatArray | None = None) -> Outcome:
    """How good these predictions with intervals are; `noise_N`: published standard deviations of the measurements."""
    inside_N = found.in_range
    held_N = (found.lower <= cost_N) & (cost_N <= found.upper)
    missed_N = np.maximum(np.log(found.lower / cost_N), 0.0) + np.maximum(np.log(cost_N / found.upper), 0.0)
    score_N = np.log(found.upper / found.lower) + 2.0 / (1.0 - found.level) * missed_N
    return Outcome(
        **errors_of(found.mean, cost_N),
        coverage=_mean(held_N[inside_N]),
        outside_coverage=_mean(held_N[~inside_N]),
        in_range=float(inside_N.mean()),
        repeat_coverage=float("nan") if noise_N is None else _mean(_repeats_within(found, cost_N, noise_N)[inside_N]),
        interval_score=float(score_N.mean()),
    )


def _repeats_within(found: Prediction, cost_N: FloatArray, noise_N: FloatArray) -> FloatArray:
    """Probability of a normal repeat to lie in the interval, (N,)."""
    deviation_N = np.maximum(noise_N, 1e-9 * cost_N)
    within_N: FloatArray = ndtr((found.upper - cost_N) / deviation_N) - ndtr((found.lower - cost_N) / deviation_N)
    return within_N


def fit_source(table: LatencyTable, device: str, *, blocks: Blocks, num: int = _SOURCE_ROWS) -> LatencyPredictor:
    """A predictor of a device whose measurements are at hand, from `num` of them."""
    features = LatencyFeatures(space=table.space)
    rows = np.random.default_rng(0).choice(len(table.genomes_NG), min(num, len(table.genomes_NG)), replace=False)
    model = fit_cost_model(take(blocks, rows), table.latency[device][rows], population=features.population())
    return LatencyPredictor(
        space=table.space, device_id=device, unit="ms", model=model, fitted_NG=table.genomes_NG[rows]
    )


def mean_outcome(outcomes: Sequence[Sequence[Outcome]] | Sequence[Outcome]) -> Mapping[str, float]:
    """Mean of every figure, and its standard deviation over seeds.

    Args:
        outcomes: by seed, of one device or of several, whose mean counts.
    """
    by_seed = [[one] if isinstance(one, Outcome) else one for one in outcomes]
    figures: dict[str, float] = {}
    for name in Outcome.__dataclass_fields__:
        value_S = np.array([_mean(np.array([getattr(one, name) for one in devices])) for devices in by_seed])
        figures[name] = _mean(value_S)
        if name in _WITH_SPREAD:
            figures[f"{name}_deviation"] = float(np.std(value_S))
    return figures


Judge = Callable[[int, int], Outcome]
"""(number of measurements, seed) -> outcome."""


def errors_of(predicted_N: FloatArray, cost_N: FloatArray) -> dict[str, float]:
    """Rank correlation, share within 10 % and mean relative error."""
    errors_N = np.abs(predicted_N / cost_N - 1.0)
    return {
        "spearman": float(stats.spearmanr(predicted_N, cost_N).statistic),
        "within_10": float((errors_N <= 0.10).mean()),
        "within_5": float((errors_N <= 0.05).mean()),
        "mape": float(100.0 * errors_N.mean()),
    }


def _mean(values: npt.NDArray[np.generic]) -> float:
    numbers = values.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return float(numbers.mean()) if len(numbers) else float("nan")
