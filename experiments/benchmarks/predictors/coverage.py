"""Whether intervals hold what they promise and are narrow besides, over all devices of a table."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport

# Figures of one device and number of measurements: (device, number, figure by method and name).
Found = tuple[str, int, Mapping[str, Mapping[str, float]]]

_FEWEST = 50
_LOW, _HIGH = 0.87, 0.93
_OUTSIDE = 0.80


def add_coverage(
    report: BenchmarkReport, case: str, found: Sequence[Found], *, methods: Sequence[str] = ("ours", "ours_random")
) -> None:
    """Record the mean coverage of 90 % intervals for each number of measurements, and their score; targets from 50 on.

    The score of a device is divided by that of the ridge that has the best one there; of these ratios the geometric
    mean counts, below 1 where ours is better, and on how many devices it is.

    Args:
        report: where to.
        case: the data.
        found: all devices.
        methods: which of them have our intervals.
    """
    rows = []
    for method in methods:
        for n in sorted({n for _, n, _ in found}):
            all_means = [means for _, m, means in found if m == n]
            inside = _mean([means[method]["coverage"] for means in all_means])
            outside = _mean([means[method]["outside_coverage"] for means in all_means])
            flagged = 1.0 - _mean([means[method]["in_range"] for means in all_means])
            low, high, least, most = (_LOW, _HIGH, _OUTSIDE, 1.0) if n >= _FEWEST else (None, None, None, None)
            key = f"{case}/all/n{n}/{method}"
            report.add(f"{key}/coverage", inside, at_least=low, at_most=high)
            if np.isfinite(outside):
                report.add(f"{key}/outside_coverage", outside, at_least=least)
            report.add(f"{key}/outside", flagged)
            ratios = [_over_ridge(means, method) for means in all_means]
            ratio = float(np.exp(np.mean(np.log(ratios))))
            report.add(f"{key}/interval_score_over_ridge", ratio, at_most=most)
            # A device that is found exactly weighs much in that mean.
            better = float(np.mean(np.array(ratios) < 1.0))
            report.add(f"{key}/interval_score_better", better)
            rows.append(
                [method, str(n), *map(share_text, (inside, flagged, outside)), f"{ratio:.2f}", share_text(better)]
            )
    headings = ["", "n", "coverage in range", "out of range", "coverage there", "score / best ridge's", "better on"]
    report.show(f"{case}: 90 % intervals", headings=headings, rows=rows)


def share_text(value: float) -> str:
    """A share in percent; nothing for NaN."""
    return f"{value:.1%}" if np.isfinite(value) else ""


def _over_ridge(means: Mapping[str, Mapping[str, float]], method: str) -> float:
    ridges = [figures["interval_score"] for name, figures in means.items() if "ridge" in name]
    return means[method]["interval_score"] / min(ridges)


def _mean(values: Sequence[float]) -> float:
    numbers = [value for value in values if np.isfinite(value)]
    return float(np.mean(numbers)) if numbers else float("nan")
