"""The command `nas pareto`."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape

from experiments.cli_options import DeviceOption, RunArgument, err_console, out_console


class FrontFormat(StrEnum):
    """Formats of `nas pareto`."""

    table = "table"
    json = "json"
    csv = "csv"
    html = "html"


def pareto(
    where: RunArgument,
    device: DeviceOption = None,
    joint: Annotated[bool, typer.Option("--joint", help="Accuracy against the latencies on all devices.")] = False,
    format_: Annotated[FrontFormat, typer.Option("--format", help="Output format.")] = FrontFormat.table,
) -> None:
    """Show the Pareto front: the verified one, or the predicted one before verification.

    Examples:
        nas pareto runs/quickstart

        nas pareto runs/quickstart --format json > front.json

        nas pareto runs/quickstart --format html > front.html

        nas pareto runs/quickstart --device openvino-cpu

        nas pareto runs/quickstart --joint
    """
    from experiments.console import front_csv, front_table, joint_table, promise_table
    from experiments.report import front_document, front_page, joint_document, joint_page, to_json_text
    from nas import open_run

    if joint and device is not None:
        raise typer.BadParameter("--joint is of all devices, --device of one")
    opened = open_run(where)
    document = joint_document(opened) if joint else front_document(opened, device=device)
    if format_ is FrontFormat.json:
        typer.echo(to_json_text(document))
    elif format_ is FrontFormat.csv:
        typer.echo(front_csv(document), nl=False)
    elif format_ is FrontFormat.html:
        typer.echo(joint_page(opened) if joint else front_page(opened, device=device))
    else:
        out_console().print(joint_table(document) if joint else front_table(document))
        if document.get("promises", {}).get("rows"):  # type: ignore[union-attr]  # an object, where it is
            out_console().print(promise_table(document))
        warnings = document["warnings"]
        assert isinstance(warnings, list)
        for warning in warnings:
            err_console().print(f"[yellow]note[/yellow] {escape(str(warning))}", highlight=False)
