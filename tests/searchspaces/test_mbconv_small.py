"""The space of the quickstart: its genes, its size, its operators."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces.architecture import Architecture, Value
from searchspaces.errors import SpaceError
from searchspaces.mbconv_small import MBConvConfig, MBConvSpace, Stage, mbconv_small, round_channels
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract
from tests.searchspaces.tiny import enumerate_by_hand

SPACE = mbconv_small()
SEEDS = st.integers(0, 2**32 - 1)
TWO_STAGES = MBConvConfig(
    resolutions=(8, 12),
    kernels=(3, 5),
    expands=(2,),
    stages=(Stage(channels=8, stride=1, depths=(1, 2)), Stage(channels=16, stride=2, depths=(2, 3))),
)


class TestMBConvSmall(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return mbconv_small()


class TestMBConvOfOtherShape(SearchSpaceContract):
    """Three input channels, and depths that do not begin at one."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        return MBConvSpace(replace(TWO_STAGES, in_channels=3))


def test_the_size_is_exact() -> None:
    # three resolutions; in each of three stages 9 kinds of block in 1, 2 or 3 blocks
    assert SPACE.size == 3 * (9 + 9**2 + 9**3) ** 3
    assert SPACE.size >= 10**6


def test_the_size_of_a_smaller_space_equals_listing_it() -> None:
    space = MBConvSpace(TWO_STAGES)
    assert space.size == len(enumerate_by_hand(space.choices)) == 2 * (2 + 4) * (4 + 8)


def test_a_block_is_active_only_when_its_stage_is_deep_enough() -> None:
    rng = np.random.default_rng(0)
    for arch in SPACE.architectures(SPACE.sample_many(200, rng)):
        for stage, block in itertools.product((1, 2, 3), (1, 2, 3)):
            is_active = int(arch[f"stage{stage}.depth"]) >= block
            assert (arch.get(f"stage{stage}.block{block}.kernel") is not None) == is_active
            assert (arch.get(f"stage{stage}.block{block}.expand") is not None) == is_active


def test_smallest_and_largest_are_the_ends_of_every_choice() -> None:
    assert SPACE.smallest["resolution"] == 16
    assert SPACE.largest["resolution"] == 24
    assert {SPACE.smallest[f"stage{stage}.depth"] for stage in (1, 2, 3)} == {1}
    assert {value for name, value in SPACE.smallest.genes if name.endswith("kernel")} == {3}
    assert {value for name, value in SPACE.largest.genes if name.endswith("kernel")} == {7}
    assert {value for name, value in SPACE.largest.genes if name.endswith("expand")} == {6}
    assert len(SPACE.largest.genes) == len(SPACE.choices) == 1 + 3 * (1 + 3 * 2)


@given(seed=SEEDS)
def test_no_sampled_architecture_costs_more_than_the_largest_or_less_than_the_smallest(seed: int) -> None:
    genomes_NG = SPACE.sample_many(16, np.random.default_rng(seed))
    ends = SPACE.op_table(SPACE.genomes([SPACE.smallest, SPACE.largest]))
    table = SPACE.op_table(genomes_NG)
    for counts, limits in ((table.macs, ends.macs), (table.params, ends.params)):
        assert (counts.sum(axis=1) >= limits[0].sum()).all()
        assert (counts.sum(axis=1) <= limits[1].sum()).all()


@given(seed=SEEDS)
def test_an_operator_table_in_bulk_equals_graphs_one_by_one(seed: int) -> None:
    genomes_NG = SPACE.sample_many(6, np.random.default_rng(seed))
    table = SPACE.op_table(genomes_NG, num_classes=7)
    for row, arch in enumerate(SPACE.architectures(genomes_NG)):
        graph = SPACE.graph(arch, num_classes=7)
        assert graph == table.graph(row)
        assert sum(operator.macs for operator in graph.operators) == table.macs[row].sum()
        assert sum(operator.params for operator in graph.operators) == table.params[row].sum()
        assert len(graph.operators) == table.present()[row].sum()


def test_an_operator_table_has_one_shape_for_every_architecture() -> None:
    table = SPACE.op_table(SPACE.genomes([SPACE.smallest, SPACE.largest]))
    num_slots = len(table.names)
    assert len(set(table.names)) == num_slots
    assert len(table.kinds) == len(table.stages) == num_slots
    assert set(table.stages) == {-1, 0, 1, 2}
    for counts in (table.macs, table.params, table.input_elements, table.output_elements):
        assert counts.shape == (2, num_slots)
        assert counts.dtype == np.int64
        assert (counts >= 0).all()
        assert (counts[~table.present()] == 0).all()
    assert table.present()[1].all()
    assert not table.present()[0].all()


def test_the_stem_of_the_largest_network_is_counted_by_hand() -> None:
    space = MBConvSpace(MBConvConfig(resolutions=(24,), stem_channels=16, stem_stride=2))
    stem = space.graph(space.largest).operators[0]
    # 24 pixels, stride 2: 12 x 12 outputs of 16 channels, each 3 x 3 weights of one input channel
    assert (stem.name, stem.kind, stem.stage) == ("stem", "conv", -1)
    assert stem.macs == 12 * 12 * 16 * 9
    assert stem.params == 16 * 9 + 2 * 16
    assert stem.input_elements == 24 * 24
    assert stem.output_elements == 12 * 12 * 16


def test_no_architecture_gives_an_empty_table() -> None:
    table = SPACE.op_table(np.empty((0, len(SPACE.choices)), dtype=np.int8))
    assert table.macs.shape == (0, len(table.names))


def test_the_classifier_counts_its_classes() -> None:
    space = MBConvSpace(MBConvConfig(head_channels=128))
    genomes_NG = space.genomes([space.smallest])
    ten, twenty = (space.op_table(genomes_NG, num_classes=classes) for classes in (10, 20))
    assert twenty.params.sum() - ten.params.sum() == 10 * (128 + 1)
    assert twenty.macs.sum() - ten.macs.sum() == 10 * 128


def test_resolution_is_a_gene() -> None:
    for size in (16, 20, 24):
        arch = SPACE.architecture({**dict(SPACE.smallest.genes), "resolution": size})
        assert SPACE.resolution(arch) == size


def test_spaces_of_different_settings_have_different_identities() -> None:
    spaces = [
        mbconv_small(),
        mbconv_small(resolutions=(16, 20)),
        mbconv_small(in_channels=3),
        MBConvSpace(TWO_STAGES),
        MBConvSpace(MBConvConfig(head_channels=40)),
    ]
    assert len({space.space_id for space in spaces}) == len(spaces)
    assert mbconv_small().space_id == "mbconv-small"
    assert mbconv_small(resolutions=(16, 20)).space_id == mbconv_small(resolutions=(16, 20)).space_id


def test_an_architecture_of_other_settings_is_refused() -> None:
    other = mbconv_small(resolutions=(16, 20))
    with pytest.raises(SpaceError, match="belongs to space"):
        SPACE.validate(other.smallest)
    with pytest.raises(SpaceError, match="belongs to space"):
        SPACE.genomes([SPACE.smallest, other.smallest])


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"stage1.block1.kernel": 4}, r"'stage1.block1.kernel' has value 4, allowed are \[3, 5, 7\]"),
        ({"stage1.block1.kernel": True}, "has value True"),
        ({"stage1.block1.kernel": 3.0}, "has value 3.0"),
        ({"stage1.block1.kernel": "3"}, "has value '3'"),
        ({"stage1.block3.kernel": 9}, "has value 9"),
        ({"stage4.depth": 1}, "no gene 'stage4.depth'"),
        ({"stage1.depth": 2}, "'stage1.block2.kernel' is active but has no value"),
    ],
)
def test_a_bad_gene_is_named_with_its_value_and_what_is_allowed(genes: dict[str, Value], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        SPACE.architecture({**dict(SPACE.smallest.genes), **genes})
    assert refusal.value.hint


def test_a_missing_gene_is_named() -> None:
    genes = dict(SPACE.smallest.genes)
    del genes["resolution"]
    with pytest.raises(SpaceError, match="'resolution' is active but has no value"):
        SPACE.architecture(genes)


def test_inactive_genes_are_dropped_when_building_and_refused_when_given() -> None:
    genes = {**dict(SPACE.smallest.genes), "stage1.block2.kernel": 5}
    assert SPACE.architecture(genes) == SPACE.smallest
    smuggled = Architecture(space_id=SPACE.space_id, genes=tuple(genes.items()))
    with pytest.raises(SpaceError, match=r"inactive genes: stage1\.block2\.kernel"):
        SPACE.validate(smuggled)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": ()}, "resolutions must be ascending"),
        ({"resolutions": (20, 16)}, r"resolutions must be ascending positive integers, got \[20, 16\]"),
        ({"resolutions": (16, 16)}, "resolutions must be ascending"),
        ({"resolutions": (16.0,)}, "resolutions must be ascending"),
        ({"resolutions": (4,)}, "resolution 4 is too small for a total stride of 8"),
        ({"kernels": (3, 4)}, "kernels odd"),
        ({"expands": (0, 3)}, "expands must be ascending"),
        ({"stem_channels": 0}, "widths must be positive"),
        ({"stem_stride": 3}, "strides 1 or 2"),
        ({"stages": ()}, "widths must be positive"),
        ({"stages": (Stage(channels=8, stride=1, depths=(2, 1)),)}, r"stages\[1\].depths"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        MBConvConfig(**settings)  # type: ignore[arg-type]
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("channels", "rounded"), [(1, 8), (8.8, 8), (9, 16), (12, 16), (16, 16), (16.1, 16), (20, 24), (19, 24), (9.5, 16)]
)
def test_channels_are_rounded_to_eights_without_losing_a_tenth(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


@given(channels=st.floats(1, 4096))
def test_rounding_channels_never_loses_more_than_a_tenth(channels: float) -> None:
    assert round_channels(channels) % 8 == 0
    assert round_channels(channels) >= 0.9 * channels
    assert round_channels(channels) <= channels + 12
