"""Own data in a session: a run remembers the data that it began with; they may move, not change."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from experiments.errors import DataError
from experiments.recipe import Recipe, load_recipe
from experiments.session import open_session

OWN = """
name: own
data: {{dataset: numpy, path: {path}, layout: NHW, metric: balanced-accuracy, search: 300, verify: 300, report: 300}}
space: {{name: mbconv-small, settings: {{resolutions: [16], width: 0.5}}}}
"""


def save(path: Path, images_NHW: NDArray[np.float64], labels_N: NDArray[np.int64]) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, x=images_NHW.astype(np.uint8), y=labels_N)
    return path


def recipe_of(path: Path) -> Recipe:
    recipe = path.with_suffix(".yaml")
    recipe.write_text(OWN.format(path=path), encoding="utf-8")
    return load_recipe(recipe)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    bunch = load_digits()
    return save(tmp_path / "data" / "own.npz", bunch.images, bunch.target)


def test_a_run_goes_on_when_its_data_have_moved(own: Path, tmp_path: Path) -> None:
    first = open_session(recipe_of(own), tmp_path / "run").workload.data
    assert (first.metric, first.native_shape, len(first.train)) == ("balanced-accuracy", (1, 8, 8), 897)
    moved = tmp_path / "elsewhere" / "own.npz"
    moved.parent.mkdir()
    own.rename(moved)
    again = open_session(recipe_of(moved), tmp_path / "run").workload.data
    assert again.source_sha256 == first.source_sha256
    assert str(moved) in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["pixel", "label", "order"])
def test_a_run_does_not_go_on_with_other_data(own: Path, tmp_path: Path, change: str) -> None:
    open_session(recipe_of(own), tmp_path / "run")
    bunch = load_digits()
    images_NHW, labels_N = bunch.images.copy(), bunch.target.copy()
    match change:
        case "pixel":
            images_NHW[700, 3, 3] += 1
        case "label":
            labels_N[700] = (labels_N[700] + 1) % 10
        case "order":
            images_NHW, labels_N = images_NHW[::-1], labels_N[::-1]
    save(own, images_NHW, labels_N)
    with pytest.raises(DataError, match=r"has changed since run .* began") as caught:
        open_session(recipe_of(own), tmp_path / "run")
    assert "--run-dir" in caught.value.hint


def test_data_that_make_no_sense_leave_no_run_behind(own: Path, tmp_path: Path) -> None:
    bunch = load_digits()
    save(own, bunch.images, bunch.target + 1)
    with pytest.raises(DataError, match="no image of 0: an empty class"):
        open_session(recipe_of(own), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
