"""From raw pixels to network input."""

import pytest
import torch
from torch import nn

from nas.data import DataSplits, PreprocessedNetwork, Preprocessing


def test_training_images_are_normalised_to_mean_zero_and_deviation_one(data: DataSplits) -> None:
    x_NCHW = data.preprocessing.prepare(data.train.inputs, shape=(1, 8, 8))
    assert float(x_NCHW.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(x_NCHW.std()) == pytest.approx(1.0, abs=1e-3)


def test_images_of_the_right_size_are_not_resized() -> None:
    images_NCHW = torch.arange(32.0).view(2, 1, 4, 4)
    prepared_NCHW = Preprocessing(mean=(2.0,), std=(4.0,)).prepare(images_NCHW, shape=(1, 4, 4))
    assert torch.equal(prepared_NCHW, (images_NCHW - 2.0) / 4.0)


def test_resizing_is_bilinear_between_pixel_centres() -> None:
    images_NCHW = torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]])
    prepared_NCHW = Preprocessing(mean=(0.0,), std=(1.0,)).prepare(images_NCHW, shape=(1, 4, 4))
    assert torch.allclose(prepared_NCHW[0, 0], torch.tensor([0.0, 1.0, 3.0, 4.0]).expand(4, 4))


def test_a_preprocessed_network_does_what_the_loader_does() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    preprocessing = Preprocessing(mean=(1.0,), std=(2.0,))
    images_NCHW = torch.randn(5, 1, 4, 4)
    wrapped = PreprocessedNetwork(network, preprocessing=preprocessing, shape=(1, 6, 6))
    assert torch.equal(wrapped(images_NCHW), network(preprocessing.prepare(images_NCHW, shape=(1, 6, 6))))


def test_the_splits_are_disjoint_and_know_their_classes(data: DataSplits) -> None:
    splits = (data.train, data.search, data.verify, data.report)
    indices = [index for split in splits for index in split.indices_N.tolist()]
    assert len(indices) == len(set(indices)) == sum(len(split) for split in splits) == 1797
    assert data.num_classes == 10
    assert data.native_shape == (1, 8, 8)
