"""Numbers that overflow: one way back at half the learning rate, then an end with a reason."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardware.files import read_json
from nas.data import DataSplits
from nas.errors import CheckpointError, TrainingError
from nas.training.checkpoints import load_checkpoint
from nas.training.finished import finished_checkpoints
from nas.training.history import TrainHistory
from nas.training.recovery import Rollback, read_rollback
from nas.training.settings import TrainSettings
from tests.nas.tiny_run import fresh_supernet
from tests.nas.training.tiny_training import (
    ONE_EPOCH,
    PROGRESSIVE,
    SMALL,
    TWO_EPOCHS,
    KillError,
    WatchedContext,
    checkpoint_names,
    few_digits,
    poison_gradients,
    spoil,
    train,
)

# A step of the sandwich rule (one random subnet) has three backward passes, an epoch two steps.
PASSES_AN_EPOCH = 6


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return few_digits()


def rates(directory: Path) -> dict[int, float]:
    """Learning rate of the last step of each epoch."""
    rows = TrainHistory(directory / "history.jsonl").rows()
    return {int(row["epoch"]): row["learning_rate"] for row in rows if row["step"] % 2 == 0}


@pytest.mark.parametrize(
    ("settings", "poisoned", "kept"),
    [
        (TWO_EPOCHS, 1, 0),  # in the first epoch: back to the beginning
        (TWO_EPOCHS, PASSES_AN_EPOCH + 4, 1),
        (PROGRESSIVE, 1, 0),
        (PROGRESSIVE, 3, 1),
        (PROGRESSIVE, 4, 2),  # in the first step with a teacher
        (PROGRESSIVE, 11, 4),
    ],
)
def test_after_one_overflow_training_finishes_at_half_the_rate(
    tmp_path: Path, digits: DataSplits, settings: TrainSettings, poisoned: int, kept: int
) -> None:
    train(tmp_path / "sound", data=digits, settings=settings)
    supernet = fresh_supernet(space=SMALL)
    poison_gradients(supernet, when=lambda number: number == poisoned)
    trained = train(tmp_path / "poisoned", data=digits, settings=settings, supernet=supernet)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained.state_dict().values())
    sound, halved = rates(tmp_path / "sound"), rates(tmp_path / "poisoned")
    assert set(sound) == set(halved) == set(range(1, settings.epochs + 1))
    for epoch, rate in sound.items():
        assert halved[epoch] == (rate if epoch <= kept else pytest.approx(rate / 2))
    rows = TrainHistory(tmp_path / "poisoned" / "history.jsonl").rows()
    assert {row["rollbacks"] for row in rows if row["epoch"] > kept} == {1.0}
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    newest = load_checkpoint(finished_checkpoints(tmp_path / "poisoned" / "checkpoints")[-1], expected={})
    assert "training gradient norm is nan at step" in str(newest.details["rollback"])


@pytest.mark.parametrize("settings", [TWO_EPOCHS, PROGRESSIVE])
def test_a_second_overflow_ends_with_both_reasons(tmp_path: Path, digits: DataSplits, settings: TrainSettings) -> None:
    supernet = fresh_supernet(space=SMALL)
    poison_gradients(supernet, when=lambda number: number >= 3)
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, data=digits, settings=settings, supernet=supernet)
    problem = r"training gradient norm is nan at step \d of \d+ \(phase \w+\)"
    said = f"numbers overflowed again, at half the learning rate: {problem}; the first time: {problem}; "
    assert re.match(said, str(caught.value))
    assert "train.learning_rate (now 0.05)" in caught.value.hint
    assert all(bool(torch.isfinite(tensor).all()) for tensor in supernet.state_dict().values())


@pytest.mark.parametrize(("start", "named"), [(None, "the data"), ("a" * 64, "train.from_checkpoint")])
def test_a_first_loss_that_is_no_number_blames_what_training_began_with(
    tmp_path: Path, digits: DataSplits, start: str | None, named: str
) -> None:
    settings = replace(TWO_EPOCHS, start_sha256=start)
    with pytest.raises(TrainingError, match=r"loss is nan at the very first step \(phase \w+\)") as caught:
        train(tmp_path, data=spoil(digits), settings=settings)
    assert named in caught.value.hint
    assert "learning_rate" not in caught.value.hint
    assert read_rollback(tmp_path) is None
    assert checkpoint_names(tmp_path) == []


def test_the_last_checkpoint_stays(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=TWO_EPOCHS, context=WatchedContext(dies_in_epoch=2))
    kept = finished_checkpoints(tmp_path / "checkpoints")[-1]
    with pytest.raises(TrainingError, match=f"at step 2 of 4 .*the last checkpoint is {kept}"):
        train(tmp_path, data=spoil(digits), settings=TWO_EPOCHS)
    assert load_checkpoint(kept, expected={}).step == 2
    assert checkpoint_names(tmp_path) == ["epoch-0001"]


def test_weights_that_overflow_in_the_last_step_reach_no_checkpoint(tmp_path: Path, digits: DataSplits) -> None:
    supernet = fresh_supernet(space=SMALL)
    next(supernet.parameters()).register_hook(lambda gradient: gradient * 1e15)
    settings = replace(ONE_EPOCH, learning_rate=1e30, gradient_clip=1e30, batch_size=32)
    with pytest.raises(TrainingError, match=r"training weights are no numbers after step 1 of 1"):
        train(tmp_path, data=digits, settings=settings, supernet=supernet)
    assert checkpoint_names(tmp_path) == []


def test_an_absurd_learning_rate_ends_in_an_error(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(TrainingError, match=r"is (nan|inf) at step [1-3] of 4"):
        train(tmp_path, data=digits, settings=replace(TWO_EPOCHS, learning_rate=1e38, warmup_epochs=0.0))


def test_a_restart_remembers_the_way_back(tmp_path: Path, digits: DataSplits) -> None:
    """Even when it was killed before the next checkpoint."""
    supernet = fresh_supernet(space=SMALL)
    poison_gradients(supernet, when=lambda number: number == PASSES_AN_EPOCH)
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=TWO_EPOCHS, context=WatchedContext(dies_in_epoch=3), supernet=supernet)
    found = read_rollback(tmp_path)
    assert found is not None
    assert "gradient norm is nan at step 2 of 4" in found.problem
    train(tmp_path, data=digits, settings=TWO_EPOCHS)
    assert TrainHistory(tmp_path / "history.jsonl").rows()[-1]["rollbacks"] == 1.0
    other = fresh_supernet(space=SMALL)
    (tmp_path / "checkpoints" / "epoch-0002" / "manifest.json").unlink()
    poison_gradients(other, when=lambda number: number == 1)
    with pytest.raises(TrainingError, match="the first time: training gradient norm is nan at step 2 of 4"):
        train(tmp_path, data=digits, settings=TWO_EPOCHS, supernet=other)


def test_what_is_remembered_comes_back_and_damage_is_named(tmp_path: Path) -> None:
    assert read_rollback(tmp_path) is None
    Rollback(problem="training loss is nan").save(tmp_path)
    assert read_rollback(tmp_path) == Rollback(problem="training loss is nan")
    content = read_json(tmp_path / "rollback.json")
    assert isinstance(content, dict)
    assert content["learning_rate_factor"] == 0.5
    (tmp_path / "rollback.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"rollback\.json is damaged"):
        read_rollback(tmp_path)
