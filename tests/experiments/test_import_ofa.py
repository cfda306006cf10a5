"""Importing a published checkpoint into a supernet directory."""

import hashlib
from pathlib import Path

import pytest
import torch

from experiments.import_ofa import import_ofa
from nas.errors import RunError
from nas.training.checkpoints import load_checkpoint
from searchspaces import SpaceError, get_space
from searchspaces.ofa_keys import ofa_keys

SPACE = "ofa-mobilenetv3-w1.0"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the published layout, with 10 classes and one counter of seen batches."""
    torch.manual_seed(5)
    state = get_space(SPACE).build_supernet(num_classes=10).state_dict()
    found = {theirs: state[ours] for ours, theirs in ofa_keys(state, space_id=SPACE).items()}
    found["first_conv.bn.num_batches_tracked"] = torch.tensor(1)
    path = tmp_path_factory.mktemp("published") / "ofa_net"
    torch.save({"state_dict": found}, path)
    return path


def test_an_imported_checkpoint_becomes_a_supernet_directory_that_tells_its_source(
    checkpoint: Path, tmp_path: Path
) -> None:
    imported = import_ofa(checkpoint, space=SPACE, out=tmp_path / "out")
    written = load_checkpoint(imported.directory, expected={"space": SPACE, "space_settings": {}})
    state, details = written.weights, written.details
    get_space(SPACE).build_supernet(num_classes=10).load_state_dict(dict(state))
    assert imported.space_id == details["space_id"] == SPACE
    assert imported.num_classes == details["num_classes"] == 10
    assert imported.num_tensors == len(state)
    assert imported.num_elements == sum(tensor.numel() for tensor in state.values())
    assert imported.ignored_keys == ("first_conv.bn.num_batches_tracked",)
    published = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(state[ours], published[theirs]) for ours, theirs in ofa_keys(state, space_id=SPACE).items())
    assert details["provenance"] == {
        "origin": "imported from a once-for-all checkpoint",
        "file": "ofa_net",
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }


def test_a_checkpoint_of_data_parallel_is_imported_and_says_so(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.save({f"module.{key}": tensor for key, tensor in found.items()}, tmp_path / "wrapped")
    assert import_ofa(tmp_path / "wrapped", space=SPACE, out=tmp_path / "out").num_classes == 10
    assert "begin with 'module.'" in caplog.text


def test_a_file_that_does_not_fit_leaves_no_directory(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="first_conv") as error:
        import_ofa(checkpoint, space="ofa-mobilenetv3-w1.2", out=tmp_path / "out")
    assert SPACE in error.value.hint
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_whose_training_went_wrong_leaves_no_directory(checkpoint: Path, tmp_path: Path) -> None:
    found = torch.load(checkpoint, weights_only=True)["state_dict"]
    found["classifier.linear.bias"][3] = torch.nan
    torch.save(found, tmp_path / "broken")
    with pytest.raises(SpaceError, match=r"not finite .*classifier\.linear\.bias"):
        import_ofa(tmp_path / "broken", space=SPACE, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="not empty"):
        import_ofa(tmp_path / "no such file", space=SPACE, out=tmp_path)
