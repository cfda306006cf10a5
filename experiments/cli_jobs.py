"""The commands `nas submit | status | logs | stop | resume | list`: runs as jobs of a Ray cluster."""

import json
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.cli_options import (
    FromOption,
    QuickOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    default_run_dir,
    overrides,
)
from experiments.cli_spaces import Format, FormatOption

if TYPE_CHECKING:
    from experiments.ray.jobs import Job, Jobs, Order

# As `ray.job_submission` knows it; `experiments.ray` is not imported before a command runs.
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_INTERRUPTED = 130

AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar=_ADDRESS_VARIABLE,
        metavar="URL",
        help="Dashboard of the cluster's head, http://HOST:8265.",
        show_default=False,
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="The cluster's token; default: RAY_AUTH_TOKEN(_PATH), then ~/.ray/auth_token."),
]
FollowOption = Annotated[bool, typer.Option("--follow", help="Show what the job prints until it ends.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, see `nas list`.", show_default=False)]
JobOrRunArgument = Annotated[
    str, typer.Argument(metavar="JOB|RUN", help="A job's id, or a run directory.", show_default=False)
]


def submit(
    recipe: RecipeArgument,
    address: AddressOption,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    quick: QuickOption = False,
    from_: FromOption = None,
    follow: FollowOption = False,
    token_file: TokenOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Run a recipe on a Ray cluster: code and recipe are sent there, results are in the run directory.

    The run directory must be on storage that all nodes share. Devices of ./devices.yaml ($ARCHSMITH_DEVICES) go along.

    Examples:
        nas submit experiments/recipes/quickstart.yaml --address http://head:8265 --run-dir /shared/runs/quickstart

        nas submit my.yaml --set search.evaluations=300 --quick --follow --token-file ~/.ray/auth_token
    """
    from experiments.recipe import load_recipe
    from hardware.fleet import fleet_path, load_fleet

    resolved = load_recipe(recipe, overrides=overrides(set_, from_=from_), quick=quick)
    directory = run_dir or default_run_dir(resolved.name, quick=quick)
    devices = fleet_path()
    load_fleet(devices)
    # A place that this machine does not see, a full path on the cluster, is for the cluster to judge.
    make_here = not directory.is_absolute() or directory.parent.is_dir()
    if (directory / "run.json").exists():
        from experiments.session import recipe_to_continue

        resolved = recipe_to_continue(resolved, directory)

    from experiments.ray.jobs import Order

    order = Order(
        name=resolved.name,
        run_dir=str(directory.absolute()),
        fingerprint=resolved.fingerprint(),
        recipe_yaml=resolved.to_yaml(),
        devices_yaml="" if devices is None else devices.read_text(encoding="utf-8"),
    )
    _send(order, address, token_file, make_here=make_here, follow=follow, format_=format_)


def resume(
    what: JobOrRunArgument,
    address: AddressOption,
    follow: FollowOption = False,
    token_file: TokenOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Send a job's run again, with the code of this machine: its stages do only what is missing.

    Examples:
        nas resume quickstart-1

        nas resume /shared/runs/quickstart --follow
    """
    from experiments.errors import JobError

    jobs = _jobs(address, token_file)
    try:
        order = jobs.find(what).order
    except JobError:
        if not (Path(what) / "run.json").exists():
            raise
        order = _order_of_run(Path(what))
    _send(order, address, token_file, make_here=Path(order.run_dir).is_dir(), follow=follow, format_=format_)


def status(
    what: JobOrRunArgument,
    address: AddressOption,
    token_file: TokenOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Say how far a job is. Example: nas status quickstart-1 --address http://head:8265."""
    jobs = _jobs(address, token_file)
    job = jobs.find(what)
    document = _document(job, jobs)
    if format_ is Format.json:
        typer.echo(json.dumps(document, indent=2))
        return
    for key, value in document.items():
        if value is not None:
            typer.echo(f"{key:<12} {value}")


def logs(
    job_id: JobArgument,
    address: AddressOption,
    follow: FollowOption = False,
    token_file: TokenOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Show what a job has printed. Example: nas logs quickstart-1 --follow."""
    if follow and format_ is Format.json:
        raise typer.BadParameter("--follow has no JSON form")
    jobs = _jobs(address, token_file)
    job = jobs.find(job_id)
    if follow:
        _follow(jobs, job)
    elif format_ is Format.json:
        typer.echo(json.dumps({"job": job.job_id, "state": job.state, "log": jobs.logs(job)}, indent=2))
    else:
        typer.echo(jobs.logs(job), nl=False)


def stop(
    job_id: JobArgument,
    address: AddressOption,
    token_file: TokenOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """End a job as Ctrl-C would; what it has finished stays. Example: nas stop quickstart-1."""
    jobs = _jobs(address, token_file)
    job = jobs.stop(jobs.find(job_id))
    if format_ is Format.json:
        typer.echo(json.dumps(_document(job, jobs), indent=2))
        return
    typer.echo(f"{job.job_id} {job.state}")
    typer.echo(f"go on       {_command('resume', job.job_id, address, token_file)}")


def list_(
    address: AddressOption,
    token_file: TokenOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """List the cluster's jobs, newest first. Example: nas list --address http://head:8265."""
    jobs = _jobs(address, token_file)
    rows = [_document(job, jobs) for job in jobs.all()]
    if format_ is Format.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from experiments.console import duration

    table = Table(title=f"Jobs of {address}", title_justify="left", title_style="bold")
    for heading in ("job", "state", "run", "started (UTC)", "took", "stage", "progress"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        took = row["duration_s"]
        assert isinstance(took, float)
        cells = (
            row["job"],
            row["state"],
            row["run"],
            row["started_utc"],
            duration(took),
            row["stage"],
            row["progress"],
        )
        table.add_row(*(escape(str(cell or "")) for cell in cells))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _jobs(address: str, token_file: Path | None) -> "Jobs":
    from experiments.ray.job_client import open_client
    from experiments.ray.jobs import Jobs

    return Jobs(open_client(address, token_file=token_file), address=address)


def _send(
    order: "Order", address: str, token_file: Path | None, *, make_here: bool, follow: bool, format_: Format
) -> None:
    if follow and format_ is Format.json:
        raise typer.BadParameter("--follow has no JSON form")
    jobs = _jobs(address, token_file)
    num_nodes = jobs.require_ready(order.run_dir, make_here=make_here)
    job_id = jobs.submit(order)
    if format_ is Format.json:
        typer.echo(json.dumps({"job": job_id, "run": order.run_dir, "fingerprint": order.fingerprint}, indent=2))
        return
    typer.echo(f"job         {job_id}")
    typer.echo(f"run         {order.run_dir}, seen by {num_nodes} nodes")
    if follow:
        job = _follow(jobs, jobs.find(job_id))
        typer.echo(f"{job.job_id} {job.state}", err=True)
        raise typer.Exit(_exit_code(job))
    typer.echo(f"how far     {_command('status', job_id, address, token_file)}")
    typer.echo(f"follow      {_command('logs', job_id, address, token_file)} --follow")
    typer.echo(f"end         {_command('stop', job_id, address, token_file)}")


def _follow(jobs: "Jobs", job: "Job") -> "Job":
    try:
        return jobs.follow(job, write=lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"\nthe job goes on; end it: nas stop {job.job_id}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _exit_code(job: "Job") -> int:
    """The run's own code, as if it had run here."""
    if job.state == "stopped":
        return _INTERRUPTED
    if job.state == "succeeded":
        return 0
    return job.exit_code if job.exit_code in (1, 2, 3, 4, _INTERRUPTED) else 1


def _order_of_run(run_dir: Path) -> "Order":
    """Of a run that no job of the cluster knows: its own recipe, the devices of this directory."""
    from experiments.ray.jobs import Order
    from experiments.recipe import load_recipe
    from hardware.fleet import fleet_path, load_fleet
    from nas.run import open_run

    recipe = load_recipe(open_run(run_dir).recipe_path)
    devices = fleet_path()
    load_fleet(devices)
    return Order(
        name=recipe.name,
        run_dir=str(run_dir.absolute()),
        fingerprint=recipe.fingerprint(),
        recipe_yaml=recipe.to_yaml(),
        devices_yaml="" if devices is None else devices.read_text(encoding="utf-8"),
    )


def _command(name: str, job_id: str, address: str, token_file: Path | None) -> str:
    """What to type next; what the environment says need not be typed."""
    given = [] if os.environ.get(_ADDRESS_VARIABLE) == address else ["--address", address]
    given += [] if token_file is None else ["--token-file", str(token_file)]
    return shlex.join(["nas", name, job_id, *given])


def _document(job: "Job", jobs: "Jobs") -> dict[str, object]:
    from experiments.ray.jobs import stage_and_progress
    from experiments.reporter import STAGES

    stage, progress = stage_and_progress(jobs.logs(job), stages=STAGES)
    return {
        "job": job.job_id,
        "state": job.state,
        "name": job.order.name,
        "run": job.order.run_dir,
        "fingerprint": job.order.fingerprint,
        "stage": stage,
        "progress": progress,
        "started_utc": job.started.isoformat(timespec="seconds"),
        "duration_s": round(job.seconds(now=datetime.now(UTC)), 1),
        "exit_code": job.exit_code,
        "message": job.message,
    }
