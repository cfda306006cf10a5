"""The benchmark on time series: what it learns from, and what it may not see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.benchmarks.sensor_vs_minirocket import (
    CASES,
    Case,
    choose_network,
    load_case,
    minirocket,
    predict,
    subnets,
)
from searchspaces import get_space

TINY = Case(
    num_classes=2,
    held_out=14,
    epochs=1,
    batch_size=16,
    augmentation="none",
    settings={"length": 24, "stem_channels": 4, "widths": [[4, 6]], "depths": [1], "kernels": [3]},
)


@pytest.fixture(autouse=True)
def aeon() -> None:
    pytest.importorskip("aeon")


@pytest.mark.parametrize("name", list(CASES))
def test_the_held_out_part_is_taken_from_the_training_part_alone(name: str) -> None:
    case = CASES[name]
    data = load_case(name, case, seed=1)
    assert len(data.search) == case.held_out
    assert data.num_classes == case.num_classes
    assert data.train.part == data.search.part == "train"
    assert data.report.part == "test"
    assert not set(data.train.indices_N.tolist()) & set(data.search.indices_N.tolist())
    space = get_space("conv1d-sensor", **case.settings)
    assert space.input_shape(space.largest) == data.native_shape


def test_the_drawn_subnets_hold_both_ends_and_no_subnet_twice() -> None:
    space = get_space("conv1d-sensor", **CASES["ItalyPowerDemand"].settings)
    genomes_NG = subnets(space, seed=0)
    assert len(np.unique(genomes_NG, axis=0)) == len(genomes_NG) > 20
    archs = space.architectures(genomes_NG)
    assert {space.largest, space.smallest} <= set(archs)


def test_one_network_is_chosen_and_predicts_the_test_part() -> None:
    data = load_case("ItalyPowerDemand", TINY, seed=0)
    before = torch.random.get_rng_state()
    chosen = choose_network(data, TINY, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    # The official test part has no part in the choice.
    unseen = replace(data, report=replace(data.report, inputs=data.report.inputs * float("nan")))
    again = choose_network(unseen, TINY, seed=0)
    classes_N = predict(chosen.network, data, case=TINY)
    assert classes_N.shape == (1029,)
    assert (classes_N == predict(again.network, data, case=TINY)).all()
    assert chosen.macs > 0
    assert 0 <= chosen.held_out_f1 <= 1


def test_after_the_choice_the_held_out_part_is_learnt_from() -> None:
    only_one = {**TINY.settings, "widths": [[4]], "dilations": [1]}
    case = replace(TINY, settings=only_one)
    assert get_space("conv1d-sensor", **only_one).size == 1
    data = load_case("ItalyPowerDemand", case, seed=0)
    swapped = replace(data, search=replace(data.search, labels_N=1 - data.search.labels_N))
    x_NCT = data.preprocessing.prepare(data.report.inputs, shape=data.native_shape)
    networks = [choose_network(known, case, seed=0).network for known in (data, swapped)]
    with torch.inference_mode():
        a, b = (network(x_NCT) for network in networks)
    assert not torch.equal(a, b)


def test_minirocket_leaves_the_threads_of_torch_alone() -> None:
    data = load_case("ItalyPowerDemand", TINY, seed=0)
    before = torch.get_num_threads()
    # More than any machine of the tests has cores: numba asks for as many as there are.
    torch.set_num_threads(37)
    try:
        minirocket(data, seed=0)
        assert torch.get_num_threads() == 37
    finally:
        torch.set_num_threads(before)
