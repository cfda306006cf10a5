"""What a run would do (`--dry-run`), without writing anything."""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets import locate_dataset
from experiments.errors import DataError
from experiments.recipe import Recipe, first_difference, load_recipe
from experiments.session import recipe_space
from hardware.device import list_devices
from nas.run import open_run


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """One line of a plan; `ok` is False where the run would stop."""

    subject: str
    text: str
    ok: bool = True


def make_plan(recipe: Recipe, run_dir: Path) -> list[PlanLine]:
    """Space, data, device, stages, and what would be written.

    Raises:
        SpaceError: the space's settings do not fit.
        RunError: the run directory exists and cannot be read.
    """
    space = recipe_space(recipe)
    profile, search, refine = recipe.profile, recipe.search, recipe.refine
    limit = search.limits.latency_ms
    return [
        PlanLine(subject="space", text=f"{space.space_id}: {space.size:,} architectures"),
        _data_line(recipe),
        _device_line(recipe),
        PlanLine(
            subject="1 train",
            text=f"{recipe.train.epochs} epochs, {recipe.train.workers} worker(s) of "
            f"{recipe.train.threads_per_worker} thread(s)",
        ),
        PlanLine(
            subject="2 profile",
            text=f"{profile.fit + profile.held_out} subnets measured, at most {profile.max_measured} "
            f"if the held-out error exceeds {profile.max_mape_percent:g} %",
        ),
        PlanLine(
            subject="3 search",
            text=f"{min(search.evaluations, space.size)} evaluations, {search.sampler}, {search.workers} worker(s), "
            + ("no limit" if limit is None else f"latency_ms <= {limit:g}"),
        ),
        PlanLine(subject="4 refine", text=f"{refine.candidates} candidates, {refine.epochs} epochs each"),
        PlanLine(subject="5 verify", text=f"at most {recipe.verify.candidates} candidates measured and evaluated"),
        PlanLine(subject="6 export", text=f"{', '.join(recipe.export.formats)}, registered as {recipe.model_name!r}"),
        _directory_line(recipe, run_dir),
        PlanLine(
            subject="tracking", text=recipe.tracking.uri or f"MLflow in {run_dir / 'mlflow'} (SQLite), nas ui {run_dir}"
        ),
    ]


def _data_line(recipe: Recipe) -> PlanLine:
    try:
        return PlanLine(subject="data", text=f"{recipe.data.dataset}: {locate_dataset(recipe.data)}")
    except DataError as e:
        return PlanLine(subject="data", text=f"{recipe.data.dataset}: {e} {e.hint}", ok=False)


def _device_line(recipe: Recipe) -> PlanLine:
    devices = {status.device_id: status for status in list_devices()}
    wanted = recipe.device.id
    if wanted not in devices:
        return PlanLine(subject="device", text=f"{wanted}: unknown, known are {', '.join(devices)}", ok=False)
    status = devices[wanted]
    if not status.available:
        return PlanLine(subject="device", text=f"{wanted}: missing, {status.reason}; {status.hint}", ok=False)
    versions = ", ".join(f"{name} {version}" for name, version in status.versions.items())
    return PlanLine(
        subject="device",
        text=f"{wanted}: found ({versions}), {recipe.device.threads} thread(s), batch {recipe.device.batch}",
    )


def _directory_line(recipe: Recipe, run_dir: Path) -> PlanLine:
    if not (run_dir / "run.json").exists():
        place = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
        writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        text = f"{run_dir} would be made" if writable else f"{run_dir} cannot be made: {place} is not writable"
        return PlanLine(subject="run directory", text=text, ok=writable)
    if first_difference(load_recipe(open_run(run_dir).recipe_path), recipe) is not None:
        return PlanLine(subject="run directory", text=f"{run_dir} belongs to another recipe", ok=False)
    return PlanLine(subject="run directory", text=f"{run_dir} exists: only what is missing would be done")
