"""The command `nas add`."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from experiments.cli_options import err_console
from experiments.cli_spaces import Format, FormatOption

if TYPE_CHECKING:
    from experiments.additions import Addition
    from searchspaces import Architecture


class Takes(StrEnum):
    """Inputs that an ONNX file was made for."""

    raw = "raw"
    normalised = "normalised"


def add(
    where: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)],
    archs: Annotated[
        list[str] | None,
        typer.Option("--arch", metavar="JSON|FILE", help="An architecture of the run's space; can be repeated."),
    ] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", metavar="FILE", help="A network from elsewhere.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the ONNX file's network; default: the file's.")] = None,
    input_: Annotated[
        Takes | None,
        typer.Option("--input", help="What the ONNX file takes; normalised: (x - mean) / std; default: raw."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Measure and evaluate it with the front now, as `nas verify` does.")
    ] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="Ray cluster; default: an embedded instance.")
    ] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Put networks of your own on the front: architectures of the space, or an ONNX file as a baseline.

    An architecture is evaluated with inherited weights; from then on it is a candidate like others, and `nas verify`
    takes it along. A baseline takes float32 inputs as the data set stores them, in the shape that `nas add` names when
    it does not fit, and gives a score for each class; it is shown beside the front, and never exported.

    Examples:
        nas add runs/quickstart --arch mine.json --verify

        nas add runs/quickstart --onnx resnet.onnx --name resnet-18
    """
    if not archs and onnx is None:
        raise typer.BadParameter("name an architecture (--arch) or an ONNX file (--onnx)")
    if onnx is None and (name is not None or input_ is not None):
        raise typer.BadParameter("--name and --input go with --onnx")
    from experiments.additions import add_architectures, add_baseline
    from experiments.console import ConsoleReporter
    from experiments.pipeline import reaching_device, run_stages
    from experiments.recipe import load_recipe
    from experiments.session import exclusive, resume_session
    from nas import open_run

    own = [_architecture(text) for text in archs or []]
    err = err_console()
    recipe = load_recipe(open_run(where).recipe_path)
    with (
        exclusive(where),
        reaching_device(recipe, address=address) as left,
        ConsoleReporter(err) as reporter,
    ):
        session = resume_session(where)
        added = add_architectures(session, own, reporter=reporter) if own else []
        if onnx is not None:
            takes = Takes.raw if input_ is None else input_
            added.append(add_baseline(session, onnx, name=name, takes=takes.value, reporter=reporter))
        # Latencies of one front come from one session, so a baseline is measured with all that is on it.
        if verify or (onnx is not None and len(session.run.verifications())):
            run_stages(session, names=["verify"], reporter=reporter, address=left)
        elif onnx is not None:
            reporter.message(f"nothing is verified yet: the baseline is measured with the front, by nas verify {where}")
        metric = session.recipe.data.metric
    _show(added, where=where, metric=metric, format_=format_)


def _show(added: "list[Addition]", *, where: Path, metric: str, format_: Format) -> None:
    from nas.accuracy import metric_label

    if format_ is Format.json:
        documents = [
            {
                "candidate": one.candidate,
                "name": one.name,
                "kind": "architecture" if one.split == "search" else "baseline",
                "split": one.split,
                "metric": metric,
                "accuracy": one.accuracy,
                "known": one.known,
            }
            for one in added
        ]
        typer.echo(json.dumps({"run": str(where), "added": documents}, indent=2))
        return
    table = Table(title=f"Added to {where}; nas pareto {where} shows the front", title_justify="left")
    for heading in ("name", "candidate", metric_label(metric), "split", ""):
        table.add_column(heading)
    for one in added:
        table.add_row(one.name, one.candidate, f"{one.accuracy:.2%}", one.split, "known before" if one.known else "new")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _architecture(text: str) -> "Architecture":
    """JSON text as it is, or what a file holds."""
    from searchspaces import Architecture

    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise typer.BadParameter(f"--arch {text!r}: no JSON of an architecture, and no file with it ({e})") from e
    return Architecture.from_json(text)
