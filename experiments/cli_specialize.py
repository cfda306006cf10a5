"""The command `nas specialize`."""

import json
import math
import re
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from experiments.cli_options import err_console, out_console
from experiments.cli_spaces import Format, FormatOption

if TYPE_CHECKING:
    from nas.objectives import Limit
    from nas.run import Run
    from nas.specialize import Specialist
    from predictors.scores import LeftOutAccuracies

_UNITS = {
    "latency_ms": "ms",
    "latency_p99_ms": "ms",
    "energy_mj": "mJ",
    "peak_memory_bytes": "bytes",
    "macs": "MACs",
    "params": "parameters",
}


def specialize(
    where: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    device: Annotated[str | None, typer.Option("--device", help="Device id; default: the recipe's.")] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME<=VALUE", help=f"{', '.join(_UNITS)}; can be repeated."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="How many architectures.")] = 5,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Fine-tune the first one, as `nas refine` does, and say its accuracy.")
    ] = False,
    copies: Annotated[
        int,
        typer.Option("--copies", min=1, max=100, help="Fine-tune so many, and average them where that is better."),
    ] = 1,
    format_: FormatOption = Format.table,
) -> None:
    """Answer from a run's predictors: the best architectures of the whole space under limits.

    Nothing is evaluated unless --fine-tune is given; what that made is verified by the next `nas verify`.

    Examples:
        nas specialize runs/quickstart --limit 'latency_ms<=0.02'

        nas specialize runs/quickstart --device openvino-cpu --limit 'latency_ms<=0.3' --limit 'params<=50000' --top 3

        nas specialize runs/quickstart --limit 'latency_ms<=0.02' --fine-tune --copies 3
    """
    if copies > 1 and not fine_tune:
        raise typer.BadParameter("--copies goes with --fine-tune")
    from nas.run import open_run
    from nas.run_accuracy import run_accuracy_predictor
    from nas.specialize import specialize as answer
    from predictors.store import scores_to_card

    run = open_run(where)
    asked = [_limit(text) for text in limits or []]
    if twice := sorted(name for name, times in Counter(limit.name for limit in asked).items() if times > 1):
        raise typer.BadParameter(f"--limit sets {', '.join(twice)} more than once: give each limit one value")
    accuracy = run_accuracy_predictor(run)
    assert accuracy.left_out is not None
    found = answer(run, device=device, limits=asked, top=top, accuracy=accuracy)
    device_id = device or run.info.device_id
    tuned = _fine_tune(where, found[0], copies=copies, device_id=device_id) if fine_tune else None
    if format_ is Format.json:
        document: dict[str, object] = {
            "run": str(where),
            "space": run.space.space_id,
            "device": device_id,
            "limits": {limit.name: limit.value for limit in asked},
            "accuracy_predictor": scores_to_card(accuracy.left_out),
            "architectures": [_document(one) for one in found],
            "to_be_sure": [_sure_command(run, one, device_id=device_id) for one in found if _is_open(one)],
        }
        if tuned is not None:
            document["fine_tuned"] = tuned
        typer.echo(json.dumps(document, indent=2))
        return
    title = f"{run.info.name} on {device_id}: values are predicted, what was measured stands in the note"
    table = Table(title=title, title_justify="left")
    others = [f"{name}, 90 %" for name in found[0].others]
    headings = (
        *("arch id", "accuracy, 90 %", f"latency {found[0].unit}, 90 %", *others),
        *("evaluated", "MACs", "params", "peak bytes", "note"),
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("arch id", "note") else "right")
    for one in found:
        notes = [] if one.within_limits else ["may miss the limit"]
        notes += [] if one.in_range else ["unlike what was measured"]
        table.add_row(
            one.architecture.arch_id,
            f"{one.accuracy:.2%}  {one.accuracy_interval[0]:.1%} - {one.accuracy_interval[1]:.1%}",
            f"{one.latency:.4g}  {one.latency_interval[0]:.4g} - {one.latency_interval[1]:.4g}",
            *(f"{mean:.4g}  {low:.4g} - {high:.4g}" for mean, low, high in one.others.values()),
            "" if one.evaluated is None else f"{one.evaluated:.2%}",
            f"{one.macs:,}",
            f"{one.params:,}",
            "" if one.peak_memory_bytes is None else f"{one.peak_memory_bytes:,}",
            ", ".join([*notes, *_measured_note(one)]),
        )
    out = out_console(width=160)
    out.print(table)
    out.print(_accuracy_line(accuracy.left_out), highlight=False)
    if tuned is not None:
        low, high = tuned["accuracy_interval"]
        out.print(
            f"fine-tuned {tuned['arch_id']}: {tuned['accuracy']:.2%} ({low:.1%} - {high:.1%}) on the search split; "
            f"candidate {tuned['candidate']}",
            highlight=False,
        )
    if tuned is not None and tuned["soup"] is not None:
        out.print(_soup_line(tuned["soup"]), highlight=False)
    if tuned is not None:
        err_console().print(f"to verify and export it:\n  {tuned['next']}", highlight=False, markup=False)
    if (unsure := [one for one in found if _is_open(one)]) and tuned is None:
        more = "" if len(unsure) == 1 else f" ({len(unsure) - 1} more: to_be_sure of --format json)"
        err_console().print(
            f"to be sure, measure {unsure[0].architecture.arch_id}{more}:\n"
            f"  {_sure_command(run, unsure[0], device_id=device_id)}",
            highlight=False,
            markup=False,
        )


def _is_open(one: "Specialist") -> bool:
    return one.measured is None and not (one.within_limits and one.in_range)


def _sure_command(run: "Run", one: "Specialist", *, device_id: str) -> str:
    """What evaluates an architecture with the run's weights and measures it on the device beside the run's front."""
    add = shlex.join(["nas", "add", str(run.path), "--arch", one.architecture.to_json()])
    if device_id == run.info.device_id:
        return f"{add} --verify"
    return f"{add} && {shlex.join(['nas', 'verify', str(run.path), '--device', device_id])}"


def _measured_note(one: "Specialist") -> list[str]:
    measured = one.measured
    if measured is None:
        return []
    (low, high), suspect = measured.interval, ", suspect" if measured.suspect else ""
    return [f"{measured.provenance}: {measured.value:.4g} ({low:.4g} - {high:.4g}) {one.unit}{suspect}"]


def _accuracy_line(found: "LeftOutAccuracies") -> str:
    noise = "" if math.isnan(found.noise_points) else f" (the split's noise alone: {found.noise_points:.2f})"
    return (
        f"accuracies are predicted from {found.num} evaluations; each without its own: Kendall {found.kendall:.3f}, "
        f"RMSE {found.rmse_points:.2f} points{noise}"
    )


def _soup_line(soup: dict[str, Any]) -> str:
    values = {name: soup[name]["accuracy"] for name in ("best_copy", "greedy", "uniform")}
    outcome = "kept" if soup["candidate"] is not None else "not kept: it is no better"
    return (
        f"{len(soup['copies'])} copies, the best {values['best_copy']:.2%}; mean of {len(soup['members'])} of them, "
        f"chosen greedily, {values['greedy']:.2%} ({outcome}), of all {values['uniform']:.2%}"
    )


def _fine_tune(where: Path, one: "Specialist", *, copies: int, device_id: str) -> dict[str, Any]:
    """Fine-tune an architecture of a run, see to it that it is verified, and what came of it."""
    from experiments.additions import add_architectures
    from experiments.console import ConsoleReporter
    from experiments.pipeline import fine_tune
    from experiments.session import exclusive, resume_session
    from nas.refine import read_refined
    from nas.soup import copy_dir, read_soup

    with exclusive(where):
        session = resume_session(where)
        with ConsoleReporter(err_console()) as reporter:
            fine_tune(session, [one.architecture], reporter=reporter, copies=copies)
            add_architectures(session, [one.architecture], reporter=reporter)
        run, arch_id = session.run, one.architecture.arch_id
        found = [read_refined(copy_dir(run, arch_id, number)) for number in range(copies)]
        soup = read_soup(run.refine_dir(arch_id)) if copies > 1 else None
    # A copy may have failed, and the others be there.
    refined = [copy for copy in found if copy is not None]
    best = max(refined, key=lambda copy: copy.accuracy.value)
    candidate, accuracy = best.candidate, best.accuracy
    if soup is not None and soup.candidate is not None:
        candidate, accuracy = soup.candidate, soup.greedy
    commands = [["nas", "verify", str(where)], ["nas", "export", str(where), "--arch", arch_id]]
    if device_id not in (session.recipe.device.id, *(further.id for further in session.recipe.devices)):
        commands.insert(1, [*commands[0], "--device", device_id])
    return {
        "arch_id": arch_id,
        "candidate": candidate.candidate_id,
        "split": "search",
        "metric": accuracy.metric,
        "accuracy": accuracy.value,
        "accuracy_interval": list(accuracy.interval),
        "seconds": sum(copy.seconds for copy in refined),
        "soup": None if soup is None else soup.to_json(),
        "next": " && ".join(shlex.join(command) for command in commands),
    }


def _limit(text: str) -> "Limit":
    from nas.objectives import Limit

    match = re.fullmatch(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*<=\s*([0-9.eE+-]+)\s*", text)
    try:
        value = float(match[2]) if match else float("nan")
    except ValueError:
        value = float("nan")
    if match is None or match[1] not in _UNITS or not 0 < value < float("inf"):
        raise typer.BadParameter(f"{text!r} is no limit: expected NAME<=NUMBER with a NAME out of {', '.join(_UNITS)}")
    return Limit(name=match[1], value=value, unit=_UNITS[match[1]])


def _document(one: "Specialist") -> dict[str, object]:
    return {
        "arch_id": one.architecture.arch_id,
        "architecture": json.loads(one.architecture.to_json()),
        "accuracy": one.accuracy,
        "accuracy_interval": list(one.accuracy_interval),
        "latency": one.latency,
        "latency_interval": list(one.latency_interval),
        "unit": one.unit,
        "provenance": "predicted",
        "in_range": one.in_range,
        "within_limits": one.within_limits,
        "accuracy_evaluated": one.evaluated,
        "measured_latency": None if one.measured is None else asdict(one.measured) | {"unit": one.unit},
        "macs": one.macs,
        "params": one.params,
        "peak_memory_bytes": one.peak_memory_bytes,
        "others": {
            name: {"predicted": mean, "interval": [low, high]} for name, (mean, low, high) in one.others.items()
        },
    }
