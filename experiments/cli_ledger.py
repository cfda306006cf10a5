"""The command `nas ledger`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from experiments.cli_spaces import Format, FormatOption

if TYPE_CHECKING:
    from nas.ledger import DeviceCost, Ledger


def ledger(
    where: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    watts_per_core: Annotated[
        float | None, typer.Option("--watts-per-core", min=0.0, help="Of a busy core, for estimates.")
    ] = None,
    watts_per_gpu: Annotated[
        float | None, typer.Option("--watts-per-gpu", min=0.0, help="Of a busy GPU, for estimates.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs-alone",
            min=1,
            help="Of training one network by itself; default: those of the supernet, its start's with them.",
        ),
    ] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Say what a run cost, and after how many networks its supernet is cheaper than training each alone.

    Examples:
        nas ledger runs/quickstart

        nas ledger runs/quickstart --watts-per-core 4 --epochs-alone 100 --format json
    """
    from nas.ledger import WATTS_PER_CORE, WATTS_PER_GPU
    from nas.ledger import ledger as add_up
    from nas.run import open_run

    run = open_run(where)
    found = add_up(
        run,
        watts_per_core=WATTS_PER_CORE if watts_per_core is None else watts_per_core,
        watts_per_gpu=WATTS_PER_GPU if watts_per_gpu is None else watts_per_gpu,
        epochs_alone=epochs,
    )
    if format_ is Format.json:
        typer.echo(json.dumps({"run": str(where), **found.to_json()}, indent=2))
        return
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(_stages(found, title=f"Ledger of {run.info.name}"))
    for line in _lines(found):
        out.print(line, highlight=False, markup=False)


def _stages(found: "Ledger", *, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("stage", "calls", "seconds", "core seconds, at most", "GPU seconds", "energy kJ", "provenance"):
        table.add_column(heading, justify="left" if heading in ("stage", "provenance") else "right")
    for stage in found.stages:
        table.add_row(
            stage.stage,
            str(stage.calls),
            f"{stage.seconds:,.1f}",
            f"{stage.core_seconds:,.1f}",
            f"{stage.gpu_seconds:,.1f}",
            f"{stage.joules / 1e3:,.2f}",
            stage.energy_provenance,
        )
    return table


def _purposes(device: "DeviceCost") -> str:
    return ", ".join(f"{purpose} {seconds:.1f} s" for purpose, seconds in device.seconds_by_purpose.items())


def _lines(found: "Ledger") -> list[str]:
    lines = [] if found.stages else ["the run did not record its stages: an older version made it"]
    if any(stage.energy_provenance == "estimated" for stage in found.stages):
        lines.append(f"estimated energy: {found.watts_per_core:g} W a core, {found.watts_per_gpu:g} W a GPU (assumed)")
    lines += [
        f"device {one.device_id}: taken for {sum(one.seconds_by_purpose.values()):.1f} s ({_purposes(one)}), "
        f"{one.timed_seconds:.1f} s of timed runs, {one.measurements} measurements in {one.sessions} sessions"
        for one in found.devices
    ]
    lines.append(f"{found.evaluations} evaluations: {found.evaluation_seconds:.1f} s of workers")
    lines.append(f"{found.fine_tunings} fine-tunings: {found.fine_tuning_seconds:.1f} s of workers")
    places = ", ".join(found.start_runs)
    if found.start_core_seconds is None:
        origin = f"that of {places}" if places else "another one"
        lines.append(f"the supernet started from {origin}, whose training is not in this run; its cost is not known")
    elif places:
        lines.append(
            f"the supernet started from that of {places}: trained there in at most {found.start_core_seconds:,.1f} "
            "core seconds, which are not in the table"
        )
    even = found.break_even
    if even is None:
        return [*lines, f"no break-even: {found.break_even_missing}"]
    alone = f"{even.epochs_alone} epochs alone would take {even.core_seconds_alone:,.1f} core seconds a network"
    if even.networks is None:
        return [*lines, f"no break-even: {alone}, fine-tuning one {even.core_seconds_per_network:,.1f}"]
    start = ", the start's included" if found.start_runs else ""
    lines.append(
        f"break-even at {even.networks:.1f} networks: {even.shared_core_seconds:,.1f} core seconds once{start}, "
        f"{even.core_seconds_per_network:,.1f} a network; {alone} (from measured epochs of fine-tuning)"
    )
    return lines
