"""The optimiser: which update it makes, what decays, and how its state is taken up again."""

import math

import pytest
import torch
from torch import nn

from nas.errors import TrainingError
from nas.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from nas.training.settings import OptimizerName

OPTIMIZERS: list[OptimizerName] = ["sgd", "adamw"]
KINDS = {"sgd": {"momentum_buffer"}, "adamw": {"exp_avg", "exp_avg_sq", "step"}}
RATE, DECAY = 0.03, 0.5


def make_network() -> nn.Module:
    """A convolution in the layout of images, a norm, and a layer that no gradient reaches."""
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "unused": nn.Linear(2, 2)}
    network = nn.ModuleDict(layers)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def give_gradients(network: nn.Module, *, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    used = {name: p for name, p in network.named_parameters() if "unused" not in name}
    for parameter in used.values():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    return {name: p.grad for name, p in used.items() if p.grad is not None}


def some_steps(network: nn.Module, optimizer: torch.optim.Optimizer, num: int, *, first: int = 0) -> None:
    for step in range(first, first + num):
        give_gradients(network, step=step)
        optimizer.step()


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def test_sgd_is_the_default_and_has_nesterov_momentum() -> None:
    network = make_network()
    optimizer = make_optimizer(network, learning_rate=RATE, weight_decay=DECAY)
    assert isinstance(optimizer, torch.optim.SGD)
    before, gradients = weights(network), give_gradients(network, step=0)
    optimizer.step()
    for name, gradient in gradients.items():
        towards = gradient + (DECAY if before[name].ndim > 1 else 0.0) * before[name]
        torch.testing.assert_close(weights(network)[name], before[name] - RATE * (towards + 0.9 * towards))


def test_adamw_makes_the_published_update_with_decay_apart_from_the_moments() -> None:
    network = make_network()
    optimizer = make_optimizer(network, name="adamw", learning_rate=RATE, weight_decay=DECAY)
    expected = weights(network)
    mean = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    square = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    for step in range(3):
        for name, gradient in give_gradients(network, step=step).items():
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            unbiased = math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            decay = DECAY if expected[name].ndim > 1 else 0.0
            expected[name] = (1 - RATE * decay) * expected[name] - RATE * unbiased * mean[name] / square[name].sqrt()
        optimizer.step()
    for name, tensor in weights(network).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_do_not_decay(name: OptimizerName) -> None:
    network = make_network()
    before = weights(network)
    optimizer = make_optimizer(network, name=name, learning_rate=RATE, weight_decay=DECAY)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, tensor in weights(network).items():
        assert torch.equal(tensor, before[key]) == (tensor.ndim <= 1), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_makes_the_very_same_steps(name: OptimizerName) -> None:
    network, again = make_network(), make_network()
    optimizer, fresh = (make_optimizer(n, name=name, learning_rate=RATE, weight_decay=DECAY) for n in (network, again))
    some_steps(network, optimizer, 3)
    again.load_state_dict(network.state_dict())
    saved = {
        key: tensor.contiguous()
        for key, tensor in optimizer_tensors(optimizer, dict(network.named_parameters())).items()
    }
    assert {key.partition("/")[0] for key in saved} == KINDS[name]
    assert {key.partition("/")[2] for key in saved} == {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}
    restore_optimizer(fresh, dict(again.named_parameters()), saved)
    some_steps(network, optimizer, 2, first=3)
    untouched = {key: tensor.clone() for key, tensor in saved.items()}
    some_steps(again, fresh, 2, first=3)
    for key, tensor in weights(again).items():
        assert torch.equal(tensor, weights(network)[key]), key
    ours, theirs = (optimizer_tensors(o, dict(n.named_parameters())) for o, n in ((fresh, again), (optimizer, network)))
    assert ours.keys() == theirs.keys()
    assert all(
        torch.equal(tensor, theirs[key]) and tensor.stride() == theirs[key].stride() for key, tensor in ours.items()
    )
    # The state was copied: going on did not change what was saved.
    assert all(torch.equal(tensor, untouched[key]) for key, tensor in saved.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fresh_optimizer_has_no_state(name: OptimizerName) -> None:
    network = make_network()
    optimizer = make_optimizer(network, name=name, learning_rate=RATE, weight_decay=DECAY)
    assert optimizer_tensors(optimizer, dict(network.named_parameters())) == {}


def test_an_unknown_optimizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TrainingError, match="unknown optimizer 'adam'") as caught:
        make_optimizer(make_network(), name="adam", learning_rate=RATE, weight_decay=DECAY)  # type: ignore[arg-type]
    assert "sgd, adamw" in caught.value.hint
