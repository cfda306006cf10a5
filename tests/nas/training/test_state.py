"""Weights, optimiser and moving average."""

from dataclasses import replace

import pytest
import torch

from nas.training.settings import TrainSettings
from nas.training.state import TrainState
from searchspaces.elastic.supernet import Supernet
from tests.nas.tiny_run import fresh_supernet
from tests.nas.training.gloo_child import ONE_EPOCH, SMALL

AVERAGED = replace(ONE_EPOCH, ema_decay=0.9, weight_decay=0.0)
ADAMW = replace(AVERAGED, optimizer="adamw")
CPU = torch.device("cpu")


def make_state(settings: TrainSettings = AVERAGED, *, seed: int = 0) -> TrainState:
    return TrainState(fresh_supernet(seed=seed, space=SMALL), settings=settings, device=CPU)


def some_steps(state: TrainState, num: int, *, first: int = 0) -> list[dict[str, torch.Tensor]]:
    """Steps with random gradients; returns the weights after each."""
    seen = []
    for step in range(first, first + num):
        generator = torch.Generator().manual_seed(step)
        for parameter in state.parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        state.update(learning_rate=0.1, steps_in_phase=step)
        seen.append({name: parameter.detach().clone() for name, parameter in state.parameters.items()})
    return seen


def weights(supernet: Supernet) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in supernet.named_parameters()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_the_average_starts_at_the_first_step_and_its_decay_grows() -> None:
    state = make_state()
    seen = some_steps(state, 5)
    expected = seen[0]
    for step, now in enumerate(seen[1:], start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in expected}
    with state.averaged() as supernet:
        found = weights(supernet)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)
    # Soon after the start the average already follows the weights: the first ones hardly count.
    distance = sum(float((found[name] - seen[-1][name]).norm()) for name in found)
    assert distance < sum(float((seen[0][name] - seen[-1][name]).norm()) for name in found)


def test_the_trained_weights_are_back_after_the_average_was_evaluated() -> None:
    state = make_state()
    trained = some_steps(state, 3)[-1]

    def judge() -> None:
        with state.averaged() as supernet:
            assert not torch.equal(weights(supernet)["stem.conv.weight"], trained["stem.conv.weight"])
            raise ValueError("judge failed")

    with pytest.raises(ValueError, match="judge"):
        judge()
    assert_equal(weights(state.supernet), trained)


def test_without_an_average_there_is_one_set_of_weights() -> None:
    state = make_state(ONE_EPOCH)
    trained = some_steps(state, 2)[-1]
    with state.averaged() as supernet:
        assert_equal(weights(supernet), trained)
    checkpoint = state.checkpoint(epoch=1, step=2, details={})
    assert not checkpoint.raw
    state.use_average()
    assert_equal(weights(state.supernet), trained)


@pytest.mark.parametrize("settings", [AVERAGED, ADAMW], ids=["sgd", "adamw"])
def test_a_checkpoint_has_the_average_as_weights_and_goes_on_from_the_trained_ones(settings: TrainSettings) -> None:
    state, other = make_state(settings), make_state(settings, seed=9)
    trained = some_steps(state, 3)[-1]
    checkpoint = state.checkpoint(epoch=1, step=3, details={})
    with state.averaged() as supernet:
        assert_equal({name: checkpoint.weights[name] for name in state.parameters}, weights(supernet))
    assert_equal(dict(checkpoint.raw), trained)
    other.restore(checkpoint)
    assert_equal(weights(other.supernet), trained)
    assert_equal(some_steps(state, 2, first=3)[-1], some_steps(other, 2, first=3)[-1])
    with state.averaged() as a, other.averaged() as b:
        assert_equal(weights(a), weights(b))


@pytest.mark.parametrize("settings", [AVERAGED, ADAMW], ids=["sgd", "adamw"])
def test_a_phase_starts_from_the_average_with_a_fresh_optimizer(settings: TrainSettings) -> None:
    state = make_state(settings)
    some_steps(state, 3)
    with state.averaged() as supernet:
        average = weights(supernet)
    state.start_phase()
    assert_equal(weights(state.supernet), average)
    checkpoint = state.checkpoint(epoch=1, step=3, details={})
    assert not checkpoint.raw
    assert not checkpoint.optimizer


def test_weights_that_are_no_numbers_are_noticed() -> None:
    state = make_state()
    assert state.is_finite()
    with torch.no_grad():
        state.parameters["classifier.layer.bias"][3] = float("inf")
    assert not state.is_finite()
