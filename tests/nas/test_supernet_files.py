"""A supernet on its own: written, read back, and refused when something does not fit."""

from pathlib import Path

import pytest
import torch

from hardware.files import JSON
from nas.errors import RunError
from nas.supernet_files import save_supernet
from nas.training.checkpoints import load_checkpoint
from searchspaces import get_space
from searchspaces.elastic.supernet import Supernet

SETTINGS: dict[str, JSON] = {"resolutions": [16, 20], "width": 0.5}


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(3)
    return get_space("mbconv-small", **SETTINGS).build_supernet(num_classes=4)


def save(supernet: Supernet, directory: Path) -> None:
    save_supernet(directory, supernet, space="mbconv-small", space_settings=SETTINGS, provenance={"origin": "a test"})


def test_a_saved_supernet_is_read_back_with_its_space_settings_and_answers_the_same(
    supernet: Supernet, tmp_path: Path
) -> None:
    save(supernet, tmp_path / "new" / "directory")
    checkpoint = load_checkpoint(tmp_path / "new" / "directory", expected={"space": "mbconv-small", "num_classes": 4})
    loaded = get_space("mbconv-small", **SETTINGS).build_supernet(num_classes=4).eval()
    loaded.load_state_dict(dict(checkpoint.weights))
    assert checkpoint.details["space_id"] == loaded.space.space_id == supernet.space.space_id
    assert checkpoint.details["weights_id"] == supernet.space.weights_id
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
