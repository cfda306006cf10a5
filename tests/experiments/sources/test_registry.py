"""Sources are found by name, and the recipe's data section is checked against the one it names."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from experiments.errors import DataError
from experiments.recipe_settings import DataSettings
from experiments.sources.registry import get_source, list_sources
from experiments.sources.source import require_memory

SPLITS: dict[str, object] = {"search": 20, "verify": 20, "report": 20}


def test_every_source_is_found_under_its_name() -> None:
    assert {"digits", "fashion-mnist", "image-folder", "numpy", "torch"} <= set(list_sources())
    for name in list_sources():
        source = get_source(name)
        assert source.name == name
        assert {*source.needs, *source.takes} <= set(DataSettings.model_fields)


def test_an_unknown_source_is_refused_with_the_nearest_and_the_known_ones() -> None:
    with pytest.raises(DataError, match="unknown data set 'image-foldr'") as caught:
        get_source("image-foldr")
    assert "did you mean 'image-folder'?" in caught.value.hint
    assert "digits" in caught.value.hint


def test_a_recipe_is_checked_without_torch() -> None:
    script = "import sys, experiments.recipe_settings as s; s.get_source('torch'); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "cifar"}, "dataset: unknown data set 'cifar'"),
        ({"dataset": "image-folder"}, "path: got null, but data set image-folder needs it"),
        ({"dataset": "digits", "image_size": 8}, "image_size: got 8, but data set digits has no use for it"),
        ({"dataset": "numpy", "path": "/x", "subset": "a"}, "subset: got 'a', but data set numpy has no use for it"),
        ({"dataset": "digits", "report": "official"}, "digits has no test set of its own"),
        ({"dataset": "digits", "metric": "top5"}, "'top1', 'balanced-accuracy' or 'macro-f1'"),
        ({"dataset": "image-folder", "path": "/x", "channels": 2}, "channels"),
        ({"dataset": "numpy", "path": "/x", "layout": "HWC"}, "layout"),
    ],
)
def test_a_data_section_that_does_not_fit_its_source_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataSettings.model_validate(SPLITS | changes)
    assert words in str(caught.value)


def test_a_path_becomes_absolute_and_an_import_path_stays(tmp_path: object) -> None:
    places = {
        place: DataSettings.model_validate({**SPLITS, "dataset": "torch", "path": place}).path
        for place in ("data/x.pt", "my.module:make")
    }
    assert str(places["data/x.pt"]).startswith("/")
    assert str(places["data/x.pt"]).endswith("/data/x.pt")
    assert places["my.module:make"] == "my.module:make"


def test_data_larger_than_the_memory_are_refused() -> None:
    require_memory(1000, what="a thousand bytes", hint="-")
    with pytest.raises(DataError, match=r"the images take 1048576\.0 GiB of memory, and as much again") as caught:
        require_memory(2**50, what="the images", hint="use fewer")
    assert caught.value.hint == "use fewer"
