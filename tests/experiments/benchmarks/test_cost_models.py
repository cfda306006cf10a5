"""The analysis against networks that ran, in small; the benchmark does it for all spaces at their full size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import experiments.benchmarks.cost_models as benchmark
from experiments.benchmarks.cost_models import SUBNETS, cases, compare, main
from experiments.benchmarks.observed_costs import observe
from searchspaces import OpTable, get_space, list_spaces
from searchspaces.elastic.blocks import Shortcut, SqueezeExcite
from searchspaces.genomes import Genomes
from searchspaces.graph import NOTHING

SMALL = {
    "mbconv-small": get_space("mbconv-small"),
    "mbconv-small-se": cases()["mbconv-small-se"],
    "nas-bench-macro": get_space("nas-bench-macro", resolutions=[17, 24], width=0.25),
    "conv1d-sensor": get_space("conv1d-sensor", in_channels=2, length=61, strides=[1, 2, 1]),
    "ofa-mobilenetv3-w1.0": get_space("ofa-mobilenetv3-w1.0", resolutions=[33, 64]),
    "ofa-proxyless-w1.3": get_space("ofa-proxyless-w1.3", resolutions=[33, 64]),
    "ofa-resnet50d": get_space("ofa-resnet50d", resolutions=[33, 51, 64], width=0.1),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_analysis_is_what_the_networks_were_seen_to_do(name: str) -> None:
    found = compare(SMALL[name], num_random=6, seed=1)
    assert (found.macs, found.params, found.peak_bytes, found.bytes_of_an_operator) == (0, 0, 0, 0)
    assert found.num_subnets == 8
    assert found.num_operators > 8 * 5


def conv(c_in: int, c_out: int, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)


def test_a_convolution_with_normalisation_and_activation_is_one_step() -> None:
    network = nn.Sequential(conv(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    seen = observe(network, torch.rand(1, 1, 8, 8))
    assert (seen.macs, seen.params) == (64 * 4 * 9, 4 * 9 + 8)
    assert [(t.num_bytes, t.birth, t.last_use) for t in seen.lifetimes] == [(256, 0, 0), (1024, 0, 1), (16, 1, 1)]
    assert seen.bytes_by_operator == [1280, 1040]
    assert seen.peak_bytes == 1280


def test_a_shortcut_is_alive_until_the_sum_and_the_activation_after_it_is_part_of_the_sum() -> None:
    body = nn.Sequential(conv(2, 6), nn.ReLU6(), conv(6, 2))
    seen = observe(nn.Sequential(conv(1, 2), Shortcut(body), nn.ReLU()), torch.rand(1, 1, 4, 4))
    image, one, wide, narrow = 64, 128, 384, 128
    assert seen.bytes_by_operator == [image + one, one + wide, one + wide + narrow, one + narrow + narrow]


def test_an_activation_that_others_do_not_wait_for_is_not_fused_where_its_input_is_read_again() -> None:
    seen = observe(nn.Sequential(conv(1, 2), Shortcut(nn.ReLU())), torch.rand(1, 1, 4, 4))
    assert seen.bytes_by_operator == [64 + 128, 2 * 128, 3 * 128]


def test_the_steps_of_a_squeeze_excite_unit_are_one_operator() -> None:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Hardsigmoid())
    seen = observe(nn.Sequential(conv(1, 8), SqueezeExcite(gate), conv(8, 1)), torch.rand(1, 1, 4, 4))
    assert len(seen.units) == 6
    assert seen.bytes_by_operator == [64 + 512, 512 + 32 + 512, 512 + 64]
    assert seen.macs == 16 * 8 + 2 * 16 + 16 * 8


def test_a_network_that_gives_no_tensor_is_refused() -> None:
    class Shape(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(x.size(0), -1)

    with pytest.raises(TypeError, match="gives a int"):
        observe(Shape(), torch.rand(1, 2, 2))


@pytest.mark.parametrize(
    ("column", "seen_in"),
    [
        ("macs", "macs"),
        ("params", "params"),
        ("output_elements", "peak_bytes"),
        ("network_input_elements", "bytes_of_an_operator"),
        ("workspace_elements", "bytes_of_an_operator"),
    ],
)
def test_one_wrong_number_is_seen(column: str, seen_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SMALL["mbconv-small-se"]
    right = space.op_table

    def wrong(genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        table = right(genomes_NG, num_classes=num_classes)
        return replace(table, **{column: getattr(table, column) + (getattr(table, column) > 0)})

    monkeypatch.setattr(space, "op_table", wrong)
    assert getattr(compare(space, num_random=1, seed=0), seen_in) > 0


def test_a_forgotten_shortcut_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SMALL["conv1d-sensor"]
    right = space.op_table

    def wrong(genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        table = right(genomes_NG, num_classes=num_classes)
        return replace(table, inputs=np.where(np.arange(table.inputs.shape[2]) == 0, table.inputs, NOTHING))

    monkeypatch.setattr(space, "op_table", wrong)
    found = compare(space, num_random=1, seed=0)
    assert found.bytes_of_an_operator
    assert found.macs == 0


def test_a_missing_operator_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SMALL["nas-bench-macro"]
    right = space.op_table

    def wrong(genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        table = right(genomes_NG, num_classes=num_classes)
        return replace(table, output_elements=table.output_elements * (np.arange(len(table.names)) != 0))

    monkeypatch.setattr(space, "op_table", wrong)
    assert compare(space, num_random=1, seed=0).bytes_of_an_operator is None


def test_every_space_that_can_be_trained_is_a_case_and_most_have_several_sizes() -> None:
    found = cases()
    assert {name for name in list_spaces() if get_space(name).trainable} <= set(found)
    assert "nasbench201" not in found
    with_sizes = [name for name, space in found.items() if any(c.kind == "resolution" for c in space.choices)]
    assert len(with_sizes) >= 7
    assert len({found[name].input_shape(found[name].largest) for name in found if "conv1d" in name}) == 3


def test_the_file_has_a_figure_for_every_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: SMALL[name] for name in ("mbconv-small", "conv1d-sensor")}
    monkeypatch.setattr(benchmark, "cases", lambda: chosen)
    assert main(["--quick", "--strict", "--seeds", "2", "--out", str(tmp_path / "costs.json")]) == 0
    content = json.loads((tmp_path / "costs.json").read_text())
    assert content["figures"]["conv1d-sensor/macs/largest_difference"] == 0
    assert content["figures"]["mbconv-small/subnets"] == 2 * (2 + 3)
    assert content["figures"]["analysis/nasbench201/architectures_per_second"] > 0
    assert len(content["targets"]) == 2 * 4
    assert all(target["met"] for target in content["targets"].values())


def test_too_few_subnets_miss_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "cases", lambda: {"conv1d-sensor": SMALL["conv1d-sensor"]})
    monkeypatch.setattr(benchmark, "list_spaces", list)
    assert main(["--strict", "--subnets", "4", "--out", str(tmp_path / "costs.json")]) == 1
    target = json.loads((tmp_path / "costs.json").read_text())["targets"]["conv1d-sensor/subnets"]
    assert target == {"value": 6, "at_least": 2 + SUBNETS, "met": False}
