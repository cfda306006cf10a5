"""Trainings of single architectures: schedule, choice of subnets, shared beginnings, work shared by processes."""

import dataclasses
import fcntl
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from experiments.benchmarks.standalone_training import AloneSettings, AloneTrainings, choose_subnets, rate_at
from experiments.benchmarks.supernet_vs_standalone import draw_scatter, kendall_interval
from experiments.datasets import load_dataset
from experiments.recipe_settings import DataSettings
from nas.data import DataSplits
from searchspaces import get_space
from tests.nas.tiny_run import SPACE

SETTINGS = AloneSettings(batch_size=64, learning_rate=0.05, lengths=(4, 8))


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_dataset(DataSettings(dataset="digits", search=400, verify=400, report=300), seed=0)


def trainings(directory: Path, data: DataSplits, settings: AloneSettings = SETTINGS) -> AloneTrainings:
    return AloneTrainings(directory, space=SPACE, data=data, settings=settings)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [rate_at(step, peak=2.0, warmup_steps=4, decay_from=12, num_steps=16) for step in range(16)]
    assert rates[:4] == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert rates[4:12] == [2.0] * 8
    assert rates[12:] == pytest.approx([1.6, 1.2, 0.8, 0.4])


def test_half_of_the_chosen_subnets_are_inside_the_band_and_differ() -> None:
    space = get_space("mbconv-small", resolutions=(16, 20, 24, 28))
    archs = choose_subnets(space, num=8, band=(0.8e6, 0.96e6), beside=(0.3e6, 2.3e6), seed=0)
    macs_N = space.op_table(space.genomes(archs)).macs.sum(axis=1)
    assert ((macs_N >= 0.8e6) & (macs_N <= 0.96e6)).tolist()[:4] == [True] * 4
    assert len(set(archs)) == 8
    np.testing.assert_allclose(macs_N[4:], np.geomspace(0.3e6, 2.3e6, 4), rtol=0.03)
    assert archs == choose_subnets(space, num=8, band=(0.8e6, 0.96e6), beside=(0.3e6, 2.3e6), seed=0)


def test_a_longer_training_goes_on_from_the_shorter_one_as_if_it_had_been_alone(
    tmp_path: Path, data: DataSplits
) -> None:
    arch = SPACE.smallest
    lines: list[str] = []
    shared = trainings(tmp_path / "shared", data)
    shared.work([arch], seeds=[0], least_gain=0.2, say=lines.append)
    assert len(lines) == 2
    found = shared.find(arch, seed=0, epochs=8)
    alone = trainings(tmp_path / "alone", data, dataclasses.replace(SETTINGS, lengths=(8,)))
    alone.work([arch], seeds=[0], least_gain=0.2, say=lines.append)
    expected = alone.find(arch, seed=0, epochs=8)
    assert found is not None
    assert expected is not None
    assert found.correct == expected.correct
    assert found.correct["search"] > 100  # of 400 in ten classes: it has learnt
    shorter = shared.find(arch, seed=0, epochs=4)
    assert shorter is not None
    gain = shared.mean_gain_points([arch], seeds=[0], index=1)
    assert gain == pytest.approx(100 * (found.correct["search"] - shorter.correct["search"]) / 400)

    lines.clear()
    shared.work([arch], seeds=[0], least_gain=0.2, say=lines.append)
    assert lines == []  # nothing is trained twice


def test_results_of_another_way_of_training_are_not_used(tmp_path: Path, data: DataSplits) -> None:
    settings = dataclasses.replace(SETTINGS, lengths=(4,))
    trainings(tmp_path, data, settings).work([SPACE.smallest], seeds=[0], least_gain=0.2, say=lambda text: None)
    for changed in (
        trainings(tmp_path, data, dataclasses.replace(settings, learning_rate=0.1)),
        trainings(tmp_path, dataclasses.replace(data, augmentation="none"), settings),
        trainings(tmp_path, dataclasses.replace(data, train=data.verify), settings),
    ):
        assert changed.find(SPACE.smallest, seed=0, epochs=4) is None
    assert trainings(tmp_path, data, settings).find(SPACE.smallest, seed=0, epochs=4) is not None


def test_what_another_process_trains_is_waited_for_and_taken_over_when_it_dies(
    tmp_path: Path, data: DataSplits
) -> None:
    lines: list[str] = []
    one = trainings(tmp_path, data, dataclasses.replace(SETTINGS, lengths=(4,)))
    with one._place(SPACE.smallest, "seed0.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def die() -> None:
            assert one.find(SPACE.smallest, seed=0, epochs=4) is None
            lines.append("waited")
            fcntl.flock(held, fcntl.LOCK_UN)

        one.work([SPACE.smallest], seeds=[0], least_gain=0.2, say=lines.append, wait=die)
    assert lines[0] == "waited"
    assert len(lines) == 2
    assert one.find(SPACE.smallest, seed=0, epochs=4) is not None


def test_a_length_that_gained_too_little_is_the_last(tmp_path: Path, data: DataSplits) -> None:
    lines: list[str] = []
    one = trainings(tmp_path, data, dataclasses.replace(SETTINGS, lengths=(4, 8, 12)))
    one.work([SPACE.smallest], seeds=[0], least_gain=100.0, say=lines.append)
    assert len(lines) == 2
    assert one.find(SPACE.smallest, seed=0, epochs=12) is None


def test_the_picture_shows_every_subnet() -> None:
    rng = np.random.default_rng(0)
    alone_SN, inherited_N = 0.9 + 0.02 * rng.random((2, 6)), 0.9 + 0.02 * rng.random(6)
    picture = ET.fromstring(draw_scatter(alone_SN, inherited_N=inherited_N, inside=2))  # noqa: S314  # our own text
    circles = picture.findall("{http://www.w3.org/2000/svg}circle")
    assert [circle.get("fill") == "white" for circle in circles] == [False] * 2 + [True] * 4


def test_the_interval_of_tau_holds_it_and_narrows_with_more_subnets() -> None:
    rng = np.random.default_rng(1)
    truth_N = rng.random(60)
    noisy_N = truth_N + 0.3 * rng.random(60)
    low, high = kendall_interval(noisy_N, truth_N)
    few_low, few_high = kendall_interval(noisy_N[:8], truth_N[:8])
    assert 0 < low < high < 1
    assert few_high - few_low > high - low
