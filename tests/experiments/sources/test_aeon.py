"""Time series out of the aeon package; the tests that read them are skipped where it is not installed."""

import sys

import numpy as np
import pytest

from experiments.datasets import load_dataset, locate_dataset
from experiments.errors import DataError
from experiments.recipe_settings import DataSettings


def settings(subset: str, *, search: int = 20, verify: int = 20) -> DataSettings:
    return DataSettings(
        dataset="aeon", subset=subset, search=search, verify=verify, report="official", metric="macro-f1"
    )


def test_without_aeon_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aeon", None)
    for look in (locate_dataset, lambda wanted: load_dataset(wanted, seed=0)):
        with pytest.raises(DataError, match="needs the package aeon") as refusal:
            look(settings("OSULeaf"))
        assert "archsmith[sensor]" in refusal.value.hint


class TestInstalled:
    @pytest.fixture(autouse=True)
    def aeon(self) -> None:
        pytest.importorskip("aeon")

    def test_the_official_parts_are_kept(self) -> None:
        data = load_dataset(settings("ItalyPowerDemand"), seed=0)
        assert (len(data.train), len(data.search), len(data.verify), len(data.report)) == (27, 20, 20, 1029)
        assert data.report.part == "test"
        assert {data.train.part, data.search.part, data.verify.part} == {"train"}
        assert data.native_shape == (1, 24)
        assert data.class_names == ("1", "2")
        assert data.augmentation == "jitter-scale"

    def test_series_of_different_lengths_come_in_the_edition_of_one_length(self) -> None:
        data = load_dataset(settings("JapaneseVowels"), seed=0)
        assert data.native_shape == (12, 25)
        assert data.num_classes == 9
        assert np.bincount(data.report.labels_N.numpy()).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]

    def test_channels_and_named_classes_are_read(self) -> None:
        data = load_dataset(settings("BasicMotions", search=8, verify=8), seed=0)
        assert data.native_shape == (6, 100)
        assert data.class_names == ("badminton", "running", "standing", "walking")

    def test_the_first_values_are_those_of_the_file(self) -> None:
        data = load_dataset(settings("JapaneseVowels"), seed=0)
        # the first line of JapaneseVowels_eq_TEST.ts
        expected = [1.635533, 1.600043, 1.511232]
        assert data.report.inputs[0, 0, :3].tolist() == pytest.approx(expected, abs=1e-6)
        assert int(data.report.labels_N[0]) == 0

    def test_an_unknown_problem_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(DataError, match="'OsuLeaf'") as refusal:
            locate_dataset(settings("OsuLeaf"))
        for name in ("JapaneseVowels", "OSULeaf", "ItalyPowerDemand", "GunPoint"):
            assert name in refusal.value.hint

    def test_what_is_no_classification_problem_is_not_offered(self) -> None:
        for name in ("Covid3Month", "CardanoSentiment", "Airline", "UnitTestTimeStamps"):
            with pytest.raises(DataError, match=name):
                locate_dataset(settings(name))
