"""Pictures of how predictions get better with the number of measurements: one panel for each device or task."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.pictures import COLORS, GREY, Axis, Drawing
from experiments.benchmarks.predictors.coverage import Found

_METRICS = {"spearman": "Spearman's rho", "within_10": "share within 10 %", "mape": "mean error, percent"}
_COLUMNS, _WIDTH, _HEIGHT, _EDGE = 3, 280, 200, 36
# Plain methods may be far off; the panels show what is near.
_LOWEST_RHO, _HIGHEST_MAPE = 0.3, 40.0


def draw_curves(out: Path, case: str, found: Sequence[Found]) -> None:
    """Draw one picture for each of three figures beside the benchmark's file: `FILE-case-figure.svg`.

    Lines are means over seeds; bands are one standard deviation either way.

    Args:
        out: the benchmark's file.
        case: the data.
        found: all devices.
    """
    for metric, title in _METRICS.items():
        path = out.with_name(f"{out.stem}-{case}-{metric}.svg")
        path.write_text(_picture(case, metric, title, found).svg(), encoding="utf-8")


def _picture(case: str, metric: str, title: str, found: Sequence[Found]) -> Drawing:
    devices = list(dict.fromkeys(device for device, _, _ in found))
    methods = list(dict.fromkeys(method for _, _, means in found for method in means))
    num_rows = -(-len(devices) // _COLUMNS)
    legend = 18 * -(-len(methods) // 4)
    width, height = _COLUMNS * _WIDTH, num_rows * _HEIGHT + legend + 40
    drawing = Drawing(width=width, height=height)
    drawing.text(width / 2, height - 18, f"{case}: {title} over the number of measurements", size=14)
    for number, method in enumerate(methods):
        x, y = 20 + number % 4 * width / 4, height - 40 - 18 * (number // 4)
        drawing.line(x, y + 4, x + 20, y + 4, color=COLORS[number % len(COLORS)], dashed=number >= len(COLORS))
        drawing.text(x + 26, y, method, anchor="start")
    for number, device in enumerate(devices):
        left, bottom = number % _COLUMNS * _WIDTH, (num_rows - 1 - number // _COLUMNS) * _HEIGHT
        points = [(n, means) for name, n, means in found if name == device]
        _panel(drawing, left, bottom, device, points, metric=metric, methods=methods)
    return drawing


def _panel(
    drawing: Drawing,
    left: float,
    bottom: float,
    device: str,
    points: Sequence[tuple[int, Mapping[str, Mapping[str, float]]]],
    *,
    metric: str,
    methods: Sequence[str],
) -> None:
    sizes = [n for n, _ in points]
    values = [means[method][metric] for _, means in points for method in means if method in means]
    low, high = _limits(metric, values)
    x = Axis(low=np.log(sizes[0]) - 0.05, high=np.log(sizes[-1]) + 0.05, start=left + _EDGE, end=left + _WIDTH - 10)
    y = Axis(low=low, high=high, start=bottom + 22, end=bottom + _HEIGHT - 28)
    drawing.text(left + _WIDTH / 2, bottom + _HEIGHT - 20, device)
    drawing.line(x.start, y.start, x.end, y.start)
    drawing.line(x.start, y.start, x.start, y.end)
    for value in (low, (low + high) / 2, high):
        drawing.line(x.start, y.at(value), x.end, y.at(value), color=GREY, dashed=True)
        drawing.text(x.start - 4, y.at(value) - 4, f"{value:.3g}", anchor="end", size=9)
    for n in sizes:
        drawing.text(x.at(np.log(n)), bottom + 8, str(n), size=9)
    for number, method in enumerate(methods):
        color, dashed = COLORS[number % len(COLORS)], number >= len(COLORS)
        here = [(x.at(np.log(n)), means[method]) for n, means in points if method in means]
        center = [(place, y.clipped(figures[metric])) for place, figures in here]
        above = [(place, y.clipped(figures[metric] + figures[f"{metric}_deviation"])) for place, figures in here]
        below = [(place, y.clipped(figures[metric] - figures[f"{metric}_deviation"])) for place, figures in here]
        drawing.area([*above, *below[::-1]], color=color)
        for (x1, y1), (x2, y2) in itertools.pairwise(center):
            drawing.line(x1, y1, x2, y2, color=color, dashed=dashed)
        for place, value in center:
            drawing.circle(place, value, radius=2, color=color)


def _limits(metric: str, values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if np.isfinite(value)]
    if metric == "mape":
        return 0.0, float(min(max(finite), _HIGHEST_MAPE))
    lowest = float(max(min(finite), _LOWEST_RHO if metric == "spearman" else 0.0))
    return np.floor(20 * min(lowest, 0.95)) / 20, 1.0
