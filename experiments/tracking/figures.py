"""The pictures of a run, for people: verified front, predictor against measurements, progress of the search.

Plotly figures that become self-contained pages: they work without a network, and inside the viewer of MLflow, which
lets scripts run and forbids everything else (storage, links, fetching).
"""

import html
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from experiments.tracking.hover import (
    Point,
    baseline_hover,
    by_device,
    evaluated_hover,
    front_hover,
    joint_hover,
    number,
    pair,
    predictor_hover,
    verified_hover,
)
from hardware.files import write_text
from nas.accuracy import metric_label

_INK = "#1f2933"
FAINT_COLOR = "#7b8794"
_GRID = "#e4e7eb"
FRONT_COLOR = "#0b6e99"
BEHIND_COLOR = "#e08a1e"
_CLOUD = "#9fb3c8"
_COLORS = (FRONT_COLOR, BEHIND_COLOR, "#6a4c93", "#2a9d4e", "#c44536", "#5c6b73")
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Roboto, Helvetica, Arial, sans-serif"
_LOG_SPAN = 4.0
_TICKS_PER_DECADE = (1, 1.5, 2, 3, 4, 5, 7)


def pareto_figure(
    front: Sequence[Point],
    evaluations: pd.DataFrame,
    verifications: pd.DataFrame,
    *,
    baselines: Sequence[Point] = (),
    title: str = "Verified front",
) -> go.Figure:
    """Accuracy against latency: the verified front, what else was verified, and what was only predicted.

    Args:
        front: the points of pareto.json.
        evaluations: the evaluations table: accuracy on the search split, predicted latency.
        verifications: the verifications table: accuracy on the verify split, measured latency.
        baselines: the baselines of pareto.json; those without a latency are left out.
        title: first line of the heading, for example the run's name and device.

    Returns:
        A figure; empty inputs give one that says so.
    """
    on_front = {str(point["candidate"]) for point in front}
    newest = verifications.drop_duplicates("candidate_id", keep="last")
    others = newest[~newest["candidate_id"].isin(list(on_front))]
    cloud = evaluations.drop_duplicates("candidate_id", keep="last")
    measured = all(point.get("provenance") != "predicted" for point in front)
    figure = go.Figure()
    figure.add_trace(_cloud_trace(cloud))
    figure.add_trace(_verified_trace(others))
    if (promised := _promise_trace(front)) is not None:
        figure.add_trace(promised)
    figure.add_trace(_front_trace(front, verified=newest, label="verified front" if measured else "predicted front"))
    if baselines := [point for point in baselines if math.isfinite(number(point.get("latency_ms")))]:
        figure.add_trace(_baseline_trace(baselines))
    latencies = [number(point.get("latency_ms")) for point in (*front, *baselines)]
    latencies += others["latency_ms"].tolist() + cloud["latency_predicted_ms"].tolist()
    lowest, num_below = _lowest_shown([number(point.get("accuracy")) for point in front], cloud=cloud["accuracy"])
    counts = f"{len(front)} on the front, {len(newest)} verified, {len(cloud)} evaluated"
    counts += f" ({num_below} of them below the frame)" if num_below else ""
    label = _label([point.get("metric") for point in front] + cloud.get("metric", pd.Series(dtype=object)).tolist())
    note = f"bars: confidence intervals of {label} and of the median latency"
    lay_out(figure, title=title, subtitle=f"{counts}; {note}", empty=not front and not len(cloud))
    latency_axis(figure.update_xaxes, latencies, title="Latency of one inference (ms)")
    figure.update_yaxes(
        title=f"{label[:1].upper()}{label[1:]} (%)", tickformat=".1~%", autorangeoptions={"minallowed": lowest}
    )
    return figure


def joint_figure(front: Sequence[Point], devices: Sequence[str], *, title: str, split: str) -> go.Figure:
    """Accuracy against the latency on each device, of networks that no other one beats on all devices together.

    Args:
        front: the points of pareto-joint.json.
        devices: their ids, one colour each.
        title: first line of the heading.
        split: where the accuracies come from.
    """
    figure = go.Figure()
    latencies: list[float] = []
    for index, device in enumerate(devices):
        of_device = [number(by_device(point.get("latency_ms")).get(device)) for point in front]
        latencies += of_device
        figure.add_trace(
            go.Scatter(
                x=of_device,
                y=[number(point["accuracy"]) for point in front],
                mode="markers",
                name=device,
                marker={"color": _COLORS[index % len(_COLORS)], "size": 9, "line": {"color": "white", "width": 1}},
                text=[joint_hover(point) for point in front],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    label = _label([point.get("metric") for point in front])
    counts = f"{len(front)} networks, each once for every device; accuracies on {split}"
    lay_out(figure, title=title, subtitle=counts, empty=not front)
    latency_axis(figure.update_xaxes, latencies, title="Latency of one inference (ms)")
    figure.update_yaxes(title=f"{label[:1].upper()}{label[1:]} (%)", tickformat=".1~%")
    return figure


def predictor_figure(points: pd.DataFrame, *, title: str = "Latency predictor", scores: str = "") -> go.Figure:
    """Predicted against measured latency, with intervals of both and bands of 5 and 10 %.

    Args:
        points: one row a measured subnet: arch_id, held_out (bool), latency_ms, latency_low_ms, latency_high_ms,
            latency_predicted_ms, latency_predicted_low_ms, latency_predicted_high_ms.
        title: first line of the heading.
        scores: second line, for example the mean error on held-out subnets.
    """
    figure = go.Figure()
    finite = points[np.isfinite(points["latency_ms"]) & np.isfinite(points["latency_predicted_ms"])]
    if len(finite):
        both = pd.concat([finite["latency_ms"], finite["latency_predicted_ms"]])
        _add_bands(figure, low=float(both.min()) / 1.08, high=float(both.max()) * 1.08)
    for held_out, label, color, symbol in (
        (False, "used for fitting", _CLOUD, "circle"),
        (True, "held out", FRONT_COLOR, "diamond"),
    ):
        rows = finite[finite["held_out"].astype(bool) == held_out]
        figure.add_trace(
            go.Scatter(
                x=rows["latency_ms"],
                y=rows["latency_predicted_ms"],
                error_x=bars(rows["latency_ms"], rows["latency_low_ms"], rows["latency_high_ms"], color=color),
                error_y=bars(
                    rows["latency_predicted_ms"],
                    rows["latency_predicted_low_ms"],
                    rows["latency_predicted_high_ms"],
                    color=color,
                ),
                mode="markers",
                name=f"{label} ({len(rows)})",
                marker={"color": color, "symbol": symbol, "size": 9, "line": {"color": "white", "width": 1}},
                text=[predictor_hover(row, label=label) for row in rows.to_dict("records")],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    lay_out(figure, title=title, subtitle=scores, empty=not len(finite))
    values = finite["latency_ms"].tolist() + finite["latency_predicted_ms"].tolist()
    latency_axis(figure.update_xaxes, values, title="Measured latency (ms)")
    latency_axis(figure.update_yaxes, values, title="Predicted latency (ms)")
    return figure


def hypervolume_figure(
    hypervolume: Sequence[float], *, metric: str = "", title: str = "Progress of the search"
) -> go.Figure:
    """Hypervolume of the predicted front after each evaluation, as it only grows while the search learns something.

    Args:
        hypervolume: value after evaluation 1, 2, ...; NaN is left out.
        metric: what was maximised.
        title: first line of the heading.
    """
    figure = go.Figure(
        go.Scatter(
            x=list(range(1, len(hypervolume) + 1)),
            y=list(hypervolume),
            mode="lines",
            line={"shape": "hv", "color": FRONT_COLOR, "width": 2.5},
            fill="tozeroy",
            fillcolor="rgba(11, 110, 153, 0.08)",
            name="hypervolume",
            hovertemplate="after %{x} evaluations: %{y:.5g}<extra></extra>",
        )
    )
    label = metric_label(metric)
    lay_out(figure, title=title, subtitle=f"predicted latency, {label} on the search split", empty=not hypervolume)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="Evaluated architectures")
    figure.update_yaxes(title=f"Hypervolume ({label} x ms)")
    finite = [value for value in hypervolume if math.isfinite(value)]
    if finite and max(finite) > min(finite):
        margin = 0.1 * (max(finite) - min(finite))
        figure.update_yaxes(range=[min(finite) - margin, max(finite) + margin])
    return figure


def write_html(figure: go.Figure, path: Path) -> None:
    """Write a page that needs nothing else: plotly.js is inside (5 MB), the same figure gives the same bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    page = figure.to_html(
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=True,
        div_id="figure",
        default_width="100%",
        default_height="100%",
        config={
            "displaylogo": False,
            "responsive": True,
            "showTips": False,
            # On by default since plotly.js 4: a button that uploads the chart to its maker.
            "showSendToCloud": False,
            "plotlyServerURL": "",
            "modeBarButtonsToRemove": ["select2d", "lasso2d"],
        },
    )
    # The heading is HTML already; a window's title takes its first line without tags.
    title = re.sub(r"<[^>]*>", "", str(figure.layout.title.text or "Archsmith").split("<br>")[0])
    # Full height without scroll bars, in a window of its own as in a frame.
    head = f"<head><title>{title}</title><style>html,body{{height:100%;margin:0}}body>div{{height:100%}}</style>"
    write_text(path, page.replace("<head>", head, 1))


def _lowest_shown(front: Sequence[float], *, cloud: "pd.Series[float]") -> tuple[float | None, int]:
    """Lowest accuracy in the frame, and how many of `cloud` are below: a few failures must not squash the front."""
    finite = [accuracy for accuracy in front if math.isfinite(accuracy)]
    if not finite:
        return None, 0
    lowest = min(finite) - 3 * max(max(finite) - min(finite), 0.01)
    num_below = int((cloud < lowest).sum())
    return (lowest, num_below) if num_below else (None, 0)


def _front_trace(front: Sequence[Point], *, verified: pd.DataFrame, label: str) -> go.Scatter:
    points = sorted(front, key=lambda point: number(point["latency_ms"]))
    details = {str(row["candidate_id"]): row for row in verified.to_dict("records")}
    x = pd.Series([number(point["latency_ms"]) for point in points], dtype=float)
    y = pd.Series([number(point["accuracy"]) for point in points], dtype=float)
    latency_low, latency_high = _bounds(points, key="latency_interval_ms")
    accuracy_low, accuracy_high = _bounds(points, key="accuracy_interval")
    return go.Scatter(
        x=x,
        y=y,
        error_x=bars(x, latency_low, latency_high, color=FRONT_COLOR),
        error_y=bars(y, accuracy_low, accuracy_high, color=FRONT_COLOR),
        mode="lines+markers",
        # Up to the next point nothing better is known: stairs, not straight lines.
        line={"shape": "hv", "color": FRONT_COLOR, "width": 2},
        marker={"color": FRONT_COLOR, "size": 11, "line": {"color": "white", "width": 1.5}},
        name=label,
        text=[front_hover(point, details=details.get(str(point["candidate"]), {})) for point in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _promise_trace(front: Sequence[Point]) -> go.Scatter | None:
    """Dotted lines from what was promised of each measured point to what was found; None without any."""
    ends = [
        (
            (number(point.get("latency_predicted_ms")), number(point.get("accuracy_search"))),
            (number(point.get("latency_ms")), number(point.get("accuracy"))),
        )
        for point in front
        if point.get("provenance") != "predicted"
    ]
    known = [(promised, found) for promised, found in ends if all(map(math.isfinite, (*promised, *found)))]
    if not known:
        return None
    return go.Scatter(
        x=[x for promised, found in known for x in (promised[0], found[0], None)],
        y=[y for promised, found in known for y in (promised[1], found[1], None)],
        mode="lines+markers",
        line={"color": FRONT_COLOR, "width": 1, "dash": "dot"},
        marker={"color": "white", "size": [7, 0, 0] * len(known), "line": {"color": FRONT_COLOR, "width": 1.2}},
        name="what was promised: predicted latency, search split",
        hoverinfo="skip",
    )


def _verified_trace(rows: pd.DataFrame) -> go.Scatter:
    suspect = rows["suspect"].fillna(False).astype(bool)
    return go.Scatter(
        x=rows["latency_ms"],
        y=rows["accuracy"],
        error_x=bars(rows["latency_ms"], rows["latency_low_ms"], rows["latency_high_ms"], color="#f0c48a"),
        error_y=bars(rows["accuracy"], rows["accuracy_low"], rows["accuracy_high"], color="#f0c48a"),
        mode="markers",
        marker={
            "color": BEHIND_COLOR,
            "symbol": ["x" if flag else "circle" for flag in suspect],
            "size": 8,
            "line": {"color": "white", "width": 1},
        },
        name="verified, not on the front",
        text=[verified_hover(row) for row in rows.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )


def _baseline_trace(points: Sequence[Point]) -> go.Scatter:
    return go.Scatter(
        x=[number(point["latency_ms"]) for point in points],
        y=[number(point["accuracy"]) for point in points],
        mode="markers",
        marker={"color": _INK, "symbol": "diamond-open", "size": 11, "line": {"width": 2}},
        name="baseline",
        text=[baseline_hover(point) for point in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _cloud_trace(rows: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=rows["latency_predicted_ms"],
        y=rows["accuracy"],
        mode="markers",
        marker={"color": _CLOUD, "size": 6, "opacity": 0.55},
        name="evaluated: predicted latency, search split",
        text=[evaluated_hover(row) for row in rows.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )


def _label(metrics: Sequence[object]) -> str:
    return metric_label(metrics[0]) if metrics else metric_label(None)


def _bounds(points: Sequence[Point], *, key: str) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    pairs = [pair(point.get(key)) for point in points]
    return pd.Series([low for low, _ in pairs], dtype=float), pd.Series([high for _, high in pairs], dtype=float)


def bars(
    value: "pd.Series[float]", low: "pd.Series[float]", high: "pd.Series[float]", *, color: str
) -> dict[str, object]:
    """Asymmetric error bars; a bound that is missing shows none."""
    return {
        "type": "data",
        "symmetric": False,
        "array": (high - value).clip(lower=0).fillna(0).tolist(),
        "arrayminus": (value - low).clip(lower=0).fillna(0).tolist(),
        "color": color,
        "thickness": 1.2,
        "width": 3,
    }


def _add_bands(figure: go.Figure, *, low: float, high: float) -> None:
    ends = [low, high]
    for share, opacity in ((0.10, 0.10), (0.05, 0.14)):
        figure.add_trace(
            go.Scatter(
                x=[*ends, *ends[::-1]],
                y=[(1 + share) * end for end in ends] + [(1 - share) * end for end in ends[::-1]],
                fill="toself",
                fillcolor=f"rgba(11, 110, 153, {opacity})",
                line={"width": 0},
                mode="lines",
                name=f"within {share:.0%}",
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": FAINT_COLOR, "width": 1, "dash": "dot"}, name="equal",
            hoverinfo="skip",
        )
    )  # fmt: skip


def latency_axis(update: object, values: Sequence[float], *, title: str) -> None:
    """Logarithmic when the span asks for it, with ticks a person can read (plotly's own have one label a decade)."""
    assert callable(update)
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite or max(finite) / min(finite) <= _LOG_SPAN:
        update(title=title, rangemode="normal")
        return
    low, high = min(finite) / 1.15, max(finite) * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [mantissa * 10.0**decade for decade in decades for mantissa in _TICKS_PER_DECADE]
    shown = [tick for tick in ticks if low <= tick <= high]
    update(
        title=f"{title}, logarithmic",
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=shown,
        ticktext=[f"{tick:.4g}" for tick in shown],
    )


def lay_out(figure: go.Figure, *, title: str, subtitle: str, empty: bool) -> None:
    """Give a figure its heading and the looks that all of a run's figures share; say so if there is nothing in it."""
    text = f"<b>{html.escape(title)}</b>"
    if subtitle:
        text += f"<br><span style='font-size:13px;color:{FAINT_COLOR}'>{html.escape(subtitle)}</span>"
    figure.update_layout(
        template="plotly_white",
        title={"text": text, "x": 0.0, "xref": "paper", "xanchor": "left", "font": {"size": 20, "color": _INK}},
        font={"family": _FONT, "size": 14, "color": _INK},
        margin={"l": 80, "r": 30, "t": 110, "b": 70},
        legend={
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1.0,
            "yanchor": "bottom",
            "traceorder": "reversed",
        },
        hoverlabel={"align": "left", "bgcolor": "white", "bordercolor": _GRID, "font": {"family": _FONT, "size": 13}},
        hovermode="closest",
        autosize=True,
    )
    axis = {"gridcolor": _GRID, "linecolor": FAINT_COLOR, "showline": True, "ticks": "outside", "zeroline": False}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    if empty:
        figure.update_layout(xaxis_visible=False, yaxis_visible=False, showlegend=False)
        figure.add_annotation(
            text="Nothing to show yet", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper",
            font={"size": 18, "color": FAINT_COLOR},
        )  # fmt: skip
