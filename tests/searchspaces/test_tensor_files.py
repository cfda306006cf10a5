"""Files of torch.save are read without running code, and every other file is called what it is."""

import io
import pickle  # noqa: TID251 - makes the files that must be refused
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from searchspaces import SpaceError
from searchspaces.tensor_files import load_tensor_file
from tests.searchspaces.hostile import Hostile


def refusal(path: Path) -> str:
    """The whole text of the error that a file ends in, without warnings before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SpaceError) as error:
            load_tensor_file(path)
    text = f"{error.value} {error.value.hint}"
    assert "weights_only" not in text
    assert "\\x1b" not in repr(text)
    return text


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])
def test_tensors_are_read(zipped: bool, tmp_path: Path) -> None:
    x, names = torch.arange(5), ["a", "b"]
    torch.save({"x": x, "names": names}, tmp_path / "file.pt", _use_new_zipfile_serialization=zipped)
    found = load_tensor_file(tmp_path / "file.pt")
    assert isinstance(found, dict)
    assert torch.equal(found["x"], x)
    assert found["names"] == names


@pytest.mark.parametrize("protocol", [None, *range(pickle.HIGHEST_PROTOCOL + 1)])
def test_a_pickle_with_code_is_refused_whatever_its_protocol(protocol: int | None, tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "file.pt"
    with path.open("wb") as stream:
        pickle.dump(Hostile(target), stream, protocol=protocol)
    text = refusal(path)
    assert "code" in text
    assert "refused" in text
    assert "cut short" not in text
    assert not target.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])
def test_code_among_tensors_is_refused(zipped: bool, protocol: int, tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "file.pt"
    content = {"x": torch.zeros(3), "y": Hostile(target)}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert "code" in refusal(path)
    assert not target.exists()


def test_other_pickles_are_refused_as_such(tmp_path: Path) -> None:
    for content in ({"x": 1}, np.zeros(3), [1, 2]):
        for protocol in (2, 4):
            path = tmp_path / "file.pt"
            path.write_bytes(pickle.dumps(content, protocol=protocol))
            text = refusal(path)
            assert "refused" in text
            assert "code" in text


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])
def test_a_file_cut_anywhere_is_called_cut_short(zipped: bool, tmp_path: Path) -> None:
    buffer, path = io.BytesIO(), tmp_path / "file.pt"
    torch.save({"x": torch.zeros(40)}, buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    for length in (2, 9, 14, 20, *range(50, len(whole) - 1, 53), len(whole) - 1):
        path.write_bytes(whole[:length])
        text = refusal(path)
        # A cut through the name of a class leaves another name.
        assert "is cut short" in text or ("contains code (t" in text and not zipped and length < len(whole) / 2)


def test_an_archive_of_something_else_is_no_pytorch_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.pt", x=np.zeros(3))
    (tmp_path / "file.pt.npz").rename(tmp_path / "file.pt")
    assert "no PyTorch file" in refusal(tmp_path / "file.pt")
    (tmp_path / "file.pt").write_text("<html>404</html>")
    assert "no PyTorch file" in refusal(tmp_path / "file.pt")


def test_empty_and_missing_files_and_directories_are_told(tmp_path: Path) -> None:
    (tmp_path / "file.pt").touch()
    assert "is empty" in refusal(tmp_path / "file.pt")
    assert "No such file" in refusal(tmp_path / "gone.pt")
    assert "Is a directory" in refusal(tmp_path)
