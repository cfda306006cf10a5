"""Checkpoints: written whole, pruned, damaged, foreign."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardware.errors import StorageError
from hardware.files import JSON
from nas.errors import CheckpointError
from nas.training.checkpoints import Checkpoint, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from nas.training.finished import OPTIMIZER_FILE, WEIGHTS_FILE, best_checkpoint, finished_checkpoints

DETAILS: Mapping[str, JSON] = {"space_id": "tiny", "settings": {"epochs": 3, "learning_rate": 0.1, "stages": [1, 2]}}


def make_checkpoint(epoch: int = 1) -> Checkpoint:
    torch.manual_seed(epoch)
    # a buffer of integers, a scalar, and a weight that does not lie contiguously in memory
    weights = {
        "conv": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "view": torch.randn(6, 4).t(),
    }
    return Checkpoint(
        epoch=epoch, step=10 * epoch, weights=weights, optimizer={"conv": torch.randn(4, 3, 5, 5)}, details=DETAILS
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = make_checkpoint()
    path = save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(path, expected=DETAILS)
    assert (loaded.epoch, loaded.step) == (1, 10)
    for before, after in ((saved.weights, loaded.weights), (saved.optimizer, loaded.optimizer)):
        assert set(before) == set(after)
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        assert all(tensor.dtype == after[name].dtype for name, tensor in before.items())


def test_an_empty_optimizer_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, replace(make_checkpoint(), optimizer={}))
    assert load_checkpoint(path, expected={}).optimizer == {}


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, make_checkpoint(epoch))
        assert names(tmp_path) == [f"epoch-{n:04d}" for n in range(max(1, epoch - 1), epoch + 1)]
    assert [load_checkpoint(path, expected={}).epoch for path in finished_checkpoints(tmp_path)] == [3, 4]


def test_another_number_can_be_kept(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        save_checkpoint(tmp_path, make_checkpoint(epoch), keep=3)
    assert names(tmp_path) == ["epoch-0003", "epoch-0004", "epoch-0005"]


def scored(epoch: int, score: float | None, *, final_phase: bool = True) -> Checkpoint:
    return replace(make_checkpoint(epoch), details={**DETAILS, "score": score, "final_phase": final_phase})


def test_the_best_one_is_kept_beside_the_newest(tmp_path: Path) -> None:
    kept = []
    for epoch, score in enumerate([0.5, 0.8, 0.6, 0.8, 0.7, 0.7, 0.9, 0.1, 0.2], start=1):
        save_checkpoint(tmp_path, scored(epoch, score))
        kept.append([int(name[-4:]) for name in names(tmp_path)])
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5, 6], [6, 7], [7, 8], [7, 8, 9]]
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert best.name == "epoch-0007"


def test_scores_before_the_final_phase_do_not_count(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, scored(epoch, 1.0 - epoch / 10, final_phase=epoch > 3))
    assert names(tmp_path) == ["epoch-0003", "epoch-0004"]
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert best.name == "epoch-0004"


def test_without_scores_there_is_no_best(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path / "nowhere") is None
    save_checkpoint(tmp_path, make_checkpoint(1))
    save_checkpoint(tmp_path, scored(2, None))
    assert best_checkpoint(tmp_path) is None


def test_weights_that_training_goes_on_with_come_back_too(tmp_path: Path) -> None:
    raw = {"conv": torch.randn(4, 3, 5, 5)}
    path = save_checkpoint(tmp_path, replace(make_checkpoint(), raw=raw))
    assert torch.equal(load_checkpoint(path, expected={}).raw["conv"], raw["conv"])
    assert not load_checkpoint(save_checkpoint(tmp_path, make_checkpoint(2)), expected={}).raw
    (path / "raw.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"raw\.safetensors is damaged"):
        load_checkpoint(path, expected={})


def test_a_checkpoint_that_is_written_again_is_not_finished_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, make_checkpoint(1))

    def full_disk(path: Path, data: bytes) -> None:
        raise StorageError(f"cannot write {path}", hint="free some space")

    monkeypatch.setattr("nas.training.checkpoints.write_bytes", full_disk)
    with pytest.raises(StorageError):
        save_checkpoint(tmp_path, make_checkpoint(1))
    assert finished_checkpoints(tmp_path) == []


def test_epoch_ten_thousand_comes_after_the_one_before(tmp_path: Path) -> None:
    for epoch in (9_999, 10_000, 10_001):
        save_checkpoint(tmp_path, make_checkpoint(epoch))
    assert [path.name for path in finished_checkpoints(tmp_path)] == ["epoch-10000", "epoch-10001"]


def test_a_half_written_checkpoint_is_ignored_and_written_over(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, make_checkpoint(1))
    half = tmp_path / "epoch-0002"
    half.mkdir()
    (half / WEIGHTS_FILE).write_bytes(b"half")
    (half / ".tmp-0123-weights.safetensors").write_bytes(b"less")
    assert finished_checkpoints(tmp_path) == [first]
    second = save_checkpoint(tmp_path, make_checkpoint(2))
    assert finished_checkpoints(tmp_path) == [first, second]
    assert load_checkpoint(second, expected={}).step == 20


def test_a_directory_that_does_not_exist_has_no_checkpoints(tmp_path: Path) -> None:
    assert finished_checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", [WEIGHTS_FILE, OPTIMIZER_FILE])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, name: str, damage: str) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint())
    content = bytearray((path / name).read_bytes())
    if damage == "cut":
        (path / name).write_bytes(content[:-3])
    elif damage == "flipped":
        content[-1] ^= 255
        (path / name).write_bytes(content)
    else:
        (path / name).unlink()
    with pytest.raises(CheckpointError, match=str(path / name)) as caught:
        load_checkpoint(path, expected=DETAILS)
    assert f"delete {path}" in caught.value.hint


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint())
    (path / "manifest.json").write_text('{"schema": 1')
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        load_checkpoint(path, expected=DETAILS)


def test_a_checkpoint_of_another_space_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint())
    with pytest.raises(CheckpointError, match="space_id='tiny', this run has 'large'") as caught:
        load_checkpoint(path, expected={**DETAILS, "space_id": "large"})
    assert "--run-dir" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 3, "learning_rate": 0.2, "stages": [1, 2]}, r"settings\.learning_rate=0\.1, this run has 0\.2"),
        ({"epochs": 3, "learning_rate": 0.1, "stages": [1, 3]}, r"settings\.stages=\[1, 2\], this run has \[1, 3\]"),
        ({"epochs": 3, "learning_rate": 0.1}, r"settings\.stages=\[1, 2\], this run has None"),
        (
            {"epochs": 3, "learning_rate": 0.1, "stages": [1, 2], "seed": 1},
            r"settings\.seed=None, this run has 1",
        ),
        ("none", r"settings=\{.*\}, this run has 'none'"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_key(tmp_path: Path, settings: JSON, message: str) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, expected={"space_id": "tiny", "settings": settings})


def test_settings_agree_whether_they_are_tuples_or_lists(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint())
    load_checkpoint(path, expected={"settings": {"epochs": 3, "learning_rate": 0.1, "stages": (1, 2)}})


def test_a_missing_position_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, replace(make_checkpoint(), details={"step": "ten"}))
    with pytest.raises(CheckpointError, match="step='ten', expected an integer"):
        load_checkpoint(path, expected={})


def test_tensors_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04pickled evil")
    for path in (tmp_path / "weights.safetensors", tmp_path / "missing.safetensors"):
        with pytest.raises(CheckpointError, match=f"cannot read the weights {path}"):
            load_tensors(path)


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"weights\.safetensors") as caught:
        save_tensors(tmp_path / "file" / "weights.safetensors", {"a": torch.zeros(1)})
    assert caught.value.hint
