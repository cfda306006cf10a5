"""The compared ways to predict a device's latencies, and the figures by which they are compared.

Letters: N networks, F features, S source devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from experiments.benchmarks.predictors.published import LatencyTable
from predictors.design import most_telling
from predictors.features import Blocks, LatencyFeatures, take
from predictors.latency import LatencyPredictor
from predictors.model import fit_cost_model
from predictors.prediction import FloatArray, Prediction

Rows = npt.NDArray[np.intp]

_ALPHAS = np.logspace(-3, 3, 25)
# Networks of a source device that its predictor is fitted to; more of them change nothing but the time.
_SOURCE_ROWS = 800
_POOL = 400


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
    """

    spearman: float
    within_10: float
    within_5: float
    mape: float
    coverage: float = float("nan")
    outside_coverage: float = float("nan")
    in_range: float = float("nan")


def plain_ridge(inputs_NF: FloatArray, cost_N: FloatArray, question_MF: FloatArray) -> FloatArray:
    """Ridge on log cost: standardised inputs, penalty by leave-one-out over 1e-3 ... 1e3."""
    center_F, deviation_F = inputs_NF.mean(axis=0), inputs_NF.std(axis=0)
    gain_F = np.where(deviation_F > 0, 1.0 / np.where(deviation_F > 0, deviation_F, 1.0), 0.0)
    scaled_NF, log_N = (inputs_NF - center_F) * gain_F, np.log(cost_N)
    mean = log_N.mean()
    left_NR, singular_R, right_RF = np.linalg.svd(scaled_NF, full_matrices=False)
    projected_R = left_NR.T @ (log_N - mean)

    def loo_error(alpha: float) -> float:
        shrink_R = singular_R**2 / (singular_R**2 + alpha)
        leverage_N = np.square(left_NR) @ shrink_R + 1.0 / len(log_N)
        missed_N = (log_N - mean - left_NR @ (shrink_R * projected_R)) / np.maximum(1.0 - leverage_N, 1e-9)
        return float(np.mean(missed_N**2))

    alpha = min(_ALPHAS.tolist(), key=loo_error)
    slope_F = right_RF.T @ (singular_R / (singular_R**2 + alpha) * projected_R)
    predicted_M: FloatArray = np.exp(mean + (question_MF - center_F) * gain_F @ slope_F)
    return predicted_M


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
        self.features = LatencyFeatures(space=table.space, sources=tuple(sources))
        self.blocks = self.features.encode(table.genomes_NG) if blocks is None else blocks
        self._designs: dict[tuple[int, int], Rows] = {}

    @property
    def analytic_N3(self) -> FloatArray:
        """MACs, bytes moved, operators."""
        totals_NT = self.blocks["totals"]
        return np.stack([totals_NT[:, 1], totals_NT[:, 2:].sum(axis=1), totals_NT[:, 0]], axis=1)

    def random(self, n: int, *, seed: int) -> Rows:
        """Networks drawn by chance."""
        return np.random.default_rng((seed, 1)).choice(len(self.table.genomes_NG), n, replace=False)

    def designed(self, n: int, *, seed: int) -> Rows:
        """The most telling of some hundred that were drawn by chance."""
        # The same for all devices: nothing is measured yet.
        if (n, seed) not in self._designs:
            pool = self.random(min(max(_POOL, 2 * n), len(self.table.genomes_NG)), seed=seed)
            self._designs[n, seed] = pool[most_telling(self.features, self.table.genomes_NG[pool], n=n)]
        return self._designs[n, seed]

    def judge_ours(self, cost_N: FloatArray, rows: Rows) -> Outcome:
        """Our predictor, fitted to `rows` and judged on all others."""
        features = self.features
        model = fit_cost_model(
            take(self.blocks, rows),
            cost_N[rows],
            population=features.population(),
            ordered=features.resolution_columns(),
        )
        others = np.setdiff1d(np.arange(len(cost_N)), rows)
        found = model.predict(len(others), lambda part: take(self.blocks, others[part]))
        return outcome_of(found, cost_N[others])

    def judge_ridge(self, cost_N: FloatArray, rows: Rows, *, inputs_NF: FloatArray) -> Outcome:
        """Plain ridge on some inputs."""
        others = np.setdiff1d(np.arange(len(cost_N)), rows)
        predicted_M = plain_ridge(inputs_NF[rows], cost_N[rows], inputs_NF[others])
        return Outcome(**errors_of(predicted_M, cost_N[others]))


def fit_source(table: LatencyTable, device: str, *, blocks: Blocks, num: int = _SOURCE_ROWS) -> LatencyPredictor:
    """A predictor of a device whose measurements are at hand, from `num` of them."""
    features = LatencyFeatures(space=table.space)
    rows = np.random.default_rng(0).choice(len(table.genomes_NG), min(num, len(table.genomes_NG)), replace=False)
    model = fit_cost_model(take(blocks, rows), table.latency[device][rows], population=features.population())
    return LatencyPredictor(
        space=table.space, device_id=device, unit="ms", model=model, fitted_NG=table.genomes_NG[rows]
    )


def mean_outcome(outcomes: Sequence[Outcome]) -> Mapping[str, float]:
    """Mean of every figure, and the spread of the rank correlation over seeds."""
    names = Outcome.__dataclass_fields__
    means = {name: _mean(np.array([getattr(one, name) for one in outcomes])) for name in names}
    return {**means, "spearman_deviation": float(np.std([one.spearman for one in outcomes]))}


Judge = Callable[[int, int], Outcome]
"""(number of measurements, seed) -> outcome."""


def outcome_of(found: Prediction, cost_N: FloatArray) -> Outcome:
    """How good predictions with intervals are."""
    held_N = (found.lower <= cost_N) & (cost_N <= found.upper)
    return Outcome(
        **errors_of(found.mean, cost_N),
        coverage=_mean(held_N[found.in_range]),
        outside_coverage=_mean(held_N[~found.in_range]),
        in_range=float(found.in_range.mean()),
    )


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
