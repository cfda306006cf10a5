"""Starting from another supernet: what fits, what is refused, what is remembered."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hardware.files import read_manifest
from nas.data import DataSplits
from nas.errors import CheckpointError
from nas.run import create_run
from nas.supernet_files import save_supernet
from nas.training.checkpoints import Checkpoint, save_checkpoint
from nas.training.history import TrainHistory
from nas.training.starting import check_start, start_from, start_sha256
from searchspaces import get_space
from searchspaces.elastic.supernet import Supernet
from tests.nas.training.tiny_training import ONE_EPOCH, PROGRESSIVE, few_digits, train

SETTINGS: dict[str, Any] = {"width": 0.25, "resolutions": [8, 12], "stem_stride": 1, "stages": [
    {"channels": 16, "stride": 2, "depths": [1, 2], "kernels": [3, 5], "expands": [1, 2]}]}  # fmt: skip
SPACE = get_space("mbconv-small", **SETTINGS)


def supernet(*, classes: int = 10, seed: int = 0) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SPACE.build_supernet(num_classes=classes)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """Somebody's supernet of 5 classes."""
    directory = tmp_path / "imported"
    save_supernet(directory, supernet(classes=5, seed=7), space="mbconv-small", space_settings=SETTINGS, provenance={})
    return directory


def tampered(directory: Path, change: Callable[[dict[str, torch.Tensor]], object], *, weights_id: str) -> Path:
    """A supernet directory whose tensors were changed before they were written."""
    weights = dict(supernet(classes=5).state_dict())
    change(weights)
    checkpoint = Checkpoint(epoch=0, step=0, weights=weights, optimizer={}, details={"weights_id": weights_id})
    return save_checkpoint(directory, checkpoint)


def test_all_tensors_are_copied_and_a_classifier_of_other_classes_stays_fresh(imported: Path) -> None:
    check_start(imported, SPACE)
    mine, theirs, fresh = supernet(), supernet(classes=5, seed=7).state_dict(), supernet().state_dict()
    start_from(mine, imported)
    for name, tensor in mine.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.startswith("classifier") else theirs[name]), name


def test_a_classifier_of_as_many_classes_is_copied_too(imported: Path) -> None:
    mine, theirs = supernet(classes=5), supernet(classes=5, seed=7).state_dict()
    start_from(mine, imported)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.state_dict().items())


def test_a_checkpoint_of_a_run_is_a_start_too(tmp_path: Path) -> None:
    source = supernet(seed=7)
    train(tmp_path, data=few_digits(), supernet=source)
    mine = supernet()
    start_from(mine, tmp_path / "checkpoints" / "epoch-0001")
    found = mine.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"width": 1.0}, r": tensor 'stages\.0\.0\.project\.weight' is \(8, 16, 1, 1\), expected \(16, 16, 1, 1\)$"),
        ({"in_channels": 3}, r": tensor 'stem\.conv\.weight' is \(8, 1, 3, 3\), expected \(8, 3, 3, 3\)$"),
        ({"stem_stride": 2}, "$"),  # the same tensors for another network
    ],
)
def test_another_space_is_refused_with_both_names_and_the_first_tensor(
    imported: Path, change: dict[str, Any], difference: str
) -> None:
    other = get_space("mbconv-small", **{**SETTINGS, **change})
    names = f"is of space '{SPACE.space_id}', this run has '{other.space_id}'"
    with pytest.raises(CheckpointError, match=names + difference) as caught:
        check_start(imported, other)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("stem.conv.weight"), r"'stem\.conv\.weight' is missing, expected \(8, 1, 3, 3\)"),
        (lambda weights: weights.update(extra=torch.zeros(2)), r"tensor 'extra' is \(2\), expected none"),
        (
            lambda weights: weights.update({"stem.conv.weight": torch.zeros(8, 3, 3, 3)}),
            r"'stem\.conv\.weight' is \(8, 3, 3, 3\), expected \(8, 1, 3, 3\)",
        ),
        (
            lambda weights: weights.update({"classifier.layer.weight": torch.zeros(5, 7)}),
            r"'classifier\.layer\.weight' is \(5, 7\), expected \(classes, \d+\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_the_first_one(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_start(tampered(tmp_path, change, weights_id=SPACE.weights_id), SPACE)


def test_a_space_of_other_input_sizes_has_the_same_weights(imported: Path) -> None:
    other = get_space("mbconv-small", **{**SETTINGS, "resolutions": [24, 32]})
    assert other.space_id != SPACE.space_id
    check_start(imported, other)


def test_a_directory_that_is_no_supernet_is_refused(tmp_path: Path, imported: Path) -> None:
    for call in (lambda: check_start(tmp_path / "nowhere", SPACE), lambda: start_sha256(tmp_path / "nowhere")):
        with pytest.raises(CheckpointError, match=r"cannot start from .*nowhere: it does not exist"):
            call()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"it has no manifest\.json"):
        check_start(tmp_path / "empty", SPACE)
    weights = imported / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged"):
        check_start(imported, SPACE)


def test_a_file_leads_to_the_import(tmp_path: Path) -> None:
    (tmp_path / "ofa").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match="ofa: it is a file") as caught:
        check_start(tmp_path / "ofa", SPACE)
    assert f"nas import-ofa {tmp_path / 'ofa'} --space" in caught.value.hint


def test_a_run_directory_leads_to_its_newest_checkpoint(tmp_path: Path) -> None:
    run = create_run(
        tmp_path / "run",
        name="other",
        recipe_text="",
        recipe_sha256="",
        space="mbconv-small",
        space_settings=SETTINGS,
        num_classes=10,
        device_id="onnxruntime-cpu",
    )
    with pytest.raises(CheckpointError, match="is a run directory without a checkpoint") as caught:
        start_sha256(run.path)
    assert caught.value.hint == f"nas train {run.path}"
    train(run.train_dir, data=few_digits(), supernet=supernet())
    with pytest.raises(CheckpointError, match="it is a run directory") as caught:
        start_sha256(run.path)
    named = Path(caught.value.hint.removeprefix("name its newest checkpoint: "))
    check_start(named, SPACE)
    assert named.name == "epoch-0001"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_with_their_name(tmp_path: Path, value: float) -> None:
    directory = tampered(
        tmp_path, lambda weights: weights["stem.conv.weight"].view(-1)[5:6].fill_(value), weights_id=SPACE.weights_id
    )
    mine, fresh = supernet(), supernet().state_dict()
    named = r"tensor 'stem\.conv\.weight' has values that are no numbers"
    with pytest.raises(CheckpointError, match=named):
        check_start(directory, SPACE)
    with pytest.raises(CheckpointError, match=named):
        start_from(mine, directory)
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in mine.state_dict().items())


def test_the_checksum_is_that_of_the_weights(imported: Path) -> None:
    assert start_sha256(imported) == read_manifest(imported).files["weights.safetensors"].sha256


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return few_digits()


@pytest.mark.parametrize("method", ["sandwich", "progressive"])
def test_training_from_a_supernet_first_tunes_its_largest_network(
    tmp_path: Path, imported: Path, digits: DataSplits, method: str
) -> None:
    mine = supernet()
    start_from(mine, imported)
    settings = replace(PROGRESSIVE, method=method, start_sha256=start_sha256(imported))
    train(tmp_path / "run", data=digits, settings=settings, supernet=mine)
    rows = TrainHistory(tmp_path / "run" / "history.jsonl").rows()
    assert {row["phase"] for row in rows} == {1, 2} if method == "sandwich" else {1, 2, 3, 4}
    assert max(row["learning_rate"] for row in rows if row["phase"] == 1) <= 0.05 / 4


def test_other_weights_at_the_start_are_noticed(tmp_path: Path, digits: DataSplits) -> None:
    settings = replace(ONE_EPOCH, epochs=2, start_sha256="a" * 64)
    train(tmp_path, data=digits, settings=settings)
    with pytest.raises(CheckpointError, match=r"settings\.start_sha256='a{64}', this run has 'b{64}'"):
        train(tmp_path, data=digits, settings=replace(settings, start_sha256="b" * 64))
