"""Training of the supernet: one worker, two workers, resumed, and gone wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.data import DataSplits
from nas.errors import CheckpointError, TrainingError
from nas.training.checkpoints import load_checkpoint
from nas.training.finished import finished_checkpoints
from nas.training.history import TrainHistory
from nas.training.optimizer import make_optimizer
from nas.training.phases import phases_of
from nas.training.schedules import cosine_rate, sandwich_subnets
from nas.training.settings import OptimizerName
from tests.nas.tiny_run import fresh_supernet
from tests.nas.training.gloo_child import weights_sha256
from tests.nas.training.tiny_training import (
    ONE_EPOCH,
    SMALL,
    TWO_EPOCHS,
    KillError,
    WatchedContext,
    assert_equal_bit_for_bit,
    checkpoint_names,
    few_digits,
    one_stage,
    poison_gradients,
    train,
)

ROOT = Path(__file__).parents[3]
# A step of the sandwich rule averages three losses and the gradient norm; an epoch asks once whether all is finite.
A_STEP = 4
AN_EPOCH = 2 * A_STEP + 1


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return few_digits()


def test_training_lowers_the_loss_of_largest_and_smallest_subnet(tmp_path: Path, digits: DataSplits) -> None:
    context = WatchedContext()
    supernet = fresh_supernet()
    train(tmp_path, data=digits, settings=replace(TWO_EPOCHS, epochs=20), context=context, supernet=supernet)
    steps = [numbers for numbers in context.numbers if numbers]  # without the zeros between the epochs
    largest, smallest = steps[1::A_STEP], steps[2::A_STEP]
    assert sum(largest[-4:]) < 0.8 * sum(largest[:4])
    assert sum(smallest[-4:]) < sum(smallest[:4])


def test_a_seed_gives_the_same_losses_and_weights_bit_for_bit(tmp_path: Path, digits: DataSplits) -> None:
    first, second, other = WatchedContext(), WatchedContext(), WatchedContext()
    a = train(tmp_path / "a", data=digits, context=first)
    b = train(tmp_path / "b", data=digits, context=second)
    train(tmp_path / "c", data=digits, context=other, settings=replace(ONE_EPOCH, seed=1))
    assert first.numbers == second.numbers
    assert len(first.numbers) == AN_EPOCH
    assert_equal_bit_for_bit(a, b)
    assert other.numbers != first.numbers
    rows = [TrainHistory(tmp_path / name / "history.jsonl").rows()[-1] for name in ("a", "b")]
    for key in ("loss", "loss_largest", "loss_smallest", "learning_rate"):
        assert rows[0][key] == rows[1][key]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_epoch_and_a_resumed_one_equal_two_bit_for_bit(
    tmp_path: Path, digits: DataSplits, name: OptimizerName
) -> None:
    settings = replace(TWO_EPOCHS, optimizer=name)
    whole_context = WatchedContext()
    whole = train(tmp_path / "whole", data=digits, settings=settings, context=whole_context)
    with pytest.raises(KillError):
        train(
            tmp_path / "parts",
            data=digits,
            settings=settings,
            context=WatchedContext(dies_in_epoch=2, after_numbers=5),
        )
    assert checkpoint_names(tmp_path / "parts") == ["epoch-0001"]
    resumed_context = WatchedContext()
    # other initial weights: what counts is the checkpoint
    resumed = train(
        tmp_path / "parts",
        data=digits,
        settings=settings,
        context=resumed_context,
        supernet=fresh_supernet(seed=99, space=SMALL),
    )
    assert resumed_context.numbers == whole_context.numbers[AN_EPOCH:]
    assert_equal_bit_for_bit(whole, resumed)
    parts, expected = (
        load_checkpoint(finished_checkpoints(tmp_path / place / "checkpoints")[-1], expected={})
        for place in ("parts", "whole")
    )
    assert (parts.epoch, parts.step) == (2, 4)
    assert set(parts.optimizer) == set(expected.optimizer)
    assert all(torch.equal(tensor, expected.optimizer[name]) for name, tensor in parts.optimizer.items())


def test_dropout_is_repeated_too(tmp_path: Path, digits: DataSplits) -> None:
    space = one_stage(dropout=0.5)
    whole, resumed = WatchedContext(), WatchedContext()
    a = train(tmp_path / "a", data=digits, settings=TWO_EPOCHS, context=whole, supernet=fresh_supernet(space=space))
    with pytest.raises(KillError):
        train(
            tmp_path / "b",
            data=digits,
            settings=TWO_EPOCHS,
            context=WatchedContext(dies_in_epoch=2),
            supernet=fresh_supernet(space=space),
        )
    torch.rand(7)  # the process's own generator stands elsewhere now
    b = train(tmp_path / "b", data=digits, settings=TWO_EPOCHS, context=resumed, supernet=fresh_supernet(space=space))
    assert resumed.numbers == whole.numbers[AN_EPOCH:]
    assert_equal_bit_for_bit(a, b)
    without = WatchedContext()
    train(tmp_path / "c", data=digits, settings=TWO_EPOCHS, context=without)
    assert without.numbers != whole.numbers


def test_training_leaves_the_generator_of_the_process_alone(tmp_path: Path, digits: DataSplits) -> None:
    supernet = fresh_supernet(space=one_stage(dropout=0.5))
    before = torch.random.get_rng_state()
    train(tmp_path, data=digits, supernet=supernet)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_finished_training_is_not_repeated(tmp_path: Path, digits: DataSplits) -> None:
    trained = train(tmp_path, data=digits)
    history = (tmp_path / "history.jsonl").read_bytes()
    context = WatchedContext()
    again = train(tmp_path, data=digits, context=context, supernet=fresh_supernet(seed=99, space=SMALL))
    assert context.numbers == []
    assert context.epochs == 0
    assert_equal_bit_for_bit(trained, again)
    assert (tmp_path / "history.jsonl").read_bytes() == history


def test_the_running_statistics_of_the_supernet_stay_untouched(tmp_path: Path, digits: DataSplits) -> None:
    before = fresh_supernet(space=SMALL).state_dict()
    after = train(tmp_path, data=digits).state_dict()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("project.weight"))


def test_the_last_step_of_every_epoch_is_logged(tmp_path: Path, digits: DataSplits) -> None:
    context = WatchedContext()
    train(tmp_path, data=digits, settings=TWO_EPOCHS, context=context)
    rows = TrainHistory(tmp_path / "history.jsonl").rows()
    assert {2, 4} <= {row["step"] for row in rows}
    row = rows[-1]
    assert (row["step"], row["num_steps"], row["epoch"], row["phase"]) == (4, 4, 2, 1)
    names = ("loss", "loss_largest", "loss_smallest")
    assert [row[name] for name in names] == context.numbers[AN_EPOCH + A_STEP :][:3]
    assert (row["eta_seconds"], row["rollbacks"]) == (0.0, 0.0)
    assert row["images_per_second"] > 0


def test_the_log_has_numbers_alone(tmp_path: Path, digits: DataSplits) -> None:
    train(tmp_path, data=digits, settings=replace(ONE_EPOCH, validation_images=20))
    for row in TrainHistory(tmp_path / "history.jsonl").rows():
        assert all(isinstance(value, int | float) for value in row.values()), row


def test_rows_of_steps_that_are_repeated_are_forgotten(tmp_path: Path, digits: DataSplits) -> None:
    history = TrainHistory(tmp_path / "history.jsonl")
    with pytest.raises(KillError):
        train(tmp_path, data=digits, settings=TWO_EPOCHS, context=WatchedContext(dies_in_epoch=2))
    history.append({"step": 3, "loss": 0.0})
    train(tmp_path, data=digits, settings=TWO_EPOCHS)
    steps = [row["step"] for row in history.rows()]
    assert steps == sorted(set(steps))
    assert not any(row["loss"] == 0.0 for row in history.rows())


def test_rows_of_a_first_epoch_that_is_repeated_are_forgotten(tmp_path: Path, digits: DataSplits) -> None:
    history = TrainHistory(tmp_path / "history.jsonl")
    with pytest.raises(KillError):
        train(tmp_path, data=digits, context=WatchedContext(dies_in_epoch=1, after_numbers=A_STEP))
    assert history.rows()
    train(tmp_path, data=digits)
    steps = [row["step"] for row in history.rows()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tmp_path: Path, digits: DataSplits) -> None:
    supernet = fresh_supernet(space=SMALL)
    poison_gradients(supernet, when=lambda number: True)
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
    assert len(context.numbers) == AN_EPOCH
    assert_equal_bit_for_bit(whole, again)


def test_a_checkpoint_of_other_settings_is_refused_with_the_key(tmp_path: Path, digits: DataSplits) -> None:
    train(tmp_path, data=digits)
    with pytest.raises(CheckpointError, match=r"settings\.learning_rate=0\.05, this run has 0\.01"):
        train(tmp_path, data=digits, settings=replace(ONE_EPOCH, learning_rate=0.01))


def test_a_checkpoint_of_another_space_is_refused_with_both_names(tmp_path: Path, digits: DataSplits) -> None:
    train(tmp_path, data=digits)
    another = one_stage(kernels=(3, 7))
    with pytest.raises(CheckpointError, match=f"space_id='{SMALL.space_id}', this run has '{another.space_id}'"):
        train(tmp_path, data=digits, supernet=fresh_supernet(space=another))


def test_a_batch_larger_than_the_training_split_is_refused(tmp_path: Path, digits: DataSplits) -> None:
    with pytest.raises(TrainingError, match="a batch of 33 images does not fit 32 training images"):
        train(tmp_path, data=digits, settings=replace(ONE_EPOCH, batch_size=33))


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
    assert row["learning_rate"] == cosine_rate(3, peak=0.05, warmup_steps=1, num_steps=4)


def test_the_best_checkpoint_stays_and_the_newest_is_the_result(tmp_path: Path, digits: DataSplits) -> None:
    settings = replace(TWO_EPOCHS, epochs=6, validation_images=40)
    trained = train(tmp_path, data=digits, settings=settings)
    found = [load_checkpoint(path, expected={}) for path in finished_checkpoints(tmp_path / "checkpoints")]
    scores = {
        int(row["epoch"]): row["score"] for row in TrainHistory(tmp_path / "history.jsonl").rows() if "score" in row
    }
    assert set(scores) == set(range(1, 7))
    best = max(scores, key=lambda epoch: (scores[epoch], epoch))
    assert {checkpoint.epoch for checkpoint in found} == {5, 6, best}
    assert {checkpoint.epoch: checkpoint.details["score"] for checkpoint in found} == {
        checkpoint.epoch: scores[checkpoint.epoch] for checkpoint in found
    }
    newest = found[-1].weights
    assert all(torch.equal(tensor, newest[name]) for name, tensor in trained.state_dict().items())


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
    (phase,) = phases_of(SMALL, ONE_EPOCH)
    expected = [sandwich_subnets(SMALL, phase.opened, seed=0, step=step, num_random=1) for step in range(4)]
    assert first == second == [[arch.arch_id for arch in subnets] for subnets in expected]


def test_two_workers_have_equal_weights_after_training_and_only_because_of_averaging(two_workers: TwoWorkers) -> None:
    first, second = (found["averaged"] for found in two_workers[1])
    assert first["start"] == second["start"]
    assert first["end"] == second["end"] != first["start"]
    apart = [found["apart"]["end"] for found in two_workers[1]]
    assert apart[0] != apart[1]


def test_two_workers_have_equal_weights_after_all_phases(two_workers: TwoWorkers) -> None:
    first, second = (found["progressive"] for found in two_workers[1])
    assert first["subnets"] == second["subnets"]
    assert first["end"] == second["end"] != first["start"]


def test_a_gradient_that_is_no_number_on_one_worker_sends_both_back(two_workers: TwoWorkers) -> None:
    place, (first, second) = two_workers
    assert first["poisoned"]["end"] == second["poisoned"]["end"] != first["averaged"]["end"]
    assert first["poisoned"]["subnets"] == second["poisoned"]["subnets"]
    assert TrainHistory(place / "poisoned" / "history.jsonl").rows()[-1]["rollbacks"] == 1.0


def test_the_first_of_two_workers_writes_the_checkpoint_that_both_have(two_workers: TwoWorkers) -> None:
    place, found = two_workers
    checkpoint = load_checkpoint(finished_checkpoints(place / "averaged" / "checkpoints")[-1], expected={})
    supernet = fresh_supernet(space=SMALL)
    supernet.load_state_dict(dict(checkpoint.weights))
    assert weights_sha256(supernet) == found[0]["averaged"]["end"]
    assert len(TrainHistory(place / "averaged" / "history.jsonl").rows()) >= 1


def test_a_loss_that_is_no_number_on_one_worker_ends_both(two_workers: TwoWorkers) -> None:
    errors = [found["error"] for found in two_workers[1]]
    assert all("loss is nan at the very first step" in error for error in errors)
