"""The commands that run stages: `nas run`, and one for each stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli_front import pareto
from experiments.cli_options import (
    AddressOption,
    DeviceOption,
    FromOption,
    QuickOption,
    RecipeArgument,
    RunArgument,
    RunDirOption,
    SetOption,
    WhereArgument,
    default_run_dir,
    err_console,
    out_console,
    overrides,
)

if TYPE_CHECKING:
    from experiments.pipeline import Outcome
    from experiments.session import Session


class Precision(StrEnum):
    """Number formats of `nas export`."""

    fp32 = "fp32"
    int8 = "int8"


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
        out_console().print(plan_table(lines))
        missing = {line.subject for line in lines if not line.ok}
        raise typer.Exit(4 if missing == {"device"} else 2 if missing else 0)
    from experiments.pipeline import reaching_device
    from experiments.reporter import STAGES
    from experiments.session import exclusive, open_session

    with exclusive(directory), reaching_device(resolved, address=address) as address:
        outcome = _run_stages(open_session(resolved, directory), names=STAGES, address=address)
    _show_outcome(directory, outcome)


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

    with _resumed(where, address=address) as (session, _), ConsoleReporter(err_console()) as reporter:
        measure_near_front(session, device=device, budget=near_front, reporter=reporter)


def search(where: RunArgument, address: AddressOption = None) -> None:
    """Stage 3: search with inherited weights. Example: nas search runs/quickstart."""
    _stage(where, "search", address=address)


def refine(where: RunArgument, address: AddressOption = None) -> None:
    """Stage 4: fine-tune candidates around the front. Example: nas refine runs/quickstart."""
    _stage(where, "refine", address=address)


def verify(where: RunArgument, address: AddressOption = None, device: DeviceOption = None) -> None:
    """Stage 5: measure and evaluate the candidates of the front.

    Examples:
        nas verify runs/quickstart

        nas verify runs/quickstart --device openvino-cpu
    """
    _stage(where, "verify", address=address, device=device)
    pareto(where, device=device)


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

    with ConsoleReporter(err_console()) as reporter:
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
