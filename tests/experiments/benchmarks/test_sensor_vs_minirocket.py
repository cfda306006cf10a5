"""The benchmark on time series: what it learns from, and what it may not see."""

import numpy as np
import pytest
import torch

from experiments.benchmarks.sensor_vs_minirocket import CASES, Case, choose_network, load_case, predict, subnets
from searchspaces import get_space


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
    assert len(np.unique(genomes_NG, axis=0)) == len(genomes_NG) > 30
    archs = space.architectures(genomes_NG)
    assert {space.largest, space.smallest} <= set(archs)


def test_one_network_is_chosen_and_predicts_the_test_part() -> None:
    case = Case(
        num_classes=2,
        held_out=14,
        epochs=1,
        batch_size=16,
        learning_rate=0.1,
        augmentation="none",
        settings={"length": 24, "stem_channels": 4, "widths": [[4, 6]], "depths": [1], "kernels": [3]},
    )
    data = load_case("ItalyPowerDemand", case, seed=0)
    before = torch.random.get_rng_state()
    chosen = choose_network(data, case, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = choose_network(data, case, seed=0)
    classes_N = predict(chosen.network, data, case=case)
    assert classes_N.shape == (1029,)
    assert (classes_N == predict(again.network, data, case=case)).all()
    assert chosen.macs > 0
    assert 0 <= chosen.held_out_f1 <= 1
