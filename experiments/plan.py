"""What a run would do (`--dry-run`), without writing anything."""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets import locate_dataset
from experiments.errors import DataError, RecipeError
from experiments.ray.device_host import ray_connectors
from experiments.reachable import asked_limits
from experiments.recipe import DeviceSettings, Recipe, SearchSettings
from experiments.session import (
    SERIES_SETTINGS,
    is_trained,
    recipe_space,
    recipe_to_continue,
    require_cache,
    require_trainable,
)
from experiments.workload import recipe_device
from hardware.device import list_devices
from hardware.errors import DeviceError
from nas.errors import CheckpointError, RunError, TrainingError
from nas.formats import further_formats
from nas.run import open_run
from nas.training.augmentation import check_augmentation
from searchspaces import SearchSpace, SpaceError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """One line of a plan; `ok` is False where the run would stop."""

    subject: str
    text: str
    ok: bool = True


def make_plan(recipe: Recipe, run_dir: Path) -> list[PlanLine]:
    """Space, data, device, stages, and what would be written; whatever can be refused without reading data is.

    Raises:
        SpaceError: the space's settings do not fit.
    """
    space = recipe_space(recipe)
    recipe, directory = _continued(recipe, run_dir)
    is_done = directory.ok and (run_dir / "run.json").exists() and is_trained(open_run(run_dir), recipe=recipe)
    profile, search, refine = recipe.profile, recipe.search, recipe.refine
    return [
        PlanLine(subject="space", text=f"{space.space_id}: {space.size:,} architectures{_open_input(recipe, space)}"),
        _data_line(recipe, space=space),
        *(_device_line(settings) for settings in (recipe.device, *recipe.devices)),
        _train_line(recipe, space=space, is_done=is_done),
        PlanLine(
            subject="2 profile",
            text=f"{profile.fit + profile.held_out} subnets measured, at most {profile.max_measured} "
            f"if the held-out error exceeds {profile.max_mape_percent:g} %",
        ),
        _search_line(recipe, space=space),
        PlanLine(
            subject="4 refine",
            text="nothing: the search fine-tunes its candidates"
            if search.candidates == "train"
            else f"{refine.candidates} candidates, {refine.epochs} epochs each",
        ),
        PlanLine(
            subject="5 verify",
            text=f"at most {recipe.verify.candidates} candidates "
            + ("evaluated, latencies predicted" if search.measure == "none" else "measured and evaluated"),
        ),
        _export_line(recipe),
        directory,
        PlanLine(
            subject="tracking", text=recipe.tracking.uri or f"MLflow in {run_dir / 'mlflow'} (SQLite), nas ui {run_dir}"
        ),
    ]


def _search_line(recipe: Recipe, *, space: SearchSpace) -> PlanLine:
    search = recipe.search
    try:
        require_cache(recipe)
    except RunError as e:
        return PlanLine(subject="3 search", text=f"{e}; {e.hint}", ok=False)
    return PlanLine(
        subject="3 search",
        text=f"{min(search.evaluations, space.size)} evaluations{_hours(search.hours)}, {search.sampler}, "
        f"{search.workers} worker(s), "
        + (f"each fine-tuned for {search.epochs} epochs, " if search.candidates == "train" else "")
        + (", ".join(str(limit) for limit in asked_limits(recipe)) or "no limit")
        + _measured_text(search),
    )


def _measured_text(search: SearchSettings) -> str:
    """What the device measures while the search runs."""
    if search.measure != "active":
        return ""
    budget = "as long as profiling took" if search.device_seconds is None else f"{search.device_seconds:g} s"
    return f"; undecided ones measured meanwhile, at most {budget}"


def _hours(hours: float | None) -> str:
    return "" if hours is None else f" or {hours:g} hours"


def _open_input(recipe: Recipe, space: SearchSpace) -> str:
    """What a space of series will take from the data, which are not read here."""
    is_series = len(space.input_shape(space.smallest)) == len(SERIES_SETTINGS)
    missing = [key for key in SERIES_SETTINGS if is_series and key not in recipe.space.settings]
    return f"; {' and '.join(missing)} as the data have them" if missing else ""


def _data_line(recipe: Recipe, *, space: SearchSpace) -> PlanLine:
    augmentation = recipe.data.augmentation
    try:
        if augmentation is not None:
            check_augmentation(augmentation, shape=space.input_shape(space.largest))
        place = locate_dataset(recipe.data)
        return PlanLine(
            subject="data", text=f"{recipe.data.dataset}: {place}; the content is checked when the run starts"
        )
    except (DataError, TrainingError) as e:
        return PlanLine(subject="data", text=f"{recipe.data.dataset}: {e}; {e.hint}", ok=False)


def _train_line(recipe: Recipe, *, space: SearchSpace, is_done: bool) -> PlanLine:
    train = recipe.train
    text = f"{train.method}, {train.epochs} epochs, {train.workers} worker(s) of {train.threads_per_worker} thread(s)"
    if is_done:
        return PlanLine(subject="1 train", text=f"{text}; finished before")
    try:
        phases = require_trainable(recipe, space=space)
    except (RecipeError, SpaceError) as e:
        return PlanLine(subject="1 train", text=f"{e}; {e.hint}", ok=False)
    if len(phases) > 1:
        text += f"; {len(phases)} phases: {', '.join(f'{phase.name} ({phase.epochs})' for phase in phases)}"
    if train.from_checkpoint is not None:
        text += f"; from {train.from_checkpoint}"
    return PlanLine(subject="1 train", text=text)


def _device_line(settings: DeviceSettings) -> PlanLine:
    devices = {status.device_id: status for status in list_devices(connectors=ray_connectors())}
    wanted = settings.id
    if wanted not in devices:
        return PlanLine(subject="device", text=f"{wanted}: unknown, known are {', '.join(devices)}", ok=False)
    status = devices[wanted]
    if not status.available:
        return PlanLine(subject="device", text=f"{wanted}: missing, {status.reason}; {status.hint}", ok=False)
    versions = ", ".join(f"{name} {version}" for name, version in status.versions.items())
    return PlanLine(
        subject="device",
        text=f"{wanted}: found ({versions}), {settings.threads} thread(s), batch {settings.batch}",
    )


def _export_line(recipe: Recipe) -> PlanLine:
    """What is written, and on which device each file beside that of the run's own device is judged."""
    registered, formats = f"registered as {recipe.model_name!r}", recipe.export.formats
    try:
        own = recipe_device(recipe)
    except DeviceError:
        # Its own line says why.
        return PlanLine(subject="6 export", text=f"{', '.join(formats)}; {registered}")
    try:
        devices = [(one.key, one.device(like=own).spec.device_id) for one in further_formats(formats, device=own)]
    except DeviceError as e:
        return PlanLine(subject="6 export", text=f"{e}; {e.hint}", ok=False)
    further = "".join(f", {key} for {device_id}" for key, device_id in devices)
    return PlanLine(subject="6 export", text=f"the file for {recipe.device.id}{further}; {registered}")


def _continued(recipe: Recipe, run_dir: Path) -> tuple[Recipe, PlanLine]:
    """The recipe as a run in this directory would have it, and what becomes of the directory."""
    if not (run_dir / "run.json").exists():
        place = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
        writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        text = f"{run_dir} would be made" if writable else f"{run_dir} cannot be made: {place} is not writable"
        return recipe, PlanLine(subject="run directory", text=text, ok=writable)
    try:
        recipe = recipe_to_continue(recipe, run_dir)
    except (RunError, CheckpointError) as e:
        return recipe, PlanLine(subject="run directory", text=f"{e}; {e.hint}", ok=False)
    return recipe, PlanLine(subject="run directory", text=f"{run_dir} exists: only what is missing would be done")
