"""Progressive shrinking: phases one after the other, a frozen teacher, and resuming in any of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.data import DataSplits
from nas.errors import CheckpointError
from nas.training.checkpoints import load_checkpoint
from nas.training.finished import finished_checkpoints
from nas.training.history import TrainHistory
from nas.training.phases import phases_of
from searchspaces.elastic.supernet import Supernet
from tests.nas.tiny_run import fresh_supernet
from tests.nas.training.tiny_training import (
    PROGRESSIVE,
    SMALL,
    KillError,
    WatchedContext,
    assert_equal_bit_for_bit,
    few_digits,
    one_stage,
    train,
)

# A step averages one loss and the gradient norm; an epoch asks once whether all is finite.
AN_EPOCH = 2 * 2 + 1
PHASES = phases_of(SMALL, PROGRESSIVE)


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return few_digits()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: DataSplits) -> tuple[Path, Supernet, WatchedContext]:
    """An uninterrupted training."""
    directory, context = tmp_path_factory.mktemp("whole"), WatchedContext()
    return directory, train(directory, data=digits, settings=PROGRESSIVE, context=context), context


Whole = tuple[Path, Supernet, WatchedContext]


def test_the_tests_train_through_all_kinds_of_phase() -> None:
    assert [(phase.name, phase.epochs) for phase in PHASES] == [
        ("teacher", 2), ("kernel", 1), ("depth", 1), ("expand", 1)
    ]  # fmt: skip


def test_a_seed_gives_the_same_losses_bit_for_bit(tmp_path: Path, digits: DataSplits, whole: Whole) -> None:
    directory, supernet, context = whole
    again = WatchedContext()
    assert_equal_bit_for_bit(train(tmp_path, data=digits, settings=PROGRESSIVE, context=again), supernet)
    assert again.numbers == context.numbers
    losses = []
    for place in (directory, tmp_path):
        rows = TrainHistory(place / "history.jsonl").rows()
        losses.append([(row["step"], row["loss"]) for row in rows if row["step"] % 2 == 0])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 5


@pytest.mark.parametrize("epoch", [2, 3, 4, 5])
def test_resumed_in_any_phase_it_ends_bit_for_bit_the_same(
    tmp_path: Path, digits: DataSplits, whole: Whole, epoch: int
) -> None:
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=PROGRESSIVE, context=WatchedContext(dies_in_epoch=epoch, after_numbers=3))
    context = WatchedContext()
    other = fresh_supernet(seed=99, space=SMALL)
    resumed = train(tmp_path, data=digits, settings=PROGRESSIVE, context=context, supernet=other)
    assert context.numbers == whole[2].numbers[(epoch - 1) * AN_EPOCH :]
    assert_equal_bit_for_bit(resumed, whole[1])


def test_rows_say_the_phase_and_its_rate(whole: Whole) -> None:
    rows = [row for row in TrainHistory(whole[0] / "history.jsonl").rows() if row["step"] % 2 == 0]
    assert [row["phase"] for row in rows] == [1, 1, 2, 3, 4]
    for row in rows:
        assert 0 < row["learning_rate"] <= PHASES[int(row["phase"]) - 1].learning_rate
    assert [row["eta_seconds"] > 0 for row in rows] == [True] * 4 + [False]


def test_the_first_row_has_losses_of_both_extremes_without_any_validation(whole: Whole) -> None:
    first, *_ = TrainHistory(whole[0] / "history.jsonl").rows()
    assert PROGRESSIVE.validation_images == 0
    assert first["step"] == 1
    assert 0 < first["loss_largest"] < 20
    assert 0 < first["loss_smallest"] < 20


def test_the_teacher_is_the_supernet_at_the_end_of_its_phase(tmp_path: Path, digits: DataSplits, whole: Whole) -> None:
    """It is kept by itself, because its checkpoint is deleted as training goes on."""
    (teacher,) = finished_checkpoints(whole[0] / "teacher")
    assert teacher.name == "epoch-0002"
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=PROGRESSIVE, context=WatchedContext(dies_in_epoch=3))
    expected = load_checkpoint(tmp_path / "checkpoints" / "epoch-0002", expected={}).weights
    found = load_checkpoint(teacher, expected={}).weights
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_missing_teacher_is_told_before_anything_is_trained(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=PROGRESSIVE, context=WatchedContext(dies_in_epoch=5))
    (tmp_path / "teacher" / "epoch-0002" / "manifest.json").unlink()
    context = WatchedContext()
    with pytest.raises(CheckpointError, match="teacher is missing"):
        train(tmp_path, data=digits, settings=PROGRESSIVE, context=context)
    assert context.numbers == []


def test_only_open_choices_are_trained(tmp_path: Path, digits: DataSplits) -> None:
    """Before kernels open, no gradient reaches their transforms."""
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=PROGRESSIVE, context=WatchedContext(dies_in_epoch=4))
    teacher = load_checkpoint(finished_checkpoints(tmp_path / "teacher")[-1], expected={}).weights
    kernels = load_checkpoint(tmp_path / "checkpoints" / "epoch-0003", expected={}).weights
    names = [name for name in teacher if "transforms" in name]
    assert names
    assert all(torch.equal(teacher[name], torch.eye(len(teacher[name]))) for name in names)
    assert any(not torch.equal(kernels[name], teacher[name]) for name in names)


def test_channels_are_sorted_once_before_the_expand_ratios_open(tmp_path: Path, digits: DataSplits) -> None:
    supernet = fresh_supernet(space=SMALL)
    calls: list[tuple[int, dict[str, int]]] = []
    context = WatchedContext()
    sort = supernet.sort_channels

    def watched(*, opened: dict[str, int]) -> None:
        calls.append((context.epochs, dict(opened)))
        sort(opened=opened)

    supernet.sort_channels = watched  # type: ignore[method-assign, assignment]
    train(tmp_path, data=digits, settings=PROGRESSIVE, context=context, supernet=supernet)
    assert calls == [(5, {"kernel": 2, "depth": 2, "expand": 1})]


def test_checkpoints_of_other_phases_are_refused(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=PROGRESSIVE, context=WatchedContext(dies_in_epoch=2))
    with pytest.raises(CheckpointError, match=r"settings\.epochs=5, this run has 6"):
        train(tmp_path, data=digits, settings=replace(PROGRESSIVE, epochs=6))


def test_scores_compete_in_the_final_phase_alone(tmp_path: Path, digits: DataSplits) -> None:
    settings = replace(PROGRESSIVE, epochs=12, validation_images=40)
    train(tmp_path, data=digits, settings=settings)
    last = phases_of(SMALL, settings)[-1]
    found = [load_checkpoint(path, expected={}) for path in finished_checkpoints(tmp_path / "checkpoints")]
    assert all(last.first_epoch < checkpoint.epoch for checkpoint in found[:-2])
    assert found[-1].details["final_phase"]
    assert found[-1].details["phase"] == "expand"


def test_average_and_mixed_precision_go_through_all_phases_and_resume(tmp_path: Path, digits: DataSplits) -> None:
    space = one_stage(dropout=0.2)
    settings = replace(PROGRESSIVE, ema_decay=0.5, precision="bf16")
    first, resumed = WatchedContext(), WatchedContext()
    a = train(tmp_path / "a", data=digits, settings=settings, context=first, supernet=fresh_supernet(space=space))
    dying = WatchedContext(dies_in_epoch=5)
    with pytest.raises(KillError):
        train(tmp_path / "b", data=digits, settings=settings, context=dying, supernet=fresh_supernet(space=space))
    b = train(
        tmp_path / "b", data=digits, settings=settings, context=resumed, supernet=fresh_supernet(seed=9, space=space)
    )
    assert resumed.numbers == first.numbers[4 * AN_EPOCH :]
    assert_equal_bit_for_bit(a, b)
    assert all(tensor.dtype == torch.float32 for tensor in a.state_dict().values())
