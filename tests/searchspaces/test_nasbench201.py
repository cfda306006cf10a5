"""NAS-Bench-201: the official spelling of its cells, and costs checked against a reference network written here."""

import numpy as np
import pytest
import torch
from torch import nn

from searchspaces import get_space
from searchspaces.errors import SpaceError
from searchspaces.nasbench201 import EDGES, OPERATORS, nasbench201
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract
from tests.searchspaces.hooks import Sum, counted, num_params, told

SPACE = nasbench201()
FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"


class TestNASBench201(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return nasbench201()


def relu_conv_norm(c_in: int, c_out: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(c_out))


def edge(op: str, channels: int) -> nn.Module:
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return relu_conv_norm(channels, channels, kernel=int(op[-1])) if "conv" in op else nn.Identity()


class Cell(nn.Module):
    def __init__(self, ops: tuple[str, ...], channels: int) -> None:
        super().__init__()
        self.ops = ops
        self.edges = nn.ModuleList(edge(op, channels) for op in ops)
        self.sums = nn.ModuleList(Sum() for _ in range(3))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        nodes = [x_NCHW]
        for node in (1, 2, 3):
            terms = [
                self.edges[n](nodes[source])
                for n, (source, target) in enumerate(EDGES)
                if target == node and self.ops[n] != "none"
            ]
            nodes.append(self.sums[node - 1](*terms) if terms else torch.zeros_like(x_NCHW))
        return nodes[-1]


class Reduction(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            relu_conv_norm(c_in, c_out, kernel=3, stride=2), relu_conv_norm(c_out, c_out, kernel=3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c_in, c_out, 1, bias=False))
        self.sum = Sum()

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.sum(self.shortcut(x_NCHW), self.body(x_NCHW))
        return total


def reference(ops: tuple[str, ...], *, num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    for channels in (16, 32, 64):
        if channels > 16:
            layers.append(Reduction(channels // 2, channels))
        layers += [Cell(ops, channels) for _ in range(5)]
    head = [nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)]
    return nn.Sequential(*layers, *head)


def test_the_operator_table_equals_what_hooks_count_on_a_reference_network() -> None:
    sampled = SPACE.architectures(SPACE.sample_many(6, np.random.default_rng(1)))
    archs = [SPACE.smallest, SPACE.largest, SPACE.from_string(FIRST), *sampled]
    table = SPACE.op_table(SPACE.genomes(archs), num_classes=7)
    for row, arch in enumerate(archs):
        network = reference(SPACE.to_ops(arch), num_classes=7)
        assert told(table, row) == counted(network, torch.randn(1, *SPACE.input_shape(arch)))
        assert table.params[row].sum() == num_params(network)


def test_the_costs_of_the_ends_are_the_published_ones() -> None:
    table = SPACE.op_table(SPACE.genomes([SPACE.smallest, SPACE.largest]))
    assert table.params.sum(axis=1).tolist() == [73_306, 1_531_546]
    # published FLOPs: 7.78305 and 220.11969 million, in which the ten biases of the classifier count
    assert (table.macs.sum(axis=1) + 10).tolist() == [7_783_050, 220_119_690]


def test_operators_that_no_output_sees_are_counted() -> None:
    dead = SPACE.from_ops(["nor_conv_3x3", "none", "none", "skip_connect", "none", "none"])
    table = SPACE.op_table(SPACE.genomes([dead]))
    # a 3x3 convolution with normalisation in each of 15 cells, beside what the empty cells cost
    assert table.params.sum() == 73_306 + 5 * sum(9 * c * c + 2 * c for c in (16, 32, 64))


def test_the_size_is_exact_and_every_cell_is_reached() -> None:
    assert SPACE.size == 5**6 == 15_625
    ids = np.stack(np.unravel_index(np.arange(5**6), (5,) * 6), axis=1)
    archs = {SPACE.from_ops(row) for row in ids[::25].tolist()}
    assert len(archs) == 625


def test_official_numbers_and_names_mean_the_same() -> None:
    ids = [4, 2, 1, 2, 1, 1]
    arch = SPACE.from_ops(ids)
    assert SPACE.to_ops(arch) == tuple(OPERATORS[number] for number in ids)
    assert SPACE.from_ops(SPACE.to_ops(arch)) == arch
    assert SPACE.from_ops(list(np.array(ids, dtype=np.int8))) == arch
    # the first network of the published table
    assert SPACE.to_string(arch) == FIRST
    assert SPACE.from_string(FIRST) == arch


def test_arch_strings_round_trip() -> None:
    for arch in SPACE.architectures(SPACE.sample_many(100, np.random.default_rng(0))):
        assert SPACE.from_string(SPACE.to_string(arch)) == arch
    assert SPACE.to_string(SPACE.largest).count("nor_conv_3x3") == 6


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|",
        FIRST[:-1],
        FIRST + "|",
        f" {FIRST}",
        FIRST.replace("~2", "~1"),
        FIRST.replace("+", ""),
        FIRST.replace("skip_connect~2", "skip connect~2"),
    ],
)
def test_a_text_of_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpaceError, match="no NAS-Bench-201 arch string") as refusal:
        SPACE.from_string(text)
    assert "nor_conv_3x3~0" in refusal.value.hint


def test_an_unknown_operator_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpaceError, match="edge 2 has operator 'conv_5x5'") as refusal:
        SPACE.from_string(FIRST.replace("skip_connect~1|+|nor", "conv_5x5~1|+|nor"))
    assert "3 nor_conv_3x3" in refusal.value.hint
    for wrong in (5, -1, True, 1.0, None):
        with pytest.raises(SpaceError, match="edge 0 has operator"):
            SPACE.from_ops([wrong, 0, 0, 0, 0, 0])  # type: ignore[list-item]
    with pytest.raises(SpaceError, match="6 edges, got 5"):
        SPACE.from_ops([0] * 5)


def test_there_is_no_supernet_to_train() -> None:
    assert not SPACE.trainable
    with pytest.raises(SpaceError, match="nasbench201") as refusal:
        SPACE.build_supernet(num_classes=10)
    assert refusal.value.hint


def test_there_is_nothing_to_set() -> None:
    with pytest.raises(SpaceError, match="no setting 'resolutions'"):
        get_space("nasbench201", resolutions=[32])
