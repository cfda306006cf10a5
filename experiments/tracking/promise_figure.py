"""The picture of promised against found."""

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.tracking.figures import BEHIND_COLOR, FAINT_COLOR, FRONT_COLOR, bars, lay_out
from nas.accuracy import metric_label
from nas.promises import Promise, Promises


def promise_figure(promises: Promises, *, metric: str, title: str) -> go.Figure:
    """Found against promised, accuracies on the left and latencies on the right, with the promised intervals.

    Args:
        promises: of one device.
        metric: what the accuracies are values of.
        title: first line of the heading.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for on_front, label, color in ((True, "on the front", FRONT_COLOR), (False, "behind it", BEHIND_COLOR)):
        rows = [row for row in promises.rows if row.on_front == on_front]
        _add(figure, rows, column=1, label=f"{label} ({len(rows)})", color=color)
        _add(figure, rows, column=2, label=f"{label} ({len(rows)})", color=color)
    name = metric_label(metric)
    lay_out(figure, title=title, subtitle=_summary(promises), empty=not promises.rows)
    _add_equal(figure, [(row.accuracy_promised, row.accuracy_found) for row in promises.rows], column=1)
    _add_equal(figure, [(row.latency_promised_ms, row.latency_found_ms) for row in promises.rows], column=2)
    for column, what, ends, layout in (
        (1, name[:1].upper() + name[1:], ("on search", "on verify"), {"tickformat": ".1%"}),
        (2, "Latency (ms)", ("predicted", "measured"), {}),
    ):
        figure.update_xaxes(title=f"{what}, {ends[0]}", row=1, col=column, **layout)
        figure.update_yaxes(title=f"{what}, {ends[1]}", row=1, col=column, **layout)
    return figure


def _summary(promises: Promises) -> str:
    parts = [
        f"hypervolume promised {promises.hypervolume_promised:.5g}, found {promises.hypervolume_found:.5g}",
        _unless_nan("accuracy found {:+.2%} of promised on average", promises.mean_accuracy_difference),
        _unless_nan("{:.0%} within the promised interval", promises.accuracies_kept),
        _unless_nan("mean latency error {:.1%}", promises.mean_latency_error) or "latencies not measured",
        _unless_nan("{:.0%} within the promised interval", promises.latencies_kept),
    ]
    return "; ".join(part for part in parts if part)


def _unless_nan(text: str, value: float) -> str:
    return text.format(value) if math.isfinite(value) else ""


def _add(figure: go.Figure, rows: Sequence[Promise], *, column: int, label: str, color: str) -> None:
    promised, interval, found = (
        ("accuracy_promised", "accuracy_promised_interval", "accuracy_found"),
        ("latency_promised_ms", "latency_promised_interval_ms", "latency_found_ms"),
    )[column - 1]
    x = pd.Series([getattr(row, promised) for row in rows], dtype=float)
    low, high = (pd.Series([getattr(row, interval)[end] for row in rows], dtype=float) for end in (0, 1))
    trace = go.Scatter(
        x=x,
        y=[getattr(row, found) for row in rows],
        error_x=bars(x, low, high, color=color),
        mode="markers",
        marker={"color": color, "size": 9, "line": {"color": "white", "width": 1}},
        name=label,
        legendgroup=label,
        showlegend=column == 1,
        text=[
            f"<b>{row.arch_id}</b> {row.weights_kind}<br>on the front with a probability of {row.membership:.0%}"
            for row in rows
        ],
        hovertemplate="%{text}<br>promised %{x}, found %{y}<extra></extra>",
    )
    figure.add_trace(trace, row=1, col=column)


def _add_equal(figure: go.Figure, pairs: Sequence[tuple[float, float]], *, column: int) -> None:
    """The line on which what was found is what was promised."""
    values = [value for pair in pairs if all(map(math.isfinite, pair)) for value in pair]
    if not values:
        return
    ends = [min(values), max(values)]
    line = {"color": FAINT_COLOR, "width": 1, "dash": "dot"}
    trace = go.Scatter(x=ends, y=ends, mode="lines", line=line, name="equal", showlegend=False, hoverinfo="skip")
    figure.add_trace(trace, row=1, col=column)
