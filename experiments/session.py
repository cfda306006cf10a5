"""A session: one recipe on one run directory, checked before anything expensive starts, with the stages' tools."""

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pydantic import JsonValue

from experiments.datasets import load_dataset
from experiments.errors import DataError, RecipeError
from experiments.reachable import (
    asked_limits,
    make_pricer,
    require_reachable_again,
    require_reachable_untrained,
)
from experiments.recipe import Recipe, first_difference, load_recipe
from experiments.workload import Workload, recipe_device, train_settings
from hardware.device import Device
from hardware.files import read_json, write_json, write_text
from hardware.fleet import FLEET_FILE, fleet_path, load_fleet
from nas.data import DataSplits
from nas.errors import CheckpointError, RunError, TrainingError
from nas.materialise import Workbench
from nas.objectives import Limit
from nas.pricing import Compute, Pricer, latency_of
from nas.run import LOCK_FILE, Run, create_run, open_run, require_run_place, require_writable
from nas.training.finished import CHECKPOINTS, finished_checkpoints, start_of
from nas.training.phases import Phase, phases_of
from nas.training.starting import check_start, start_sha256
from predictors import PredictorError
from searchspaces import SearchSpace, SpaceError, get_space

_logger = logging.getLogger(__name__)

_DATA_FILE = "data.json"
SERIES_SETTINGS = ("in_channels", "length")  # of a space of series, in the order of the axes (C, T)


@dataclass(frozen=True)
class Session:
    """A checked recipe with its run, data and device.

    Attributes:
        recipe: resolved.
        workload: run, recipe and data.
        device: where latency is measured: the recipe's, or another one, see `on`.
    """

    recipe: Recipe
    workload: Workload
    device: Device

    @property
    def run(self) -> Run:
        """The run directory."""
        return self.workload.run

    @property
    def device_id(self) -> str:
        """Of the session's device."""
        return self.device.spec.device_id

    def on(self, device_id: str | None) -> "Session":
        """The same session on another device; itself for None and its own.

        Raises:
            DeviceError: the device is unknown, its runtime is missing, or its costs are no times.
        """
        if device_id is None or device_id == self.device_id:
            return self
        return replace(self, device=recipe_device(self.recipe, device_id=device_id))

    @cached_property
    def bench(self) -> Workbench:
        """Makes candidates and artifacts; the supernet must be trained."""
        return self.workload.workbench(self.device)

    @cached_property
    def pricer(self) -> Pricer:
        """Prices architectures; the device must be profiled."""
        return make_pricer(self.run, recipe=self.recipe, device=self.device)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What the search keeps to: all limits but those on devices whose latency nothing predicts yet."""
        return tuple(limit for limit in asked_limits(self.recipe) if limit.name in self.pricer.costs)

    @cached_property
    def latencies_elsewhere(self) -> tuple[Compute, ...]:
        """Those on the run's further devices that are profiled; of a predictor of an older version only a warning."""
        found = []
        for one in self.run.devices():
            if one != self.device_id:
                try:
                    found.append(latency_of(self.run.predictor(one)))
                except PredictorError as e:
                    _logger.warning("%s; the search does without the latency on %s (%s)", e, one, e.hint)
        return tuple(found)

    def forget_prices(self) -> None:
        """Price by the predictor that is stored now; called after one was fitted anew."""
        self.__dict__.pop("pricer", None)


def recipe_space(recipe: Recipe) -> SearchSpace:
    """The recipe's search space.

    Raises:
        SpaceError: unknown name, or settings that do not fit.
    """
    return get_space(recipe.space.name, **recipe.space.settings)


def new_run(recipe: Recipe, run_dir: Path, *, num_classes: int) -> Run:
    """Make the run directory of a recipe.

    Raises:
        RunError: the place is not writable, or holds other files.
    """
    return create_run(
        run_dir,
        name=recipe.name,
        recipe_text=recipe.to_yaml(),
        recipe_sha256=recipe.fingerprint(),
        space=recipe.space.name,
        space_settings=recipe.space.settings,
        num_classes=num_classes,
        device_id=recipe.device.id,
    )


def open_session(recipe: Recipe, run_dir: Path) -> Session:
    """Check everything that can be checked now, then open or create the run directory.

    A new run's recipe takes the channels and the length of series from its data, unless it sets them.

    Raises:
        DeviceError: the device is unknown or its runtime is missing.
        SpaceError: the space is unknown, its settings do not fit, or it has no supernet.
        RecipeError: the training's phases or the supernet that it starts from do not fit the space.
        DataError: the data set is missing, damaged, too small, or of another shape.
        InfeasibleError: a limit is below what the space can reach; an existing run keeps the recipe that it has.
        RunError: the directory is unwritable, of another recipe, or of something else; or a place of `search.cache` is
            no run, which counts for a recipe that the run does not have yet.
    """
    device = recipe_device(recipe)
    for further in recipe.devices:
        recipe_device(recipe, device_id=further.id)
    space = recipe_space(recipe)
    _require_supernet(space)
    exists = (run_dir / "run.json").exists()
    asked = recipe
    if exists:
        recipe = recipe_to_continue(recipe, run_dir)
    else:
        require_writable(run_dir)
    data = load_dataset(recipe.data, seed=recipe.seed)
    if not exists:
        recipe = _with_input_of(data, recipe=recipe)
    elif recipe.space != asked.space:
        _require_same(recipe, _with_input_of(data, recipe=asked), run_dir=run_dir)
    space = recipe_space(recipe)
    _require_fitting_shapes(data, space=space)
    if len(data.train) < recipe.train.batch_size:
        raise DataError(
            f"{len(data.train)} training images are left, train.batch_size is {recipe.train.batch_size}",
            hint="lower train.batch_size or the splits",
        )
    if not exists:
        require_trainable(recipe, space=space)
        require_cache(recipe)
        require_reachable_untrained(recipe, space=space, device=device, data=data)
        new_run(recipe, run_dir, num_classes=data.num_classes)
    run = open_run(run_dir)
    if run.recipe_path.read_text(encoding="utf-8") != recipe.to_yaml():
        # Only operational keys (workers, places) and the search can differ here; workers read this file.
        require_cache(recipe)
        if run.predictor_dir(device.spec.device_id).exists():
            require_reachable_again(run, recipe=recipe, device=device, data=data)
        else:
            require_reachable_untrained(recipe, space=space, device=device, data=data)
        write_text(run.recipe_path, recipe.to_yaml())
    _require_same_data(run_dir / _DATA_FILE, data)
    _keep_fleet(run_dir, device=device)
    return Session(recipe=recipe, workload=Workload(run=run, recipe=recipe, data=data), device=device)


def resume_session(run_dir: Path) -> Session:
    """Open the session of an existing run with its own recipe.

    Raises:
        RunError: not a run directory. Others as `open_session`.
    """
    run = open_run(run_dir)
    return open_session(load_recipe(run.recipe_path), run_dir)


def _keep_fleet(run_dir: Path, *, device: Device) -> None:
    """Keep `devices.yaml` with the run, if its device is from there: workers run in directories of their own."""
    fleet = fleet_path()
    if fleet is not None and any(entry.device_id == device.spec.device_id for entry in load_fleet(fleet)):
        write_text(run_dir / FLEET_FILE, fleet.read_text(encoding="utf-8"))


@contextlib.contextmanager
def exclusive(run_dir: Path) -> Iterator[None]:
    """Keep other processes from working on the same run at the same time.

    Raises:
        RunError: another process works on it.
    """
    is_new = not run_dir.exists()
    require_run_place(run_dir)
    lock = run_dir / LOCK_FILE
    try:
        file = lock.open("a")
    except OSError as e:
        raise RunError(f"cannot open {lock}: {e.strerror}", hint="check its owner and mode") from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise RunError(
                f"another process is working on run {run_dir}", hint="wait for it, or use another --run-dir"
            ) from e
        try:
            yield
        finally:
            # Refused before it became a run; a directory that somebody else begins to use meanwhile stays.
            with contextlib.suppress(OSError):
                if is_new and [entry.name for entry in run_dir.iterdir()] == [LOCK_FILE]:
                    lock.unlink()
                    run_dir.rmdir()


def _require_same_data(path: Path, data: DataSplits) -> None:
    """Refuse other data than the run began with: what was trained on before could be in `verify` now."""
    if not path.exists():
        write_json(path, {"name": data.name, "source_sha256": data.source_sha256})
        return
    known = read_json(path)
    if not isinstance(known, dict) or known.get("source_sha256") != data.source_sha256:
        raise DataError(
            f"data set {data.name} has changed since run {path.parent} began: its checksum is "
            f"{data.source_sha256[:16]}..., {path} says otherwise",
            hint="bring the old data back, or use another run directory (--run-dir)",
        )


def source_sha256(run: Run) -> str | None:
    """Checksum of the data that a run began with; None if it has not recorded one."""
    path = run.path / _DATA_FILE
    known = read_json(path) if path.exists() else None
    return str(known["source_sha256"]) if isinstance(known, dict) and "source_sha256" in known else None


def is_trained(run: Run, *, recipe: Recipe) -> bool:
    """Whether the supernet has all its epochs."""
    finished = finished_checkpoints(run.train_dir / CHECKPOINTS)
    return bool(finished) and finished[-1].name == f"epoch-{recipe.train.epochs:04d}"


def require_trainable(recipe: Recipe, *, space: SearchSpace) -> tuple[Phase, ...]:
    """The phases of the training that the recipe asks for; the supernet that it starts from is read and checked.

    Raises:
        SpaceError: the space has no supernet.
        RecipeError: phases that do not fit space or epochs, or a start that is missing, damaged or of another space.
    """
    _require_supernet(space)
    try:
        if recipe.train.from_checkpoint is not None:
            check_start(Path(recipe.train.from_checkpoint), space)
        if recipe.train.epochs == 0:
            return ()
        return phases_of(space, train_settings(recipe))
    except (CheckpointError, TrainingError) as e:
        raise RecipeError(f"section train of the recipe does not fit: {e}", hint=e.hint) from e


def require_cache(recipe: Recipe) -> None:
    """Refuse places of `search.cache` that are no runs before the stages that come before the search.

    Raises:
        RunError: names the first one.
    """
    for place in recipe.search.cache:
        try:
            open_run(place)
        except RunError as e:
            raise RunError(
                f"search.cache: {e}", hint="name directories of runs that share the supernet, or none"
            ) from e


def _require_supernet(space: SearchSpace) -> None:
    if not space.trainable:
        raise SpaceError(
            f"space {space.space_id!r} has no supernet: it serves published tables only",
            hint="train another space: `nas spaces list` says which ones have a supernet",
        )


def _with_input_of(data: DataSplits, *, recipe: Recipe) -> Recipe:
    """`recipe` with the shape of its data, where a space of series leaves it open."""
    if len(data.native_shape) != len(SERIES_SETTINGS):
        return recipe
    return _filled(recipe, dict(zip(SERIES_SETTINGS, data.native_shape, strict=True)))


def _filled(recipe: Recipe, values: Mapping[str, JsonValue]) -> Recipe:
    """`recipe` with those of `values` that say the shape of series, as far as it does not say it itself."""
    space = recipe_space(recipe)
    if len(space.input_shape(space.smallest)) != len(SERIES_SETTINGS):
        return recipe
    shape = {key: values[key] for key in SERIES_SETTINGS if key in values}
    settings = recipe.space.model_copy(update={"settings": {**shape, **recipe.space.settings}})
    return recipe.model_copy(update={"space": settings})


def _require_fitting_shapes(data: DataSplits, *, space: SearchSpace) -> None:
    """Images need a space of images and series one of series, with the same number of channels."""
    expected = space.input_shape(space.smallest)
    found = data.native_shape
    if len(found) == len(expected) and found[0] == expected[0]:
        return
    kinds = {2: "series (C, T)", 3: "images (C, H, W)"}
    raise DataError(
        f"data set {data.name} has {kinds[len(found)]} of shape {found}, space {space.space_id} takes "
        f"{kinds[len(expected)]} of shape {expected}",
        hint=f"set space.settings.in_channels to {found[0]}, or choose another space"
        if len(found) == len(expected)
        else "choose a space of the same kind: `nas spaces list`",
    )


def recipe_to_continue(recipe: Recipe, run_dir: Path) -> Recipe:
    """`recipe` as an existing run goes on with it.

    What the run took from its data, the length of series for example, it keeps. A call need not say again which
    supernet the run started from. Where that supernet has moved, the new place counts until the training is finished:
    afterwards nobody reads it any more, and the run keeps the place it knows.

    Raises:
        RunError: not a run directory, or one of a recipe with other results or of a start with other weights.
        CheckpointError: there is no supernet at a new place.
    """
    run = open_run(run_dir)
    stored = load_recipe(run.recipe_path)
    if stored.space.name == recipe.space.name:
        recipe = _filled(recipe, stored.space.settings)
    # The search may go on in another way: the tables keep what it has found.
    _require_same(stored, recipe.model_copy(update={"search": stored.search}), run_dir=run_dir)
    start, known_start = recipe.train.from_checkpoint, stored.train.from_checkpoint
    if start == known_start:
        return recipe
    if start is not None and not is_trained(run, recipe=recipe):
        _require_same_start(run, Path(start))
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"from_checkpoint": known_start})})


def _require_same(stored: Recipe, recipe: Recipe, *, run_dir: Path) -> None:
    """Refuse a recipe with other results than the stored one, or with a start where that has none."""
    # Not by fingerprints: they also change when a new version adds keys. What counts is whether a value differs.
    difference = first_difference(stored, recipe)
    start, known_start = recipe.train.from_checkpoint, stored.train.from_checkpoint
    if difference is None and start is not None and known_start is None:
        difference = f"train.from_checkpoint: null against {json.dumps(start)}"
    if difference is not None:
        raise RunError(
            f"run directory {run_dir} was made with another recipe ({difference}; the first is the directory's)",
            hint="use another directory (--run-dir), or the recipe that the run was made with",
        )


def _require_same_start(run: Run, start: Path) -> None:
    """Refuse other weights once a checkpoint grew from the first ones."""
    for checkpoint in finished_checkpoints(run.train_dir / CHECKPOINTS)[-1:]:
        if start_of(checkpoint) != start_sha256(start):
            raise RunError(
                f"the training of run {run.path} began with other weights than those in {start}",
                hint="leave --from (train.from_checkpoint) out to go on with the first ones, or use another run "
                "directory (--run-dir)",
            )
