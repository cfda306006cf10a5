"""The command `nas`. Nothing heavy is imported before a command needs it."""

import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from typer.core import TyperGroup

from experiments.cli_add import add
from experiments.cli_devices import app as devices_app
from experiments.cli_front import pareto
from experiments.cli_jobs import list_, logs, resume, status, stop, submit
from experiments.cli_ledger import ledger
from experiments.cli_options import RunArgument, err_console, out_console
from experiments.cli_portfolio import portfolio
from experiments.cli_spaces import app as spaces_app
from experiments.cli_specialize import specialize
from experiments.cli_stages import export, profile, refine, run, search, train, verify
from searchspaces.errors import Hinted


class _Commands(TyperGroup):
    """Typer's own answer to Ctrl-C is exit code 1; ours is 130 and how to go on."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # its base class is private
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err_console().print("interrupted; run the same command again to go on", highlight=False)
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
_STAGES: tuple[Callable[..., None], ...] = (run, train, profile, search, refine, verify, export)
_FRONTS: tuple[Callable[..., None], ...] = (pareto, specialize, portfolio, add, ledger)
_JOBS: tuple[Callable[..., None], ...] = (submit, status, logs, stop, resume)
for _command in (*_STAGES, *_FRONTS):
    app.command()(_command)


@app.command()
def sync(where: RunArgument) -> None:
    """Rebuild the run's view in MLflow from the run directory. Example: nas sync runs/quickstart."""
    from experiments.pipeline import make_tracker
    from experiments.report import run_view, write_report
    from experiments.session import resume_session

    session = resume_session(where)
    make_tracker(session).sync(run_view(session.run, artifacts=write_report(session.run)))
    err_console().print(f"MLflow shows {where} again: nas ui {where}", highlight=False)


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
        serve_ui(where, port=port, say=lambda text: err_console().print(text, highlight=False))


@app.command()
def doctor() -> None:
    """Say what of this machine works, and what to do about the rest."""
    from experiments.console import doctor_table
    from experiments.doctor import examine

    out_console().print(doctor_table(examine()))


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


for _command in _JOBS:
    app.command()(_command)
app.command("list")(list_)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors that carry a hint into a message and the documented exit code."""
    try:
        yield
    except Hinted as e:
        err_console().print(f"[red]error[/red] {escape(str(e))}", highlight=False)
        err_console().print(f"[bold]try[/bold]   {escape(e.hint)}", highlight=False)
        sys.exit(_exit_code(e))
    except BrokenPipeError:
        # The reader of a pipe went away (`nas pareto ... | head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as e:  # noqa: BLE001 - the last resort: nobody should have to read a traceback
        with tempfile.NamedTemporaryFile("w", prefix="nas-error-", suffix=".txt", delete=False) as file:
            traceback.print_exception(e, file=file)
        err_console().print(f"[red]error[/red] {escape(f'{type(e).__name__}: {e}')}", highlight=False)
        err_console().print(
            f"[bold]try[/bold]   run it again; if it stays, report it with {file.name}", highlight=False
        )
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
