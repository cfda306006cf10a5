"""Going on with a run: what may differ between two calls, and what is left behind by a refused one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.errors import DataError, RecipeError
from experiments.recipe import FurtherDeviceSettings, Recipe, SearchLimits, SearchSettings, load_recipe
from experiments.session import (
    exclusive,
    is_trained,
    new_run,
    open_session,
    recipe_to_continue,
    require_trainable,
    resume_session,
)
from experiments.workload import load_workload, recipe_device
from hardware.errors import DeviceError
from hardware.files import read_json, write_json, write_manifest
from nas.errors import CheckpointError, RunError
from nas.run import Run, open_run
from nas.supernet_files import save_supernet
from nas.training.checkpoints import Checkpoint, save_checkpoint
from nas.training.starting import start_sha256
from searchspaces import SpaceError, get_space
from tests.experiments.small_session import give_weights, open_untrained

SPACE: dict[str, Any] = {"resolutions": [8, 12], "width": 0.25, "stem_stride": 1}
RECIPE = f"""
name: small
data: {{dataset: digits, search: 300, verify: 400, report: 300}}
space: {{name: mbconv-small, settings: {SPACE}}}
train: {{epochs: 3}}
"""


def recipe(folder: Path, start: Path | None = None, **train: object) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    changes = [] if start is None else [f"train.from_checkpoint={start}"]
    return load_recipe(path, overrides=[*changes, *(f"train.{key}={value}" for key, value in train.items())])


def supernet_at(path: Path, *, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = get_space("mbconv-small", **SPACE).build_supernet(num_classes=4)
    save_supernet(path, supernet, space="mbconv-small", space_settings=SPACE, provenance={})
    return path


def run_of(path: Path, made_with: Recipe, *, epochs: int, start: str | None = None) -> Run:
    """A run with a checkpoint after so many epochs."""
    run = new_run(made_with, path, num_classes=10)
    if epochs:
        details = {"settings": {"start_sha256": start}}
        checkpoint = Checkpoint(epoch=epochs, step=epochs, weights={}, optimizer={}, details=details)
        save_checkpoint(run.train_dir / "checkpoints", checkpoint)
    return run


def test_a_predictor_elsewhere_that_cannot_be_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = open_untrained(tmp_path)
    give_weights(session)
    run = session.run
    directory = run.predictor_dir("torch-cpu")
    replace(run.predictor(), device_id="torch-cpu").save(directory)
    assert len(replace(session).latencies_elsewhere) == 1
    card = read_json(directory / "card.json")
    assert isinstance(card, dict)
    write_json(directory / "card.json", {**card, "features_signature": "0"})
    write_manifest(directory, files=["card.json", "model.safetensors"], details={})
    assert replace(session).latencies_elsewhere == ()
    assert "other features than this version computes; the search does without the latency on torch-cpu" in caplog.text


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return supernet_at(tmp_path / "start", seed=1)


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_call_need_not_repeat_the_start(tmp_path: Path, start: Path, epochs: int) -> None:
    made = recipe(tmp_path, start)
    run = run_of(tmp_path / "run", made, epochs=epochs, start=start_sha256(start))
    assert is_trained(run, recipe=made) == (epochs == 3)
    assert recipe_to_continue(recipe(tmp_path), run.path) == made


def test_an_unfinished_training_finds_its_start_at_a_new_place(tmp_path: Path, start: Path) -> None:
    run = run_of(tmp_path / "run", recipe(tmp_path, start), epochs=1, start=start_sha256(start))
    moved = recipe(tmp_path, start.rename(tmp_path / "moved"))
    assert recipe_to_continue(moved, run.path) == moved


def test_an_unfinished_training_refuses_other_weights_and_keeps_its_recipe(tmp_path: Path, start: Path) -> None:
    run = run_of(tmp_path / "run", recipe(tmp_path, start), epochs=1, start=start_sha256(start))
    before = run.recipe_path.read_bytes()
    with pytest.raises(RunError, match="began with other weights") as caught:
        open_session(recipe(tmp_path, supernet_at(tmp_path / "other", seed=2)), run.path)
    assert "--from" in caught.value.hint
    with pytest.raises(CheckpointError, match="nowhere: it does not exist"):
        open_session(recipe(tmp_path, tmp_path / "nowhere"), run.path)
    assert run.recipe_path.read_bytes() == before


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_run_from_fresh_weights_refuses_a_start(tmp_path: Path, start: Path, epochs: int) -> None:
    run = run_of(tmp_path / "run", recipe(tmp_path), epochs=epochs)
    with pytest.raises(RunError, match=r"train\.from_checkpoint: null against"):
        recipe_to_continue(recipe(tmp_path, start), run.path)


@pytest.mark.parametrize("again", [None, "start", "nowhere"])
def test_a_trained_run_needs_no_start_any_more(tmp_path: Path, start: Path, again: str | None) -> None:
    made = recipe(tmp_path, start)
    run = run_of(tmp_path / "run", made, epochs=3, start=start_sha256(start))
    start.rename(tmp_path / "gone")
    session = open_session(recipe(tmp_path, None if again is None else tmp_path / again), run.path)
    assert session.recipe == made
    assert load_recipe(open_run(run.path).recipe_path) == made


def test_other_results_are_refused_and_other_speed_is_not(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", recipe(tmp_path), epochs=0)
    with pytest.raises(RunError, match=r"train\.epochs: 3 against 4"):
        recipe_to_continue(recipe(tmp_path, epochs=4), run.path)
    faster = recipe(tmp_path, threads_per_worker=1)
    assert recipe_to_continue(faster, run.path) == faster


def test_the_search_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    run = run_of(tmp_path / "run", made, epochs=0)
    search = SearchSettings(sampler="tpe", evaluations=7, limits=SearchLimits(macs=1e6))
    changed = made.model_copy(update={"search": search})
    assert changed.search != made.search
    assert recipe_to_continue(changed, run.path) == changed
    assert open_session(changed, run.path).recipe == load_recipe(run.recipe_path) == changed


def test_a_cache_that_is_no_run_is_refused_before_the_run_takes_it_over(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    gone = made.model_copy(update={"search": SearchSettings(cache=(str(tmp_path / "gone"),))})
    with pytest.raises(RunError, match=r"search\.cache: .*gone is not a run directory"):
        open_session(gone, tmp_path / "new")
    assert not (tmp_path / "new" / "run.json").exists()
    run = run_of(tmp_path / "run", made, epochs=0)
    with pytest.raises(RunError, match=r"search\.cache: .*gone is not a run directory"):
        open_session(gone, run.path)
    assert load_recipe(run.recipe_path) == made
    # A run that has it may have searched already.
    with_gone = run_of(tmp_path / "other", gone, epochs=0)
    assert open_session(gone, with_gone.path).recipe == gone


def test_what_can_be_trained_has_phases_and_what_cannot_says_why(tmp_path: Path, start: Path) -> None:
    space = get_space("mbconv-small", **SPACE)
    assert [phase.name for phase in require_trainable(recipe(tmp_path), space=space)] == ["sandwich"]
    assert [phase.name for phase in require_trainable(recipe(tmp_path, start), space=space)] == ["teacher", "sandwich"]
    with pytest.raises(RecipeError, match="section train of the recipe does not fit"):
        require_trainable(recipe(tmp_path, method="progressive"), space=space)


def test_a_new_directory_that_became_no_run_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), exclusive(tmp_path / "new"):
        raise ValueError("refused")
    assert not (tmp_path / "new").exists()


def test_a_directory_stays_if_it_was_there_or_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="refused"), exclusive(tmp_path / "mine"):
        raise ValueError("refused")
    assert (tmp_path / "mine").is_dir()
    with exclusive(tmp_path / "new"):
        run_of(tmp_path / "new", recipe(tmp_path), epochs=0)
    assert (tmp_path / "new" / "run.json").exists()


def series_recipe(
    folder: Path, *, shape: tuple[int, int] = (2, 40), name: str = "conv1d-sensor", **more: object
) -> Recipe:
    """A recipe on 60 series of noise; `more` are the settings of its space."""
    rng = np.random.default_rng(0)
    labels_N = np.arange(60) % 2
    np.savez(folder / "own.npz", x=rng.normal(size=(60, *shape)).astype(np.float32), y=labels_N)
    path = folder / "series.yaml"
    path.write_text(f"""
name: series
data: {{dataset: numpy, path: {folder / "own.npz"}, layout: NCT, search: 10, verify: 10, report: 10}}
space: {{name: {name}, settings: {more}}}
train: {{epochs: 3, batch_size: 10}}
""")
    return load_recipe(path)


def test_channels_and_length_of_series_come_from_the_data_and_are_written_down(tmp_path: Path) -> None:
    session = open_session(series_recipe(tmp_path, depths=[1]), tmp_path / "run")
    expected = {"in_channels": 2, "length": 40, "depths": [1]}
    assert session.recipe.space.settings == expected
    assert load_recipe(session.run.recipe_path) == session.recipe
    assert session.run.space.input_shape(session.run.space.smallest) == (2, 40)
    # a call with the same recipe, or none, goes on with the same space
    assert open_session(series_recipe(tmp_path, depths=[1]), tmp_path / "run").recipe == session.recipe
    assert resume_session(tmp_path / "run").recipe == session.recipe
    assert recipe_to_continue(series_recipe(tmp_path, depths=[1]), tmp_path / "run") == session.recipe


def test_a_length_that_the_recipe_sets_stays(tmp_path: Path) -> None:
    session = open_session(series_recipe(tmp_path, length=20), tmp_path / "run")
    assert session.recipe.space.settings == {"in_channels": 2, "length": 20}
    with pytest.raises(RunError, match=r'space\.settings: .*"length": 20.* against .*"length": 40'):
        open_session(series_recipe(tmp_path), tmp_path / "run")
    with pytest.raises(RunError, match=r'"length": 20.* against .*"length": 30'):
        open_session(series_recipe(tmp_path, length=30), tmp_path / "run")


def test_channels_that_the_recipe_sets_must_be_those_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has series \(C, T\) of shape \(2, 40\)") as caught:
        open_session(series_recipe(tmp_path, in_channels=1), tmp_path / "run")
    assert "set space.settings.in_channels to 2" in caught.value.hint


def test_kernels_that_do_not_fit_the_length_of_the_data_are_refused(tmp_path: Path) -> None:
    recipe = series_recipe(tmp_path, shape=(2, 8), kernels=[9], dilations=[4])
    with pytest.raises(SpaceError, match=r"kernel 9 with dilation 4 reaches 16 time steps .* has only 8"):
        open_session(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nasbench201", SpaceError, "has no supernet"),
        ("mbconv-small", DataError, "choose a space of the same kind"),
    ],
)
def test_a_space_that_cannot_be_trained_on_the_data_asks_for_no_setting(
    tmp_path: Path, name: str, error: type[SpaceError | DataError], words: str
) -> None:
    with pytest.raises(error) as caught:
        open_session(series_recipe(tmp_path, name=name), tmp_path / "run")
    assert words in f"{caught.value}; {caught.value.hint}"
    assert "in_channels" not in caught.value.hint


def test_a_run_keeps_the_devices_that_name_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = "devices:\n  - {id: mine, backend: onnxruntime-cpu, where: local}\n"
    (tmp_path / "devices.yaml").write_text(devices, encoding="utf-8")
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(tmp_path / "devices.yaml"))
    made_with = recipe(tmp_path)
    asked = made_with.model_copy(update={"device": made_with.device.model_copy(update={"id": "mine"})})
    open_session(made_with, tmp_path / "built-in")
    assert not (tmp_path / "built-in" / "devices.yaml").exists()
    open_session(asked, tmp_path / "run")
    # As a worker, in a directory of its own.
    monkeypatch.delenv("ARCHSMITH_DEVICES")
    monkeypatch.chdir(tmp_path / "run")
    assert load_workload(tmp_path / "run").device.spec.device_id == "mine"
    monkeypatch.chdir("/")
    with pytest.raises(DeviceError, match="unknown device 'mine'"):
        recipe_device(asked)


def test_a_device_joins_a_run_and_a_session_moves_to_it(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    run = run_of(tmp_path / "run", made, epochs=3)
    more = made.model_copy(update={"devices": (FurtherDeviceSettings(id="torch-cpu", batch=2),)})
    session = open_session(more, run.path)
    assert load_recipe(run.recipe_path).devices == more.devices
    assert session.on(None) is session
    assert session.on("onnxruntime-cpu") is session
    assert session.on("torch-cpu").device.spec.batch == 2
    assert session.on("torch-cpu").workload is session.workload
    assert session.on("torch-cpu-int8").device.spec.precision == "int8"


@pytest.mark.parametrize(
    ("device", "message"),
    [("toaster", "unknown device 'toaster'"), ("cortex-m4", "gives simulated counts, a search needs latencies")],
)
def test_a_further_device_must_be_one_that_measures(tmp_path: Path, device: str, message: str) -> None:
    made = recipe(tmp_path)
    run = run_of(tmp_path / "run", made, epochs=3)
    session = open_session(made, run.path)
    with pytest.raises(DeviceError, match=message):
        session.on(device)
    with pytest.raises(DeviceError, match=message):
        open_session(made.model_copy(update={"devices": (FurtherDeviceSettings(id=device),)}), run.path)
    assert not load_recipe(run.recipe_path).devices
