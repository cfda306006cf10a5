"""Pictures of what searches found by evaluations: one panel for each case, lines are medians, bands all seeds."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.benchmarks.pictures import COLORS, GREY, Axis, Drawing
from experiments.benchmarks.search.compare import Curves

_COLUMNS, _WIDTH, _HEIGHT, _EDGE = 3, 300, 220, 36
_LOWEST, _TICKS = 0.7, (0.7, 0.8, 0.9, 0.96, 0.98, 1.0)
_MARKS = (10, 30, 60, 120, 200, 500, 1000)
_MOST_POINTS = 120


def draw_curves(
    out: Path, case: str, found: Mapping[str, Mapping[str, Curves]], *, whole: str = "exact hypervolume"
) -> None:
    """Draw the share of a hypervolume over evaluations, in `FILE-case.svg` beside the benchmark's file.

    Args:
        out: the benchmark's file.
        case: the data.
        found: by panel and sampler.
        whole: the hypervolume that counts as 1, in words.
    """
    samplers = list(dict.fromkeys(sampler for curves in found.values() for sampler in curves))
    columns = min(_COLUMNS, len(found))
    width, height = max(columns * _WIDTH, 2 * _WIDTH), -(-len(found) // columns) * _HEIGHT + 60
    drawing = Drawing(width=width, height=height)
    drawing.text(width / 2, height - 18, f"{case}: share of the {whole} over unique evaluations", size=14)
    for number, sampler in enumerate(samplers):
        x, y = 20 + number * (width - 20) / len(samplers), height - 44
        drawing.line(x, y + 4, x + 20, y + 4, color=COLORS[number % len(COLORS)])
        drawing.text(x + 26, y, sampler, anchor="start")
    for number, (name, curves) in enumerate(found.items()):
        left, bottom = number % columns * _WIDTH, height - 60 - (number // columns + 1) * _HEIGHT
        _panel(drawing, left, bottom, name, curves, samplers=samplers)
    path = out.with_name(f"{out.stem}-{case}.svg")
    path.write_text(drawing.svg(), encoding="utf-8")


def _panel(
    drawing: Drawing, left: float, bottom: float, name: str, curves: Mapping[str, Curves], *, samplers: list[str]
) -> None:
    most = max(one.shares_SN.shape[1] for one in curves.values())
    x = Axis(low=np.log(_MARKS[0]), high=np.log(max(most, 11)), start=left + _EDGE, end=left + _WIDTH - 10)
    y = Axis(low=_LOWEST, high=1.0, start=bottom + 22, end=bottom + _HEIGHT - 28)
    drawing.text(left + _WIDTH / 2, bottom + _HEIGHT - 20, name)
    drawing.line(x.start, y.start, x.end, y.start)
    drawing.line(x.start, y.start, x.start, y.end)
    for share in _TICKS:
        drawing.line(x.start, y.at(share), x.end, y.at(share), color=GREY, dashed=True)
        drawing.text(x.start - 4, y.at(share) - 4, f"{share:g}", anchor="end", size=9)
    for mark in _MARKS:
        if mark <= most:
            drawing.text(x.at(np.log(mark)), bottom + 8, str(mark), size=9)
    for sampler, one in curves.items():
        color = COLORS[samplers.index(sampler) % len(COLORS)]
        last = one.shares_SN.shape[1]
        steps = np.unique(np.geomspace(min(_MARKS[0], last), last, _MOST_POINTS).astype(int))
        places = [x.clipped(np.log(n)) for n in steps]
        low, middle, high = (
            [y.clipped(value) for value in np.quantile(one.shares_SN[:, steps - 1], q, axis=0)] for q in (0.0, 0.5, 1.0)
        )
        drawing.area([*zip(places, high, strict=True), *list(zip(places, low, strict=True))[::-1]], color=color)
        for (x1, y1), (x2, y2) in itertools.pairwise(zip(places, middle, strict=True)):
            drawing.line(x1, y1, x2, y2, color=color)
