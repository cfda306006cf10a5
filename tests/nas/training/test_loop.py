"""Training of the supernet: one worker, two workers, resumed, and gone wrong."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.data import DataSplits
from nas.errors import CheckpointError, TrainingError
from nas.training.checkpoints import finished_checkpoints, load_checkpoint
from nas.training.context import LocalContext
from nas.training.history import TrainHistory
from nas.training.loop import make_optimizer, train_supernet
from nas.training.schedules import cosine_rate, sandwich_subnets
from nas.training.settings import TrainSettings
from searchspaces.elastic.supernet import Supernet
from searchspaces.mbconv_small import MBConvSpace
from tests.nas.tiny_run import SPACE, TRAIN, fresh_supernet
from tests.nas.training.gloo_child import small_digits, weights_sha256

ROOT = Path(__file__).parents[3]
# 64 images: four steps an epoch
TWO_EPOCHS = replace(TRAIN, epochs=2, batch_size=16)
ONE_EPOCH = replace(TWO_EPOCHS, epochs=1)


class KillError(Exception):
    """A kill, as near as a test in one process gets."""


class WatchedContext(LocalContext):
    """The only worker; keeps every loss, and dies when told to.

    Attributes:
        losses: everything that was averaged over the workers.
        dies_in_epoch: epoch of this call, from 1, that it dies in the middle of.
    """

    def __init__(self, *, dies_in_epoch: int = 0, after_losses: int = 0) -> None:
        self.losses: list[float] = []
        self.epochs = 0
        self._dies_in_epoch, self._after_losses = dies_in_epoch, after_losses
        self._losses_before = 0

    def mean(self, value: float) -> float:
        self.losses.append(value)
        if self.epochs == self._dies_in_epoch and len(self.losses) - self._losses_before > self._after_losses:
            raise KillError
        return value

    @contextmanager
    def computing(self) -> Iterator[None]:
        self.epochs += 1
        self._losses_before = len(self.losses)
        yield


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    """64 training images with the real augmentation."""
    return replace(small_digits(), augmentation="shift")


def train(
    directory: Path,
    *,
    data: DataSplits,
    settings: TrainSettings = ONE_EPOCH,
    context: LocalContext | None = None,
    supernet: Supernet | None = None,
) -> Supernet:
    supernet = fresh_supernet() if supernet is None else supernet
    train_supernet(supernet, data=data, settings=settings, directory=directory, context=context or LocalContext())
    return supernet


def assert_equal_bit_for_bit(a: Supernet, b: Supernet) -> None:
    others = b.state_dict()
    assert all(torch.equal(tensor, others[name]) for name, tensor in a.state_dict().items())


def checkpoint_names(directory: Path) -> list[str]:
    return [path.name for path in finished_checkpoints(directory / "checkpoints")]


def spoil(data: DataSplits) -> DataSplits:
    """Images that are no numbers."""
    return replace(data, train=replace(data.train, images_NCHW=data.train.images_NCHW * float("nan")))


def test_training_lowers_the_loss_of_largest_and_smallest_subnet(tmp_path: Path, digits: DataSplits) -> None:
    context = WatchedContext()
    train(tmp_path, data=digits, settings=replace(TWO_EPOCHS, epochs=12), context=context)
    # three numbers a step: largest, smallest, sum
    largest, smallest = context.losses[0::3], context.losses[1::3]
    assert sum(largest[-4:]) < 0.8 * sum(largest[:4])
    assert sum(smallest[-4:]) < sum(smallest[:4])


def test_a_seed_gives_the_same_losses_and_weights_bit_for_bit(tmp_path: Path, digits: DataSplits) -> None:
    first, second, other = WatchedContext(), WatchedContext(), WatchedContext()
    a = train(tmp_path / "a", data=digits, context=first)
    b = train(tmp_path / "b", data=digits, context=second)
    train(tmp_path / "c", data=digits, context=other, settings=replace(ONE_EPOCH, seed=1))
    assert first.losses == second.losses
    assert len(first.losses) == 12
    assert_equal_bit_for_bit(a, b)
    assert other.losses != first.losses


def test_one_epoch_and_a_resumed_one_equal_two_bit_for_bit(tmp_path: Path, digits: DataSplits) -> None:
    whole_context = WatchedContext()
    whole = train(tmp_path / "whole", data=digits, settings=TWO_EPOCHS, context=whole_context)
    with pytest.raises(KillError):
        train(
            tmp_path / "parts",
            data=digits,
            settings=TWO_EPOCHS,
            context=WatchedContext(dies_in_epoch=2, after_losses=5),
        )
    assert checkpoint_names(tmp_path / "parts") == ["epoch-0001"]
    resumed_context = WatchedContext()
    # other initial weights: what counts is the checkpoint
    resumed = train(
        tmp_path / "parts",
        data=digits,
        settings=TWO_EPOCHS,
        context=resumed_context,
        supernet=fresh_supernet(seed=99),
    )
    assert resumed_context.losses == whole_context.losses[12:]
    assert_equal_bit_for_bit(whole, resumed)
    parts, expected = (
        load_checkpoint(finished_checkpoints(tmp_path / name / "checkpoints")[-1], expected={})
        for name in ("parts", "whole")
    )
    assert (parts.epoch, parts.step) == (2, 8)
    assert set(parts.optimizer) == set(expected.optimizer)
    assert all(torch.equal(tensor, expected.optimizer[name]) for name, tensor in parts.optimizer.items())


def test_a_finished_training_is_not_repeated(tmp_path: Path, digits: DataSplits) -> None:
    trained = train(tmp_path, data=digits)
    history = (tmp_path / "history.jsonl").read_bytes()
    context = WatchedContext()
    again = train(tmp_path, data=digits, context=context, supernet=fresh_supernet(seed=99))
    assert context.losses == []
    assert context.epochs == 0
    assert_equal_bit_for_bit(trained, again)
    assert (tmp_path / "history.jsonl").read_bytes() == history


def test_the_running_statistics_of_the_supernet_stay_untouched(tmp_path: Path, digits: DataSplits) -> None:
    before = fresh_supernet().state_dict()
    after = train(tmp_path, data=digits).state_dict()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("project.weight"))


def test_the_last_step_is_always_logged(tmp_path: Path, digits: DataSplits) -> None:
    context = WatchedContext()
    train(tmp_path, data=digits, settings=TWO_EPOCHS, context=context)
    row = TrainHistory(tmp_path / "history.jsonl").rows()[-1]
    assert (row["step"], row["num_steps"], row["epoch"]) == (8, 8, 2)
    assert (row["loss_largest"], row["loss_smallest"]) == (context.losses[-3], context.losses[-2])


def test_rows_of_steps_that_are_repeated_are_forgotten(tmp_path: Path, digits: DataSplits) -> None:
    history = TrainHistory(tmp_path / "history.jsonl")
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=TWO_EPOCHS, context=WatchedContext(dies_in_epoch=2))
    history.append({"step": 6, "loss_largest": 0.0})
    train(tmp_path, data=digits, settings=TWO_EPOCHS)
    steps = [row["step"] for row in history.rows()]
    assert steps == sorted(set(steps))
    assert not any(row["loss_largest"] == 0.0 for row in history.rows())


def test_rows_of_a_first_epoch_that_is_repeated_are_forgotten(tmp_path: Path, digits: DataSplits) -> None:
    history = TrainHistory(tmp_path / "history.jsonl")
    with pytest.raises(KillError):
        train(tmp_path, data=digits, context=WatchedContext(dies_in_epoch=1, after_losses=6))
    assert history.rows()
    train(tmp_path, data=digits)
    steps = [row["step"] for row in history.rows()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 4


def test_images_that_are_no_numbers_end_in_an_error_that_names_the_step(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(TrainingError, match="loss is nan at step 0 of 4; no epoch was finished") as caught:
        train(tmp_path, data=spoil(digits))
    assert "train.learning_rate (now 0.05)" in caught.value.hint
    assert checkpoint_names(tmp_path) == []


def test_the_last_checkpoint_stays_when_the_loss_is_no_number(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=TWO_EPOCHS, context=WatchedContext(dies_in_epoch=2))
    kept = finished_checkpoints(tmp_path / "checkpoints")[-1]
    with pytest.raises(TrainingError, match=f"at step 4 of 8; the last checkpoint is {kept}"):
        train(tmp_path, data=spoil(digits), settings=TWO_EPOCHS)
    assert load_checkpoint(kept, expected={}).step == 4
    assert checkpoint_names(tmp_path) == ["epoch-0001"]


def test_an_absurd_learning_rate_ends_in_the_same_error(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(TrainingError, match=r"is (nan|inf) at step [1-7] of 8"):
        train(tmp_path, data=digits, settings=replace(TWO_EPOCHS, learning_rate=1e38, warmup_epochs=0.0))


def test_a_gradient_that_is_no_number_never_reaches_a_checkpoint(tmp_path: Path, digits: DataSplits) -> None:
    supernet = fresh_supernet()
    parameter = next(supernet.parameters())
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="gradient norm is nan at step 0"):
        train(tmp_path, data=digits, supernet=supernet)
    assert checkpoint_names(tmp_path) == []
    assert all(bool(torch.isfinite(p).all()) for p in supernet.parameters())


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_the_way_out(tmp_path: Path, digits: DataSplits) -> None:
    whole = train(tmp_path / "whole", data=digits, settings=TWO_EPOCHS)
    train(tmp_path / "parts", data=digits, settings=TWO_EPOCHS)
    damaged = tmp_path / "parts" / "checkpoints" / "epoch-0002"
    weights = damaged / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=str(weights)) as caught:
        train(tmp_path / "parts", data=digits, settings=TWO_EPOCHS)
    assert f"delete {damaged}" in caught.value.hint
    for file in damaged.iterdir():
        file.unlink()
    damaged.rmdir()
    assert_equal_bit_for_bit(whole, train(tmp_path / "parts", data=digits, settings=TWO_EPOCHS))


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path, digits: DataSplits) -> None:
    whole = train(tmp_path / "whole", data=digits, settings=TWO_EPOCHS)
    train(tmp_path / "parts", data=digits, settings=TWO_EPOCHS)
    (tmp_path / "parts" / "checkpoints" / "epoch-0002" / "manifest.json").unlink()
    context = WatchedContext()
    again = train(tmp_path / "parts", data=digits, settings=TWO_EPOCHS, context=context)
    assert len(context.losses) == 12
    assert_equal_bit_for_bit(whole, again)


def test_a_checkpoint_of_other_settings_is_refused_with_the_key(tmp_path: Path, digits: DataSplits) -> None:
    train(tmp_path, data=digits)
    with pytest.raises(CheckpointError, match=r"settings\.learning_rate=0\.05, this run has 0\.01"):
        train(tmp_path, data=digits, settings=replace(ONE_EPOCH, learning_rate=0.01))


def test_a_checkpoint_of_another_space_is_refused_with_both_names(tmp_path: Path, digits: DataSplits) -> None:
    train(tmp_path, data=digits)
    another = MBConvSpace(replace(SPACE.config, head_channels=40))
    with pytest.raises(CheckpointError, match=f"space_id='{SPACE.space_id}', this run has '{another.space_id}'"):
        train(tmp_path, data=digits, supernet=fresh_supernet(space=another))


def test_a_batch_larger_than_the_training_split_is_refused(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(TrainingError, match="a batch of 65 images does not fit 64 training images"):
        train(tmp_path, data=digits, settings=replace(ONE_EPOCH, batch_size=65))


def test_norms_and_biases_carry_no_weight_decay() -> None:
    supernet = fresh_supernet()
    optimizer = make_optimizer(supernet, learning_rate=0.1, weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decay) == {id(p) for p in supernet.parameters()}
    for name, parameter in supernet.named_parameters():
        is_plain = parameter.ndim <= 1
        assert decay[id(parameter)] == (0.0 if is_plain else 0.5), name
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_the_rate_of_the_log_is_the_schedules(tmp_path: Path, digits: DataSplits) -> None:
    settings = replace(TWO_EPOCHS, warmup_epochs=0.5)
    train(tmp_path, data=digits, settings=settings)
    row = TrainHistory(tmp_path / "history.jsonl").rows()[-1]
    assert row["learning_rate"] == cosine_rate(8, peak=0.05, warmup_steps=2, num_steps=8)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What two real processes saw and ended with."""
    place = tmp_path_factory.mktemp("gloo")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.nas.training.gloo_child", str(rank), str(place)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
            found.append(json.loads(out))
    finally:
        for process in processes:
            process.kill()
    return place, found


TwoWorkers = tuple[Path, list[dict[str, Any]]]


def test_two_workers_train_on_disjoint_shards_that_cover_every_batch(two_workers: TwoWorkers) -> None:
    first, second = (found["averaged"]["images"] for found in two_workers[1])
    assert len(first) == len(second) == 4
    for a, b in zip(first, second, strict=True):
        assert len(a) == len(b) == 8
        assert not set(a) & set(b)
    assert len({image for step in (*first, *second) for image in step}) == 64


def test_two_workers_train_the_same_subnets(two_workers: TwoWorkers) -> None:
    first, second = (found["averaged"]["subnets"] for found in two_workers[1])
    expected = [sandwich_subnets(SPACE, seed=TRAIN.seed, step=step, num_random=1) for step in range(4)]
    assert first == second == [[arch.arch_id for arch in subnets] for subnets in expected]


def test_two_workers_have_equal_weights_after_training_and_only_because_of_averaging(two_workers: TwoWorkers) -> None:
    first, second = (found["averaged"] for found in two_workers[1])
    assert first["start"] == second["start"]
    assert first["end"] == second["end"] != first["start"]
    apart = [found["apart"]["end"] for found in two_workers[1]]
    assert apart[0] != apart[1]


def test_the_first_of_two_workers_writes_the_checkpoint_that_both_have(two_workers: TwoWorkers) -> None:
    place, found = two_workers
    checkpoint = load_checkpoint(finished_checkpoints(place / "averaged" / "checkpoints")[-1], expected={})
    supernet = fresh_supernet()
    supernet.load_state_dict(dict(checkpoint.weights))
    assert weights_sha256(supernet) == found[0]["averaged"]["end"]
    assert len(TrainHistory(place / "averaged" / "history.jsonl").rows()) >= 1


def test_a_loss_that_is_no_number_on_one_worker_ends_both(two_workers: TwoWorkers) -> None:
    errors = [found["error"] for found in two_workers[1]]
    assert all("loss is nan at step 0 of 4" in error for error in errors)
