"""A supernet on its own: written, read back, and refused when something does not fit."""

import json
from pathlib import Path

import pytest
import torch

from hardware.files import JSON, write_manifest
from nas.errors import CheckpointError, RunError
from nas.supernet_files import load_supernet, save_supernet
from nas.training.checkpoints import OPTIMIZER_FILE, WEIGHTS_FILE, load_checkpoint
from searchspaces import get_space
from searchspaces.elastic.supernet import Supernet

SETTINGS: dict[str, JSON] = {"resolutions": [16, 20], "width": 0.5}


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(3)
    return get_space("mbconv-small", **SETTINGS).build_supernet(num_classes=4)


def save(supernet: Supernet, directory: Path) -> None:
    save_supernet(directory, supernet, space="mbconv-small", space_settings=SETTINGS, provenance={"origin": "a test"})


def rewrite_details(directory: Path, **changes: JSON) -> None:
    details = json.loads((directory / "manifest.json").read_text())["details"]
    write_manifest(directory, files=[WEIGHTS_FILE, OPTIMIZER_FILE], details={**details, **changes})


def test_a_saved_supernet_is_read_back_with_its_space_settings_and_answers_the_same(
    supernet: Supernet, tmp_path: Path
) -> None:
    save(supernet, tmp_path / "new" / "directory")
    loaded = load_supernet(tmp_path / "new" / "directory")
    assert loaded.space.space_id == supernet.space.space_id
    assert loaded.num_classes == 4
    assert not loaded.training
    image_NCHW = torch.rand(2, *loaded.space.input_shape(loaded.space.largest))
    arch = loaded.space.largest
    with torch.no_grad():
        assert torch.equal(loaded(image_NCHW, arch), supernet.eval()(image_NCHW, arch))


def test_the_directory_is_a_checkpoint_after_no_epoch_that_tells_its_origin(supernet: Supernet, tmp_path: Path) -> None:
    save(supernet, tmp_path)
    checkpoint = load_checkpoint(tmp_path, expected={"space_id": supernet.space.space_id})
    assert (checkpoint.epoch, checkpoint.step) == (0, 0)
    assert checkpoint.details["provenance"] == {"origin": "a test"}
    assert checkpoint.details["space_settings"] == SETTINGS


def test_a_directory_in_use_is_refused_and_left_alone(supernet: Supernet, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="is not empty"):
        save(supernet, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(RunError, match="is a file"):
        save(supernet, tmp_path / "mine.txt")


def test_missing_and_damaged_files_are_named(supernet: Supernet, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone") as error:
        load_supernet(tmp_path / "gone")
    assert "import-ofa" in error.value.hint
    save(supernet, tmp_path / "here")
    weights = tmp_path / "here" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_supernet(tmp_path / "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": None}, "does not say which space"),
        ({"num_classes": "4"}, "does not say which space"),
        ({"space": "no-such-space"}, "do not fit space 'no-such-space'"),
        ({"space_settings": {"width": 1.0}}, "do not fit space 'mbconv-small'"),
        ({"num_classes": 5}, "do not fit space 'mbconv-small'"),
        ({"space_id": "mbconv-small-of-yesterday"}, "is of space 'mbconv-small-of-yesterday'"),
    ],
)
def test_weights_of_another_space_are_refused(
    changes: dict[str, JSON], message: str, supernet: Supernet, tmp_path: Path
) -> None:
    save(supernet, tmp_path)
    rewrite_details(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_supernet(tmp_path)
