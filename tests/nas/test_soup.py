"""Model soups: what is averaged, and when the mean is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hardware.files import write_json
from nas.accuracy import Accuracy
from nas.candidate_store import CandidateStore
from nas.data import DataSplits
from nas.errors import CheckpointError
from nas.evaluation import SubnetJudge
from nas.refine import Refined
from nas.soup import SOUP_FILE, average, copy_dir, copy_settings, make_soup, read_soup
from tests.nas.tiny_run import NUM_CLASSES, REFINE, SPACE, TinyRun, fresh_supernet, make_judge

ARCH = SPACE.smallest
SHAPE = SPACE.input_shape(ARCH)


class ByBias(SubnetJudge):
    """Scores a network by its classifier's first bias, as a list says; recalibrates as others do."""

    values: dict[float, float]

    def score_network(self, network: nn.Module, *, shape: tuple[int, ...]) -> Accuracy:
        assert shape == SHAPE
        return accuracy(self.values[round(float(bias(network)[0]), 3)])


def bias(network: nn.Module) -> torch.Tensor:
    return list(network.parameters())[-1].detach()


def accuracy(value: float) -> Accuracy:
    return Accuracy(metric="top1", value=value, interval=(value, value), num_correct=int(100 * value), num_images=100)


@pytest.fixture
def store(tmp_path: Path) -> CandidateStore:
    return CandidateStore(tmp_path / "candidates", space=SPACE, num_classes=NUM_CLASSES)


@pytest.fixture
def judge(data: DataSplits) -> ByBias:
    small = replace(data, train=data.train.first(64))
    return ByBias(fresh_supernet(), data=small, recalibration_images=32, seed=0)


def copies(store: CandidateStore, values: dict[float, float]) -> list[Refined]:
    """Copies of one network whose first biases are the keys."""
    made = []
    for first, value in values.items():
        network = fresh_supernet().extract(ARCH)
        with torch.no_grad():
            bias(network)[0] = first
        candidate = store.save_trained(ARCH, network)
        made.append(Refined(candidate=candidate, accuracy=accuracy(value), seconds=1.0))
    return made


def test_a_greedy_mean_that_beats_every_copy_is_a_candidate(store: CandidateStore, judge: ByBias) -> None:
    made = copies(store, {0.0: 0.50, 3.0: 0.60, 6.0: 0.55})
    # The best joins the second best; with the third the mean would get worse.
    judge.values = {4.5: 0.7, 3.0: 0.65}
    soup = make_soup(made, judge=judge, store=store, shape=SHAPE)
    assert soup.copies == tuple(made[n].candidate.candidate_id for n in (1, 2, 0))
    assert soup.members == soup.copies[:2]
    assert (soup.best_copy.value, soup.greedy.value, soup.uniform.value) == (0.60, 0.7, 0.65)
    assert soup.candidate is not None
    assert soup.candidate.weights_kind == "averaged"
    assert soup.candidate.candidate_id not in soup.copies
    assert float(bias(store.load(soup.candidate))[0]) == pytest.approx(4.5)


def test_a_mean_that_is_no_better_is_not_kept(store: CandidateStore, judge: ByBias, tmp_path: Path) -> None:
    made = copies(store, {0.0: 0.60, 2.0: 0.60})
    judge.values = {1.0: 0.60}
    soup = make_soup(made, judge=judge, store=store, shape=SHAPE)
    # As good is good enough to join, and not to be kept.
    assert (len(soup.members), soup.candidate) == (2, None)
    assert len(list((tmp_path / "candidates").iterdir())) == 2


def test_statistics_are_recalibrated_and_not_averaged(
    data: DataSplits, trained: TinyRun, store: CandidateStore
) -> None:
    judge = make_judge(trained.supernet(), data)
    network = judge.network(ARCH)
    shifted = judge.network(ARCH)
    for name, buffer in shifted.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(100.0)
    found = [
        Refined(candidate=store.save_trained(ARCH, one), accuracy=accuracy(0.0), seconds=1.0)
        for one in (network, shifted)
    ]
    soup = make_soup(found, judge=judge, store=store, shape=SHAPE)
    assert soup.uniform == judge.score_network(network, shape=SHAPE)


def test_means_are_taken_of_all_floating_point_tensors() -> None:
    networks = [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(3)]
    mean = average(networks)
    assert not mean.training
    for name, tensor in mean.state_dict().items():
        states = [network.state_dict()[name] for network in networks]
        assert torch.equal(tensor, torch.stack(states).mean(dim=0) if tensor.is_floating_point() else states[0])


def test_every_copy_has_a_directory_and_a_seed_of_its_own(trained: TinyRun) -> None:
    directories = [copy_dir(trained, "abc", number) for number in range(3)]
    assert directories[0] == trained.refine_dir("abc")
    assert len(set(directories)) == 3
    settings = [copy_settings(REFINE, directory) for directory in directories]
    assert settings[0] == REFINE
    assert [one.seed - REFINE.seed for one in settings] == [0, 1, 2]


def test_a_soup_is_read_back_and_a_damaged_one_is_refused(store: CandidateStore, judge: ByBias, tmp_path: Path) -> None:
    judge.values = {1.0: 0.7}
    soup = make_soup(copies(store, {0.0: 0.60, 2.0: 0.60}), judge=judge, store=store, shape=SHAPE)
    assert read_soup(tmp_path) is None
    write_json(tmp_path / SOUP_FILE, soup.to_json())
    assert read_soup(tmp_path) == soup
    write_json(tmp_path / SOUP_FILE, {"copies": []})
    with pytest.raises(CheckpointError, match="is damaged"):
        read_soup(tmp_path)
