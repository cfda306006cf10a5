"""Going on with a run: what may differ between two calls, and what is left behind by a refused one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.errors import RecipeError
from experiments.recipe import Recipe, load_recipe
from experiments.session import exclusive, is_trained, new_run, open_session, recipe_to_continue, require_trainable
from nas.errors import CheckpointError, RunError
from nas.run import Run, open_run
from nas.supernet_files import save_supernet
from nas.training.checkpoints import Checkpoint, save_checkpoint
from nas.training.starting import start_sha256
from searchspaces import get_space

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
