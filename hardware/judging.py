"""What the rounds of a session say: value, interval, and whether to believe them.

Letters of array names: K networks, R rounds, B bootstrap samples.

Single runs that follow each other are correlated (clock, caches, neighbours), so the median of all runs looks far
more certain than it is. The medians of rounds that lie seconds apart are not: the interval rests on them.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware.errors import MeasurementError
from hardware.protocol import MeasurementProtocol

NUM_RESAMPLES = 1000

MAX_DRIFT = 0.05
"""A reference that drifts further makes all values of the session be divided by the host's slowdown beside them."""
MAX_CORRECTED_DRIFT = 0.5
"""A host that changes further is another machine: its numbers are not corrected but suspect."""
MAX_SLOWDOWN = 0.5
"""A host that is further from its speed in the session compared with is another machine, too."""
MAX_WIDTH = 0.06
"""The widest interval of a median that is believed, relative to it; twice what is asked for if that is more."""
MAX_UNSTEADY = 0.05
"""The most that the two halves of a network's rounds may differ."""
MAX_OUTLIERS = 0.2
"""The largest share of a network's rounds that may be left out."""
CROWDED_CORES = 0.5
"""How much of a core other processes may use beyond those that the network leaves free."""
_NARROWER = 0.8
_FENCES = 3.0
_LEAST_FENCE = 0.02
OUTLIER_RULE = (
    f"round medians further than {_FENCES:g} interquartile ranges (and {100 * _LEAST_FENCE:g} % of the median) "
    "from the quartiles are left out (Tukey's outer fences)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the rounds of one network say.

    Attributes:
        median_ns: median of the round medians that count.
        low_ns, high_ns: bootstrap interval of it.
        converged: whether the interval is as narrow as the protocol asks.
        corrected: whether rounds were divided by the host's slowdown.
        num_outliers: rounds that were left out by `OUTLIER_RULE`.
        reasons: what speaks against the value; empty if nothing does.
    """

    median_ns: float
    low_ns: float
    high_ns: float
    converged: bool
    corrected: bool
    num_outliers: int
    reasons: tuple[str, ...]

    @property
    def width(self) -> float:
        """Of the interval, relative to the median."""
        return (self.high_ns - self.low_ns) / self.median_ns


def judge(
    medians_KR: NDArray[np.float64],
    *,
    slowdown_KR: NDArray[np.float64],
    drift: float,
    protocol: MeasurementProtocol,
    rng: np.random.Generator,
) -> list[Judged]:
    """Judge the networks of a session.

    When the host drifted, all values are divided by its slowdown beside them. When it did not, they are where that
    makes the interval of a network clearly narrower: hosts that change their speed from second to second do not drift.

    Args:
        medians_KR: median of every round of every network, ns.
        slowdown_KR: time of the reference beside it, relative to the reference's median over the session.
        drift: of the reference, see `drift_of`.
        protocol: width and level of the interval.
        rng: draws the bootstrap samples.
    """
    judge_one = functools.partial(_judge_one, drift=drift, protocol=protocol, rng=rng)
    found = []
    for medians_R, slowdown_R in zip(medians_KR, slowdown_KR, strict=True):
        ways = []
        if not MAX_DRIFT < abs(drift) <= MAX_CORRECTED_DRIFT:
            ways.append(judge_one(medians_R, corrected=False))
        if abs(drift) <= MAX_CORRECTED_DRIFT:
            ways.append(judge_one(medians_R / slowdown_R, corrected=True))
        found.append(ways[-1] if ways[-1].width < _NARROWER * ways[0].width else ways[0])
    return found


def drift_of(probes_P: NDArray[np.float64]) -> float:
    """How far the slowest or fastest quarter of a session was from its median, by its reference: +.05 is 5 % slower.

    Args:
        probes_P: times of the reference in the order in which they were taken.
    """
    if len(probes_P) < 4:
        return 0.0
    middle = float(np.median(probes_P))
    quarters = np.array([np.median(part) for part in np.array_split(probes_P, 4)]) / middle - 1
    return float(quarters[np.abs(quarters).argmax()])


def bootstrap_median_interval(
    round_medians: NDArray[np.float64], *, level: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the median of `round_medians`.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Args:
        round_medians: (R,) finite values, at least 2.
        level: confidence level, between 0 and 1.
        rng: draws the samples.

    Raises:
        MeasurementError: fewer than 2 values, another shape, or values that are not finite.
    """
    if round_medians.ndim != 1 or len(round_medians) < 2 or not np.isfinite(round_medians).all():
        raise MeasurementError(
            f"an interval needs at least 2 finite round medians, got {round_medians.tolist()}",
            hint="measure more rounds",
        )
    num_rounds = len(round_medians)
    draws_BR = rng.integers(num_rounds, size=(NUM_RESAMPLES, num_rounds))
    samples_B = np.median(round_medians[draws_BR], axis=1)
    low, high = np.quantile(samples_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _judge_one(
    values_R: NDArray[np.float64],
    *,
    corrected: bool,
    drift: float,
    protocol: MeasurementProtocol,
    rng: np.random.Generator,
) -> Judged:
    kept_R = values_R[_inside_fences(values_R)]
    num_outliers = len(values_R) - len(kept_R)
    median = float(np.median(kept_R))
    low, high = bootstrap_median_interval(kept_R, level=protocol.level, rng=rng)
    width = (high - low) / median
    reasons = []
    if abs(drift) > MAX_CORRECTED_DRIFT:
        reasons.append(f"the reference network drifted by {100 * drift:+.0f} %")
    if width > max(MAX_WIDTH, 2 * protocol.interval_width):
        reasons.append(f"the interval of the median is {100 * width:.1f} % wide")
    if num_outliers > MAX_OUTLIERS * len(values_R):
        reasons.append(f"{num_outliers} of {len(values_R)} rounds are outliers")
    half = len(kept_R) // 2
    unsteady = float(np.median(kept_R[half:]) / np.median(kept_R[:half])) - 1
    if abs(unsteady) > max(MAX_UNSTEADY, protocol.interval_width):
        reasons.append(f"its second half differs from the first by {100 * unsteady:+.1f} %")
    return Judged(
        median_ns=median,
        low_ns=low,
        high_ns=high,
        converged=width <= protocol.interval_width,
        corrected=corrected,
        num_outliers=num_outliers,
        reasons=tuple(reasons),
    )


def _inside_fences(values_R: NDArray[np.float64]) -> NDArray[np.bool_]:
    first, median, third = np.quantile(values_R, [0.25, 0.5, 0.75])
    reach = max(_FENCES * (third - first), _LEAST_FENCE * median)
    inside_R: NDArray[np.bool_] = (values_R >= first - reach) & (values_R <= third + reach)
    return inside_R
