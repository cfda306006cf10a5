"""The command `nas`. Nothing heavy is imported before a command needs it."""

import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from experiments.cli_add import add
from experiments.cli_devices import app as devices_app
from experiments.cli_jobs import list_, logs, resume, status, stop, submit
from experiments.cli_ledger import ledger
from experiments.cli_options import (
    FromOption,
    QuickOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    default_run_dir,
    overrides,
)
from experiments.cli_portfolio import portfolio
from experiments.cli_spaces import app as spaces_app
from experiments.cli_specialize import specialize
from searchspaces.errors import Hinted

if TYPE_CHECKING:
    from experiments.pipeline import Outcome
    from experiments.session import Session


class _Commands(TyperGroup):
    """Typer's own answer to Ctrl-C is exit code 1; ours is 130 and how to go on."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # its base class is private
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _err().print("interrupted; run the same command again to go on", highlight=False)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="nas",
    cls=_Commands,
    help="Archsmith: train one supernet, measure real devices, keep the networks worth deploying.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, recipe or path, 3 infeasible limits, "
    "4 device unavailable, 130 interrupted.",
)
app.add_typer(devices_app, name="devices")
app.add_typer(spaces_app, name="spaces")
app.command()(add)
app.command()(specialize)
app.command()(portfolio)
app.command()(ledger)


class Precision(StrEnum):
    """Number formats of `nas export`."""

    fp32 = "fp32"
    int8 = "int8"


class FrontFormat(StrEnum):
    """Formats of `nas pareto`."""

    table = "table"
    json = "json"
    csv = "csv"
    html = "html"


WhereArgument = Annotated[
    Path, typer.Argument(metavar="RUN|RECIPE", help="Run directory, or a recipe to start one.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray cluster; default: an embedded instance.")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="ID", help="Device id; default: the recipe's.")]


def _out() -> Console:
    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140)


def _err() -> Console:
    return Console(stderr=True, soft_wrap=not sys.stderr.isatty())


@app.command()
def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    address: AddressOption = None,
    quick: QuickOption = False,
    from_: FromOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
) -> None:
    """Run all six stages; a second call does only what is missing.

    Examples:
        nas run experiments/recipes/quickstart.yaml

        nas run my.yaml --set search.evaluations=300 --set search.limits.latency_ms=0.2 --run-dir runs/fast

        nas run experiments/recipes/finetune.yaml --from supernets/ofa-mobilenetv3-w1.0 --dry-run
    """
    from experiments.recipe import load_recipe

    resolved = load_recipe(recipe, overrides=overrides(set_, from_=from_), quick=quick)
    directory = run_dir or default_run_dir(resolved.name, quick=quick)
    if dry_run:
        from experiments.console import plan_table
        from experiments.plan import make_plan

        lines = make_plan(resolved, directory)
        _out().print(plan_table(lines))
        missing = {line.subject for line in lines if not line.ok}
        raise typer.Exit(4 if missing == {"device"} else 2 if missing else 0)
    from experiments.pipeline import reaching_device
    from experiments.reporter import STAGES
    from experiments.session import exclusive, open_session

    with exclusive(directory), reaching_device(resolved, address=address) as address:
        outcome = _run_stages(open_session(resolved, directory), names=STAGES, address=address)
    _show_outcome(directory, outcome)


@app.command()
def train(
    where: WhereArgument,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    address: AddressOption = None,
    quick: QuickOption = False,
    from_: FromOption = None,
) -> None:
    """Stage 1: train the supernet, from nothing or from another supernet with other classes.

    Examples:
        nas train experiments/recipes/quickstart.yaml

        nas train experiments/recipes/finetune.yaml --from supernets/ofa-mobilenetv3-w1.0
    """
    if where.suffix in (".yaml", ".yml"):
        from experiments.pipeline import reaching_device
        from experiments.recipe import load_recipe
        from experiments.session import exclusive, open_session

        resolved = load_recipe(where, overrides=overrides(set_, from_=from_), quick=quick)
        directory = run_dir or default_run_dir(resolved.name, quick=quick)
        with exclusive(directory), reaching_device(resolved, address=address) as address:
            _run_stages(open_session(resolved, directory), names=["train"], address=address)
    elif set_ or run_dir or quick or from_:
        raise typer.BadParameter("--set, --run-dir, --quick and --from go with a recipe, not with a run directory")
    else:
        _stage(where, "train", address=address)


@app.command()
def profile(
    where: RunArgument,
    address: AddressOption = None,
    device: DeviceOption = None,
    near_front: Annotated[
        int | None,
        typer.Option(
            "--near-front",
            metavar="N",
            min=1,
            help="After a search: measure up to N of its subnets whose place on the front is open; ends when the "
            "front's ranking stays.",
        ),
    ] = None,
) -> None:
    """Stage 2: measure subnets, fit the latency predictor; also of a further device of a finished run.

    Examples:
        nas profile runs/quickstart

        nas profile runs/quickstart --device openvino-cpu

        nas profile runs/quickstart --near-front 30
    """
    if near_front is None:
        _stage(where, "profile", address=address, device=device)
        return
    from experiments.console import ConsoleReporter
    from experiments.pipeline import measure_near_front

    with _resumed(where, address=address) as (session, _), ConsoleReporter(_err()) as reporter:
        measure_near_front(session, device=device, budget=near_front, reporter=reporter)


@app.command()
def search(where: RunArgument, address: AddressOption = None) -> None:
    """Stage 3: search with inherited weights. Example: nas search runs/quickstart."""
    _stage(where, "search", address=address)


@app.command()
def refine(where: RunArgument, address: AddressOption = None) -> None:
    """Stage 4: fine-tune candidates around the front. Example: nas refine runs/quickstart."""
    _stage(where, "refine", address=address)


@app.command()
def verify(where: RunArgument, address: AddressOption = None, device: DeviceOption = None) -> None:
    """Stage 5: measure and evaluate the candidates of the front.

    Examples:
        nas verify runs/quickstart

        nas verify runs/quickstart --device openvino-cpu
    """
    _stage(where, "verify", address=address, device=device)
    pareto(where, device=device)


@app.command()
def export(
    where: RunArgument,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="ID", help="A verified architecture; default: the front's knee.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="onnx, openvino, litert, executorch or cmsis, beside the file for the run's own device; can be "
            "repeated; default: export.formats of the recipe.",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="Of the files of --format; default: fp32.")
    ] = None,
    address: AddressOption = None,
) -> None:
    """Stage 6: write a verified candidate with its card; a second call writes what is missing.

    Every file is opened again in its runtime, compared with PyTorch, evaluated and measured there.

    Examples:
        nas export runs/quickstart --arch 0123456789ab

        nas export runs/quickstart --format openvino --format litert

        nas export runs/quickstart --format onnx --precision int8
    """
    if precision is not None and not formats:
        raise typer.BadParameter("--precision goes with --format")
    wanted = [f"{name}-{precision}" if precision else name for name in formats] if formats else None
    _show_export(_stage(where, "export", address=address, arch_id=arch, formats=wanted))


@app.command()
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
        _out().print(joint_table(document) if joint else front_table(document))
        if document.get("promises", {}).get("rows"):  # type: ignore[union-attr]  # an object, where it is
            _out().print(promise_table(document))
        warnings = document["warnings"]
        assert isinstance(warnings, list)
        for warning in warnings:
            _err().print(f"[yellow]note[/yellow] {escape(str(warning))}", highlight=False)


@app.command()
def sync(where: RunArgument) -> None:
    """Rebuild the run's view in MLflow from the run directory. Example: nas sync runs/quickstart."""
    from experiments.pipeline import make_tracker
    from experiments.report import run_view, write_report
    from experiments.session import resume_session

    session = resume_session(where)
    make_tracker(session).sync(run_view(session.run, artifacts=write_report(session.run)))
    _err().print(f"MLflow shows {where} again: nas ui {where}", highlight=False)


@app.command()
def ui(
    where: RunArgument,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the run's MLflow page on this machine (loopback only; Ctrl-C ends it). Example: nas ui runs/quickstart."""
    from experiments.tracking.ui import serve_ui

    # Ended by a service manager, it must take the server along as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        serve_ui(where, port=port, say=lambda text: _err().print(text, highlight=False))


@app.command()
def doctor() -> None:
    """Say what of this machine works, and what to do about the rest."""
    from experiments.console import doctor_table
    from experiments.doctor import examine

    _out().print(doctor_table(examine()))


@app.command("import-ofa")
def import_ofa_(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A published once-for-all supernet file.", show_default=False)
    ],
    space: Annotated[str, typer.Option("--space", help="Its search space, see `nas spaces list`.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="New directory for the supernet (default: supernets/<space>).")
    ] = None,
) -> None:
    """Import a published once-for-all supernet; nothing in the file is executed.

    Examples:
        nas import-ofa ofa_mbv3_d234_e346_k357_w1.0 --space ofa-mobilenetv3-w1.0

        nas train my.yaml --from supernets/ofa-mobilenetv3-w1.0
    """
    from experiments.import_ofa import import_ofa

    imported = import_ofa(checkpoint, space=space, out=out or Path("supernets") / space)
    typer.echo(f"{imported.num_tensors} tensors, {imported.num_elements:,} values, {imported.num_classes} classes")
    typer.echo("no keys are missing; " + (
        f"{len(imported.ignored_keys)} not needed: {', '.join(imported.ignored_keys[:3])}"
        + (", ..." if len(imported.ignored_keys) > 3 else "")
        if imported.ignored_keys
        else "none is left over"
    ))  # fmt: skip
    typer.echo(f"supernet  {imported.directory}")
    typer.echo(f"use it    nas run RECIPE --from {imported.directory}")


for command in (submit, status, logs, stop, resume):
    app.command()(command)
app.command("list")(list_)


def _stage(
    where: Path,
    name: str,
    *,
    address: str | None = None,
    arch_id: str | None = None,
    formats: list[str] | None = None,
    device: str | None = None,
) -> "Outcome":
    with _resumed(where, address=address) as (session, left):
        return _run_stages(session, names=[name], address=left, arch_id=arch_id, formats=formats, device=device)


@contextmanager
def _resumed(where: Path, *, address: str | None) -> Iterator[tuple["Session", str | None]]:
    """A run's session, and the address that is left to connect to."""
    from experiments.pipeline import reaching_device
    from experiments.recipe import load_recipe
    from experiments.session import exclusive, resume_session
    from nas import open_run

    recipe = load_recipe(open_run(where).recipe_path)
    with exclusive(where), reaching_device(recipe, address=address) as left:
        yield resume_session(where), left


def _run_stages(
    session: "Session",
    *,
    names: "list[str] | tuple[str, ...]",
    address: str | None,
    arch_id: str | None = None,
    formats: list[str] | None = None,
    device: str | None = None,
) -> "Outcome":
    from experiments.console import ConsoleReporter
    from experiments.pipeline import run_stages

    with ConsoleReporter(_err()) as reporter:
        return run_stages(
            session,
            names=names,
            reporter=reporter,
            address=address,
            arch_id=arch_id,
            formats=formats,
            device=device,
        )


def _show_outcome(directory: Path, outcome: "Outcome") -> None:
    pareto(directory)
    typer.echo(f"\nrun directory   {directory}")
    _show_export(outcome)
    typer.echo(f"MLflow page     nas ui {directory}")


def _show_export(outcome: "Outcome") -> None:
    if outcome.exported is not None:
        typer.echo(f"exported model  {outcome.exported.model_path}")
        for key, path in outcome.exported.format_paths.items():
            typer.echo(f"{key:<15} {path}")
    if outcome.registered is not None:
        typer.echo(f"registered      {outcome.registered}")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors that carry a hint into a message and the documented exit code."""
    try:
        yield
    except Hinted as e:
        _err().print(f"[red]error[/red] {escape(str(e))}", highlight=False)
        _err().print(f"[bold]try[/bold]   {escape(e.hint)}", highlight=False)
        sys.exit(_exit_code(e))
    except BrokenPipeError:
        # The reader of a pipe went away (`nas pareto ... | head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as e:  # noqa: BLE001 - the last resort: nobody should have to read a traceback
        with tempfile.NamedTemporaryFile("w", prefix="nas-error-", suffix=".txt", delete=False) as file:
            traceback.print_exception(e, file=file)
        _err().print(f"[red]error[/red] {escape(f'{type(e).__name__}: {e}')}", highlight=False)
        _err().print(f"[bold]try[/bold]   run it again; if it stays, report it with {file.name}", highlight=False)
        sys.exit(1)


def _exit_code(error: Hinted) -> int:
    from experiments.errors import DataError, JobError, RecipeError
    from hardware.errors import DeviceError, DeviceUsageError
    from nas.errors import InfeasibleError, RunError
    from searchspaces.errors import SpaceError

    if isinstance(error, RecipeError | DataError | JobError | RunError | SpaceError | DeviceUsageError):
        return 2
    if isinstance(error, InfeasibleError):
        return 3
    return 4 if isinstance(error, DeviceError) else 1


def _quiet_libraries() -> None:
    """Keep other people's chatter off the terminal; ours stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("alembic", "mlflow", "optuna", "ray", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> None:
    """Entry point of the command `nas`."""
    _quiet_libraries()
    with _explained():
        app()


if __name__ == "__main__":
    main()
