"""How the command line shows things: bars on standard error, tables on standard output."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from experiments.doctor import Finding
from experiments.plan import PlanLine
from hardware.files import JSON
from nas.accuracy import metric_label

_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 30.0
_LEAST_MEMBERSHIP = 0.05


class ConsoleReporter:
    """Shows stages as bars on a terminal and elsewhere as a plain line every half minute; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _TimeLeft(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            # Bars move when a stage says so, between two rounds of a measurement; never by a thread of their own.
            auto_refresh=False,
            disable=not console.is_interactive,
        )
        self._started = self._drawn = time.monotonic()
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, *, text: str) -> None:
        """Print the stage's line and open a bar without an end yet."""
        self._console.print(f"[bold]{name:8}[/bold] {escape(text)}", highlight=False)
        self._bar = self._bars.add_task(name, total=None, text="", seconds_left=None)
        self._bars.refresh()
        self._started = self._drawn = time.monotonic()

    def progress(self, done: float, total: float, *, text: str = "", seconds_left: float | None = None) -> None:
        """Move the stage's bar, or print a line where there is no terminal."""
        if self._bar is None:
            return
        self._bars.update(
            self._bar, completed=int(done), total=int(total), text=escape(text), seconds_left=seconds_left
        )
        since_drawn = time.monotonic() - self._drawn
        if self._bars.disable:
            if since_drawn >= _LINE_SECONDS:
                self._drawn += since_drawn
                self._print_line(self._bars.tasks[0])
        elif since_drawn > _REDRAW_SECONDS or done == total:
            self._drawn += since_drawn
            self._bars.refresh()

    def _print_line(self, task: Task) -> None:
        left = _seconds_left(task)
        parts = [
            f"{task.completed:,.0f} of {task.total:,.0f}",
            task.fields["text"],
            "" if left is None else f"{duration(left)} left",
        ]
        self._console.print(f"         {', '.join(part for part in parts if part)}", highlight=False)

    def done(self, text: str) -> None:
        """Close the bar and print what the stage found."""
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        self._bar = None
        seconds = time.monotonic() - self._started
        self._console.print(f"         [green]done[/green] {escape(text)} ({seconds:.0f} s)", highlight=False)

    def message(self, text: str) -> None:
        """Print something that a user should know."""
        self._console.print(f"         [yellow]note[/yellow] {escape(text)}", highlight=False)


class _TimeLeft(ProgressColumn):
    """The stage's own estimate of the time left, or rich's where the stage has none."""

    def render(self, task: Task) -> Text:
        seconds = _seconds_left(task)
        return Text("" if seconds is None else f"{duration(seconds)} left", style="progress.remaining")


def _seconds_left(task: Task) -> float | None:
    own: float | None = task.fields["seconds_left"]
    return task.time_remaining if own is None else own


def duration(seconds: float) -> str:
    """For people: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def front_table(document: dict[str, JSON]) -> Table:
    """The front of `report.front_document` as a table, baselines below it."""
    measured = document["provenance"] == "measured"
    title = f"{'Verified' if measured else 'Predicted'} Pareto front of {document['name']} on {document['device']}"
    if limits := document["limits"]:
        assert isinstance(limits, list)
        title += " within " + ", ".join(f"{one['name']} <= {one['value']:g}" for one in limits)
    table = Table(title=title, title_justify="left", title_style="bold")
    split = f"{metric_label(document['metric'])} on {document['split']}, 95 %"
    latency = "latency p50 ms, interval"
    for heading in ("arch id", split, latency, "on the front", "provenance", "weights", "MACs", "params"):
        table.add_column(heading, justify="left" if heading in ("arch id", "provenance", "weights") else "right")
    points = document["points"]
    assert isinstance(points, list)
    for point in points:
        low, high = point["accuracy_interval"]
        fast, slow = point["latency_interval_ms"]
        table.add_row(
            str(point["arch_id"]),
            f"{point['accuracy']:.2%}  {low:.1%} - {high:.1%}",
            f"{point['latency_ms']:.4f}  {fast:.4f} - {slow:.4f}",
            _share(point["membership"]),
            f"{point['provenance']}{' (suspect)' if point['suspect'] else ''}",
            str(point["weights_kind"]),
            f"{point['macs']:,}",
            f"{point['params']:,}",
        )
    baselines = document["baselines"]
    assert isinstance(baselines, list)
    if points and baselines:
        table.add_section()
    for point in baselines:
        low, high = point["accuracy_interval"]
        fast, slow = point["latency_interval_ms"]
        measured = point["latency_ms"] is not None
        table.add_row(
            escape(point["name"]),
            f"{point['accuracy']:.2%}  {low:.1%} - {high:.1%}",
            f"{point['latency_ms']:.4f}  {fast:.4f} - {slow:.4f}" if measured else "-",
            f"{point['provenance']}{' (suspect)' if point['suspect'] else ''}",
            str(point["weights_kind"]),
            "-" if point["macs"] is None else f"{point['macs']:,}",
            "-" if point["params"] is None else f"{point['params']:,}",
        )
    return table


def promise_table(document: dict[str, JSON]) -> Table:
    """What was promised of the candidates of `report.front_document` that may be on the front, and what was found."""
    promises = document["promises"]
    assert isinstance(promises, dict)
    table = Table(title=_promise_title(promises), title_justify="left", title_style="bold")
    for heading in ("arch id", "weights"):
        table.add_column(heading)
    metric = metric_label(document["metric"])
    for heading in (f"{metric}, search", "verify", "difference", "latency ms, predicted", "measured", "off by"):
        table.add_column(heading, justify="right")
    table.add_column("on the front", justify="right")
    shown = [row for row in promises["rows"] if row["on_front"] or row["membership"] >= _LEAST_MEMBERSHIP]
    if left_out := len(promises["rows"]) - len(shown):
        table.caption = f"and {left_out} more, on the front with less than {_LEAST_MEMBERSHIP:.0%} each: --format json"
        table.caption_justify = "left"
    for row in shown:
        latency = row["latency_found_ms"]
        table.add_row(
            row["arch_id"] + (" *" if row["on_front"] else ""),
            row["weights_kind"],
            "-" if row["accuracy_promised"] is None else f"{row['accuracy_promised']:.2%}",
            f"{row['accuracy_found']:.2%}{_outside(row['accuracy_kept'])}",
            "-" if row["accuracy_difference"] is None else f"{row['accuracy_difference']:+.2%}",
            f"{row['latency_promised_ms']:.4f}",
            "-" if latency is None else f"{latency:.4f}{_outside(row['latency_kept'])}",
            "-" if row["latency_ratio"] is None else f"{row['latency_ratio'] - 1:+.1%}",
            _share(row["membership"]),
        )
    return table


def _promise_title(promises: dict[str, JSON]) -> str:
    promised, found = promises["hypervolume_promised"], promises["hypervolume_found"]
    parts = [f"Promised against found: hypervolume {promised:.5g} promised, {found:.5g} found"]
    if promises["accuracies_kept"] is not None:
        parts.append(f"{promises['accuracies_kept']:.0%} of accuracies within the promised interval")
    if promises["latencies_kept"] is None:
        parts.append("latencies not measured")
    else:
        parts.append(f"{promises['latencies_kept']:.0%} of latencies")
    return ", ".join(parts) + " (! outside; * on the front)"


def _outside(kept: bool | None) -> str:
    return "" if kept in (True, None) else " !"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def joint_table(document: dict[str, JSON]) -> Table:
    """The front of `report.joint_document` as a table."""
    devices, points = document["devices"], document["points"]
    assert isinstance(devices, list)
    assert isinstance(points, list)
    table = Table(title=f"Joint Pareto front of {document['name']}", title_justify="left", title_style="bold")
    table.add_column("arch id")
    table.add_column(f"{metric_label(document['metric'])} on {document['split']}, 95 %", justify="right")
    for device in devices:
        table.add_column(f"{device}, ms", justify="right")
    table.add_column("weights")
    for point in points:
        low, high = point["accuracy_interval"]
        cells = []
        for device in devices:
            fast, slow = point["latency_interval_ms"][device]
            mark = " (suspect)" if point["suspect"][device] else ""
            value = f"{point['latency_ms'][device]:.4f}  {fast:.4f} - {slow:.4f}"
            cells.append(f"{value} {point['provenance'][device]}{mark}")
        table.add_row(
            point["arch_id"],
            f"{point['accuracy']:.2%}  {low:.1%} - {high:.1%}",
            *cells,
            point["weights_kind"],
        )
    return table


def plan_table(lines: Sequence[PlanLine]) -> Table:
    """A plan as a table."""
    table = Table(title="Plan (nothing is written)", title_justify="left", title_style="bold", show_header=False)
    for line in lines:
        text = escape(line.text)
        table.add_row(line.subject, text if line.ok else f"[red]{text}[/red]")
    return table


def doctor_table(findings: Sequence[Finding]) -> Table:
    """Findings as a table."""
    table = Table(title="nas doctor", title_justify="left", title_style="bold")
    for heading in ("checked", "", "found", "what to do"):
        table.add_column(heading)
    for finding in findings:
        mark = "[green]ok[/green]" if finding.ok else "[red]no[/red]"
        table.add_row(finding.subject, mark, finding.text, "" if finding.ok else finding.hint)
    return table


def _promised_columns(promises: JSON) -> dict[str, dict[str, JSON]]:
    """By candidate what CSV says of its promises beside what its point says already."""
    columns = {}
    for row in promises["rows"] if isinstance(promises, dict) else []:
        low, high = row["accuracy_promised_interval"]
        fast, slow = row["latency_promised_interval_ms"]
        columns[row["candidate"]] = {
            "accuracy_search_low": low,
            "accuracy_search_high": high,
            "latency_predicted_low_ms": fast,
            "latency_predicted_high_ms": slow,
            **{key: row[key] for key in ("accuracy_difference", "accuracy_kept", "latency_ratio", "latency_kept")},
        }
    return columns


def front_csv(document: dict[str, JSON]) -> str:
    """The front as CSV text; intervals become two columns, and values by device "column/device".

    Baselines come after it, their names as `name`; what they do not have is empty.
    """
    points, baselines = document["points"], document.get("baselines", [])
    assert isinstance(points, list)
    assert isinstance(baselines, list)
    promised = _promised_columns(document.get("promises"))
    rows = []
    for point in (*points, *baselines):
        row = dict(point) | promised.get(point.get("candidate"), {})
        row["accuracy_low"], row["accuracy_high"] = row.pop("accuracy_interval")
        interval = row.pop("latency_interval_ms")
        if isinstance(interval, dict):
            for device, (low, high) in interval.items():
                row[f"latency_low_ms/{device}"], row[f"latency_high_ms/{device}"] = low, high
            for key in ("latency_ms", "provenance", "suspect"):
                row |= {f"{key}/{device}": value for device, value in row.pop(key).items()}
        else:
            row["latency_low_ms"], row["latency_high_ms"] = interval
        rows.append(row)
    import pandas as pd

    return pd.DataFrame(rows).to_csv(index=False)
