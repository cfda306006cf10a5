"""The commands `nas spaces list | show | sample`."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Search spaces: what can be built.", no_args_is_help=True)


class Format(StrEnum):
    """Output formats."""

    table = "table"
    json = "json"


SpaceArgument = Annotated[
    str, typer.Argument(metavar="SPACE|FILE", help="A space's name, or a YAML file with `name` and `settings`.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the space; can be repeated.")
]
ClassesOption = Annotated[int, typer.Option("--classes", min=2, help="Classes that the classifier is counted for.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]


@app.command("list")
def list_(format_: FormatOption = Format.table) -> None:
    """List the search spaces and their sizes. Example: nas spaces list."""
    from searchspaces import get_space, list_spaces

    spaces = {name: get_space(name) for name in list_spaces()}
    if format_ is Format.json:
        rows = [
            {"space": name, "size": space.size, "trainable": space.trainable, "choices": len(space.choices)}
            for name, space in spaces.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = _table("Search spaces", left=("space", "largest input", "supernet"), right=("architectures", "choices"))
    for name, space in spaces.items():
        shape = " x ".join(str(size) for size in space.input_shape(space.largest))
        table.add_row(name, shape, "yes" if space.trainable else "no", _count(space.size), str(len(space.choices)))
    Console(width=120).print(table)


@app.command()
def show(
    where: SpaceArgument,
    set_: SetOption = None,
    classes: ClassesOption = 10,
    format_: FormatOption = Format.table,
) -> None:
    """Show a space's size, genes and settings, and what its smallest and largest subnet cost.

    Examples:
        nas spaces show mbconv-small --set width=0.5

        nas spaces show ofa-mobilenetv3-w1.0 --classes 1000

        nas spaces show my_space.yaml --format json
    """
    from experiments.spaces import default_settings, find_space, space_document
    from searchspaces import list_spaces

    space = find_space(where, settings=set_ or ())
    document = space_document(space, num_classes=classes)
    if format_ is Format.json:
        typer.echo(json.dumps(document, indent=2))
        return
    out = Console(width=120)
    trained = "" if space.trainable else ", no supernet: published tables only"
    out.print(f"[bold]{space.space_id}[/bold]  {space.size:,} architectures{trained}", highlight=False)
    genes = _table("Genes", left=("kind", "allowed values"), right=("number",))
    rows = document["genes"]
    assert isinstance(rows, list)
    for row in rows:
        genes.add_row(str(row["kind"]), ", ".join(str(value) for value in row["values"]), str(row["count"]))
    out.print(genes)
    out.print(_costs(f"Analytic costs of one input, {classes} classes (estimated)", document, ("smallest", "largest")))
    if where in list_spaces():
        settings = _table("Settings (recipe: space.settings)", left=("setting", "default"))
        for key, value in default_settings(where).items():
            settings.add_row(key, json.dumps(value))
        out.print(settings)


@app.command()
def sample(
    where: SpaceArgument,
    num: Annotated[int, typer.Option("-n", "--num", min=1, max=100_000, help="Architectures to draw.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw.")] = 0,
    set_: SetOption = None,
    classes: ClassesOption = 10,
    format_: FormatOption = Format.table,
) -> None:
    """Draw random architectures.

    Examples:
        nas spaces sample mbconv-small -n 3

        nas spaces sample ofa-mobilenetv3-w1.0 -n 1000 --format json > archs.json
    """
    import numpy as np

    from experiments.spaces import find_space, gene_text, subnet_costs

    space = find_space(where, settings=set_ or ())
    archs = space.architectures(space.sample_many(num, np.random.default_rng(seed)))
    rows = {str(number): costs.document() for number, costs in
            enumerate(subnet_costs(space, archs, num_classes=classes), start=1)}  # fmt: skip
    if format_ is Format.json:
        typer.echo(json.dumps(list(rows.values()), indent=2))
    else:
        title = f"{num} architectures of {space.space_id}, seed {seed} (costs estimated, {classes} classes)"
        table = _costs(title, rows, tuple(rows), genes=[gene_text(space, arch) for arch in archs])
        table.show_lines = True
        Console(width=120).print(table)


def _costs(
    title: str, document: Mapping[str, object], keys: tuple[str, ...], *, genes: Sequence[str] | None = None
) -> Table:
    memory = "peak activation memory, fp32" if genes is None else "peak activation\nmemory, fp32"
    table = _table(title, left=("", "arch id", "input"), right=("MACs", "params", memory))
    if genes is not None:
        table.add_column("genes: stages apart by spaces", ratio=1, overflow="fold")
    for position, key in enumerate(keys):
        row = document[key]
        assert isinstance(row, dict)
        table.add_row(
            key,
            str(row["arch_id"]),
            " x ".join(str(size) for size in row["input_shape"]),
            f"{row['macs']:,}",
            f"{row['params']:,}",
            f"{row['peak_activation_bytes'] / 1024:,.0f} KiB",
            *([] if genes is None else [genes[position]]),
        )
    return table


def _table(title: str, *, left: tuple[str, ...], right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"{number:.3e}"
