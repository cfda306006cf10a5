"""NAS-Bench-201: the official spelling of its cells, and costs checked against a reference network."""

import numpy as np
import pytest
import torch

from searchspaces import get_space
from searchspaces.errors import SpaceError
from searchspaces.nasbench201 import EDGES, OPERATORS, nasbench201
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract
from tests.searchspaces.hooks import counted, num_params, told
from tests.searchspaces.nasbench201_network import reference

SPACE = nasbench201()
FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"


class TestNASBench201(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return nasbench201()


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


def test_a_node_where_only_none_ends_is_written_as_zeros_if_somebody_reads_it() -> None:
    def sums(*ops: str) -> list[tuple[str, int, tuple[str, ...]]]:
        operators = SPACE.graph(SPACE.from_ops(ops)).operators
        return [(op.name, op.input_elements, op.inputs) for op in operators if op.name.startswith("stage1.cell2.node")]

    assert sums("none", "none", "none", "none", "none", "none") == [("stage1.cell2.node3.add", 0, ())]
    assert sums("none", "skip_connect", "none", "nor_conv_1x1", "skip_connect", "none") == [
        ("stage1.cell2.node1.add", 0, ()),
        ("stage1.cell2.node3.add", 2 * 16 * 32 * 32, ("stage1.cell2.edge3.conv", "stage1.cell2.node1.add")),
    ]


def test_networks_with_unused_operators_have_the_function_of_those_without() -> None:
    none, conv = "none", "nor_conv_3x3"
    for ops, same in (
        # nothing leads to node 1, nothing leads on from node 2
        ((none, conv, conv, conv, conv, none), (none, none, none, conv, none, none)),
        # no path at all
        ((conv, none, none, none, none, conv), (none,) * 6),
        # every edge is on a path
        ((conv, none, conv, none, none, conv), (conv, none, conv, none, none, conv)),
    ):
        found_NG = SPACE.functional(SPACE.genomes([SPACE.from_ops(ops)]))
        assert SPACE.architectures(found_NG) == [SPACE.from_ops(same)]
    assert SPACE.has_unused
    assert not get_space("nas-bench-macro").has_unused


def test_paths_are_those_that_a_walk_through_the_cell_finds() -> None:
    genomes_NG = SPACE.sample_many(300, np.random.default_rng(4))
    features = SPACE.path_features(genomes_NG)
    sequences: dict[frozenset[tuple[str, ...]], bytes] = {}
    for row, arch in enumerate(SPACE.architectures(genomes_NG)):
        ops = SPACE.to_ops(arch)

        def walks(node: int, before: tuple[str, ...], ops: tuple[str, ...] = ops) -> list[tuple[str, ...]]:
            if node == 3:
                return [before]
            onward = [(end, op) for (start, end), op in zip(EDGES, ops, strict=True) if start == node and op != "none"]
            return [found for end, op in onward for found in walks(end, (*before, op))]

        found = walks(0, ())
        convolutions = [sum(op.startswith("nor_conv") for op in walk) for walk in found]
        counted = [convolutions.count(depth) for depth in range(4)]
        deepest = [int(max(convolutions, default=0) == depth) for depth in range(4)]
        shallowest = [int(min(convolutions, default=-1) == depth) for depth in range(-1, 4)]
        assert features["depths"][row].tolist() == [*counted, *deepest, *shallowest]
        without_skips = frozenset(tuple(op for op in walk if op != "skip_connect") for walk in found)
        assert features["paths"][row].sum() == len(without_skips)
        # The same sequences have the same columns, whichever edges they lie on; others have others.
        assert sequences.setdefault(without_skips, features["paths"][row].tobytes()) == features["paths"][row].tobytes()
    assert len(set(sequences.values())) == len(sequences) > 100


def test_paths_do_not_see_operators_that_nobody_uses() -> None:
    genomes_NG = SPACE.sample_many(300, np.random.default_rng(5))
    of_function = SPACE.path_features(SPACE.functional(genomes_NG))
    for name, block_NB in SPACE.path_features(genomes_NG).items():
        np.testing.assert_array_equal(block_NB, of_function[name])


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
