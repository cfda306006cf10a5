"""The space of time series: its genes, its size, its lengths, its operators."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from searchspaces import get_space
from searchspaces.conv1d_sensor import Conv1dConfig, Conv1dSpace, conv1d_sensor, fitting_dilations, fitting_kernels
from searchspaces.elastic.blocks import Shortcut
from searchspaces.errors import SpaceError
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract
from tests.searchspaces.tiny import enumerate_by_hand

# As a recipe says it: nothing but lists and numbers.
LAID_OUT: dict[str, Any] = {
    "in_channels": 6,
    "length": 101,
    "stem_channels": 12,
    "stem_kernel": 9,
    "stem_stride": 2,
    "widths": [[8, 16], [12, 20, 24]],
    "strides": [1, 2],
    "depths": [1, 3],
    "kernels": [3, 7],
    "dilations": [1, 3],
    "dropout": 0.1,
}
SHORT = [2, 3, 5, 12, 24, 25]


class TestConv1dSensor(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return conv1d_sensor()


class TestConv1dSensorLaidOutByARecipe(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("conv1d-sensor", **LAID_OUT)


class TestConv1dSensorForShortSeries(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return conv1d_sensor(in_channels=12, length=12)


def test_the_size_is_exact() -> None:
    # in each of three stages 3 widths and 4 x 3 kinds of block in 1, 2 or 3 blocks
    assert conv1d_sensor().size == (3 * (12 + 12**2 + 12**3)) ** 3


def test_the_size_of_a_smaller_space_equals_listing_it() -> None:
    space = conv1d_sensor(length=32, widths=[[4, 8], [8]], depths=[1, 2], kernels=[3], dilations=[1, 2])
    assert space.size == len(enumerate_by_hand(space.choices)) == 2 * (2 + 4) * (2 + 4)


def test_the_kinds_of_choices_are_depth_width_kernel_and_dilation() -> None:
    assert {choice.kind for choice in conv1d_sensor().choices} == {"depth", "width", "kernel", "dilation"}


def test_the_input_shape_is_channels_and_time_steps() -> None:
    space = get_space("conv1d-sensor", **LAID_OUT)
    assert space.input_shape(space.largest) == space.input_shape(space.smallest) == (6, 101)


def test_other_settings_are_another_space() -> None:
    assert conv1d_sensor().space_id == "conv1d-sensor"
    ids = {conv1d_sensor(length=length, dropout=dropout).space_id for length in (128, 64) for dropout in (0.2, 0.1)}
    assert len(ids) == 4
    assert conv1d_sensor(kernels=[3, 5, 7, 9], dilations=(1, 2, 4)).space_id == "conv1d-sensor"


@pytest.mark.parametrize("seed", range(3))
def test_the_operator_table_tells_what_the_extracted_network_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = get_space("conv1d-sensor", **LAID_OUT)
    supernet = space.build_supernet(num_classes=7)
    genomes_NG = space.sample_many(6, rng)
    table = space.op_table(genomes_NG, num_classes=7)
    for row, arch in enumerate(space.architectures(genomes_NG)):
        network = supernet.extract(arch)
        assert table.params[row].sum() == sum(parameter.numel() for parameter in network.parameters())
        told = Counter((op.kind, op.macs, op.input_elements, op.output_elements) for op in table.graph(row).operators)
        assert told == _counted(network, torch.randn(1, 6, 101))


def _counted(network: nn.Module, series_NCT: torch.Tensor) -> Counter[tuple[str, int, int, int]]:
    """Every operator that runs on one series, counted by hooks."""
    counts: Counter[tuple[str, int, int, int]] = Counter()

    def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        taken, made = inputs[0].numel(), output.numel()
        if isinstance(module, nn.Conv1d):
            counts["conv", made * module.weight[0].numel(), taken, made] += 1
        elif isinstance(module, nn.Linear):
            counts["linear", made * module.in_features, taken, made] += 1
        elif isinstance(module, nn.AdaptiveAvgPool1d):
            counts["pool", 0, taken, made] += 1
        elif isinstance(module, Shortcut):
            counts["add", 0, 2 * made, made] += 1

    for module in network.modules():
        module.register_forward_hook(hook)
    with torch.no_grad():
        network.eval()(series_NCT)
    return counts


@pytest.mark.parametrize("length", SHORT)
def test_short_series_get_kernels_and_dilations_that_fit(length: int) -> None:
    config = conv1d_sensor(in_channels=2, length=length).config
    assert config.dilations[-1] * (config.kernels[-1] // 2) < length
    assert config.kernels[0] == 3
    assert config.dilations[0] == 1
    space = conv1d_sensor(in_channels=2, length=length)
    supernet = space.build_supernet(num_classes=3)
    for arch in (space.smallest, space.largest):
        assert supernet.train()(torch.randn(4, 2, length), arch).shape == (4, 3)


def test_what_fits_is_as_much_as_possible() -> None:
    assert fitting_kernels(128) == (3, 5, 7, 9)
    assert fitting_kernels(4) == (3, 5, 7)
    assert fitting_dilations(12, kernel=9) == (1, 2)
    assert fitting_dilations(17, kernel=9) == (1, 2, 4)
    assert fitting_dilations(2, kernel=9) == (1,)


def test_dilations_are_fitted_to_given_kernels() -> None:
    assert conv1d_sensor(length=12, kernels=[3]).config.dilations == (1, 2, 4)
    assert conv1d_sensor(length=12, kernels=[3, 11]).config.dilations == (1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be a positive integer"),
        ({"length": "long"}, "length must be a positive integer"),
        ({"in_channels": 0}, "in_channels"),
        ({"stem_channels": 2.5}, "stem_channels"),
        ({"stem_kernel": 4}, "stem_kernel must be odd"),
        ({"stem_stride": 3}, "stem_stride is 3"),
        ({"widths": []}, "widths has 0 stages"),
        ({"widths": 16}, "widths must be a list"),
        ({"widths": [16, 32]}, r"stage 1: widths must be ascending"),
        ({"widths": [[16], [32, 24]]}, r"stage 2: widths must be ascending"),
        ({"widths": [[16], [24]], "strides": [1]}, "widths has 2 stages and strides has 1"),
        ({"strides": 2}, "strides must be a list"),
        ({"strides": [1, 2, 4]}, r"stage 3: strides is 4"),
        ({"depths": [0, 1]}, "depths must be ascending"),
        ({"kernels": [3, 4]}, "kernels must be odd"),
        ({"dilations": [2, 1]}, "dilations must be ascending"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": True}, "dropout is True"),
        ({"length": 4, "strides": [2, 2, 1]}, "leave 1 of 4 time steps"),
        ({"length": 12, "kernels": [9], "dilations": [4]}, "reaches 16 time steps"),
        ({"length": 12, "dilations": [4]}, "reaches 16 time steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        conv1d_sensor(**settings)
    assert refusal.value.hint


def test_the_hint_for_a_kernel_that_reaches_too_far_is_a_setting_that_works() -> None:
    with pytest.raises(SpaceError) as refusal:
        conv1d_sensor(length=5, kernels=[9], dilations=[4])
    assert "kernels: [3, 5, 7, 9] and dilations: [1]" in refusal.value.hint
    Conv1dSpace(Conv1dConfig(length=5, kernels=(3, 5, 7, 9), dilations=(1,)))
