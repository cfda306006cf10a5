"""The text on a run's page in MLflow: what was found, as Markdown."""

from collections.abc import Mapping

from nas.accuracy import metric_label
from nas.tracking import RunView

_LARGEST_ROWS = 25  # the note is a tag, and a tag has a limited length


def describe_run(view: RunView) -> str:
    """Markdown with the verified front as a table, and where to look for more."""
    scores = view.predictor_scores
    lines = [f"**{view.name}**: {len(view.evaluations)} evaluations, {len(view.verifications)} verified."]
    if "mape_percent" in scores:
        lines.append(f"Latency predictor on held-out subnets: {scores['mape_percent']:.1f} % mean error.")
    if view.front:
        label = metric_label(view.front[0].get("metric"))
        lines += ["", f"| architecture | {label} | latency, ms | on the front | MACs | provenance |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_row(point) for point in view.front[:_LARGEST_ROWS]]
        left_out = len(view.front) - _LARGEST_ROWS
        if left_out > 0:
            lines.append(f"\n... and {left_out} more in pareto.json.")
        if "hypervolume_found" in view.promises:
            promised, found = view.promises["hypervolume_promised"], view.promises["hypervolume_found"]
            lines += ["", f"Hypervolume promised {promised:.5g}, found {found:.5g} ({found / promised - 1:+.1%})."]
        lines += ["", "Open `pareto.html` among the artifacts: hover over a point for its intervals."]
    elif len(view.verifications):
        lines.append("Latencies are predicted, not measured: `pareto.html` among the artifacts shows that front.")
    else:
        lines.append("Nothing is verified yet.")
    return "\n".join(lines)


def _row(point: Mapping[str, object]) -> str:
    cells = [
        f"`{point['arch_id']}`",
        _interval(point.get("accuracy"), point.get("accuracy_interval"), scale=100.0, digits=1, unit=" %"),
        _interval(point.get("latency_ms"), point.get("latency_interval_ms"), scale=1.0, digits=3, unit=""),
        _share(point.get("membership")),
        f"{float(str(point.get('macs') or 0)) / 1e6:.2f} M",
        str(point.get("provenance") or ""),
    ]
    return "| " + " | ".join(cells) + " |"


def _share(value: object) -> str:
    return f"{value:.0%}" if isinstance(value, float) else "-"


def _interval(value: object, bounds: object, *, scale: float, digits: int, unit: str) -> str:
    if not isinstance(value, int | float):
        return "-"
    text = f"{scale * value:.{digits}f}{unit}"
    if isinstance(bounds, list | tuple) and all(isinstance(bound, int | float) for bound in bounds):
        low, high = bounds
        text += f" ({scale * low:.{digits}f} - {scale * high:.{digits}f})"
    return text
