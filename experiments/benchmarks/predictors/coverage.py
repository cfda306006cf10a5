"""Whether intervals hold what they promise, over all devices of a table."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport

_FEWEST = 50
_LOW, _HIGH = 0.87, 0.93
_OUTSIDE = 0.80


def add_coverage(
    report: BenchmarkReport,
    case: str,
    found: Sequence[tuple[int, Mapping[str, Mapping[str, float]]]],
    *,
    methods: Sequence[str] = ("ours", "ours_random"),
) -> None:
    """Record the mean coverage of 90 % intervals for each number of measurements; a target from 50 on.

    Args:
        report: where to.
        case: the data.
        found: (number of measurements, figures by method) of each device.
        methods: which of them have intervals.
    """
    for method in methods:
        for n in sorted({n for n, _ in found}):
            inside = _mean([means[method]["coverage"] for m, means in found if m == n])
            outside = _mean([means[method]["outside_coverage"] for m, means in found if m == n])
            low, high = (_LOW, _HIGH) if n >= _FEWEST else (None, None)
            report.add(f"{case}/all/n{n}/{method}/coverage", inside, at_least=low, at_most=high)
            if np.isfinite(outside):
                least = _OUTSIDE if n >= _FEWEST else None
                report.add(f"{case}/all/n{n}/{method}/outside_coverage", outside, at_least=least)


def _mean(values: Sequence[float]) -> float:
    numbers = [value for value in values if np.isfinite(value)]
    return float(np.mean(numbers)) if numbers else float("nan")
