"""Statistics of a network's own activations, and normalisations folded into convolutions."""

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import pytest
import torch
from torch import nn

from nas.data import fastest_layout
from nas.errors import TrainingError
from nas.folding import fold_norms
from nas.recalibration import recalibrate

Network = TypeVar("Network", bound=nn.Module)


def batch_norms(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def statistics(network: nn.Module) -> list[torch.Tensor]:
    found = []
    for norm in batch_norms(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found += [norm.running_mean.clone(), norm.running_var.clone()]
    return found


def expected_statistics(network: nn.Sequential, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """Once-for-all recalibration, written down as it is defined, for a plain row of layers."""
    total = sum(len(x) for x in batches)
    sums: dict[nn.Module, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in batches:
            x = batch
            for layer in network:
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    others = [axis for axis in range(x.ndim) if axis != 1]
                    mean, var = x.mean(dim=others, keepdim=True), x.var(dim=others, correction=0, keepdim=True)
                    before = sums.setdefault(layer, [torch.zeros(x.shape[1]), torch.zeros(x.shape[1])])
                    share = len(x) / total
                    sums[layer] = [before[0] + share * mean.flatten(), before[1] + share * var.flatten()]
                    weight, bias = layer.weight.view(mean.shape[1:]), layer.bias.view(mean.shape[1:])
                    x = (x - mean) / torch.sqrt(var + layer.eps) * weight + bias
                else:
                    x = layer(x)
    return [value for pair in sums.values() for value in pair]


def shake(network: Network) -> Network:
    """Weights, biases and statistics of normalisations that nobody could mistake for fresh ones."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            with torch.no_grad():
                layer.weight.uniform_(0.5, 2.0)
                layer.bias.normal_()
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2.0)
    return network


NETWORKS: Mapping[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, eps=0.1)
        ),
        (2, 7, 7),
    ),
    "series": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 5, 3, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.MaxPool1d(2), nn.BatchNorm1d(5)
        ),
        (3, 9),
    ),
    "vectors": (lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Hardswish()), (6,)),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("sizes", [(8,), (8, 8, 3), (5, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_recalibration_averages_batch_means_and_biased_variances(
    kind: str, sizes: tuple[int, ...], channels_last: bool
) -> None:
    torch.manual_seed(3)
    build, shape = NETWORKS[kind]
    network = shake(build())
    batches = [5.0 * number + 2.0 * torch.randn(size, *shape) for number, size in enumerate(sizes)]
    if channels_last:
        batches = [fastest_layout(x) for x in batches]
    expected = expected_statistics(network, batches)
    copies = [x.clone() for x in batches]
    recalibrate(network, batches)
    assert len(statistics(network)) == len(expected) > 0
    for found, wanted in zip(statistics(network), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(x, copy) for x, copy in zip(batches, copies, strict=True))


class Branching(nn.Module):
    """One tensor with several readers: nothing may be overwritten here."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.third = nn.BatchNorm2d(4)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        y_NCHW = self.stem(x_NCHW)
        summed: torch.Tensor = self.first(y_NCHW) + self.third(y_NCHW) + self.second(y_NCHW) + y_NCHW
        return summed


def test_recalibration_by_one_batch_reproduces_training_mode_where_a_tensor_has_several_readers() -> None:
    torch.manual_seed(4)
    network, x_NCHW = shake(Branching()), torch.randn(16, 1, 6, 6)
    expected = copy.deepcopy(network).train()(x_NCHW)
    recalibrate(network, [x_NCHW])
    torch.testing.assert_close(network(x_NCHW), expected, rtol=1e-4, atol=1e-4)


def test_folding_normalisations_keeps_what_a_network_computes() -> None:
    torch.manual_seed(5)
    networks: list[tuple[nn.Module, tuple[int, ...]]] = [(build(), shape) for build, shape in NETWORKS.values()]
    for network, shape in [*networks, (Branching(), (1, 6, 6))]:
        shake(network).eval()
        x = torch.randn(6, *shape)
        expected, kept = network(x), x.clone()
        folded = copy.deepcopy(network)
        fold_norms(folded)
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(x, kept)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules()) == 2  # those that no convolution feeds


def test_a_network_without_norms_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    recalibrate(network, [torch.randn(3, 1, 2, 2)])
    assert not network.training


def test_a_network_that_is_one_normalisation_is_recalibrated() -> None:
    network, x = nn.BatchNorm1d(3), 4.0 + torch.randn(50, 3)
    recalibrate(network, [x])
    torch.testing.assert_close(network.running_mean, x.mean(dim=0))
    torch.testing.assert_close(network.running_var, x.var(dim=0, correction=0))


def test_a_normalisation_without_weights_is_recalibrated() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    plain = copy.deepcopy(network)
    plain[1] = nn.BatchNorm2d(2)
    x_NCHW = torch.randn(9, 1, 4, 4)
    for each in (network, plain):
        recalibrate(each, [x_NCHW])
    for found, expected in zip(statistics(network), statistics(plain), strict=True):
        torch.testing.assert_close(found, expected)


def test_recalibration_without_a_batch_is_refused_and_changes_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(TrainingError, match="no batch") as refusal:
        recalibrate(network, [])
    assert refusal.value.hint
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert isinstance(network[1], nn.BatchNorm2d)
