"""The space of the quickstart: its genes, its size, its operators."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchspaces import get_space
from searchspaces.architecture import Architecture, Value
from searchspaces.errors import SpaceError
from searchspaces.mbconv import MBConvConfig, MBConvSpace, Stage
from searchspaces.mbconv_small import mbconv_small
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract
from tests.searchspaces.tiny import enumerate_by_hand

SPACE = mbconv_small()
SEEDS = st.integers(0, 2**32 - 1)
TWO_STAGES = MBConvConfig(
    resolutions=(8, 12),
    stages=(
        Stage(channels=8, stride=1, depths=(1, 2), kernels=(3, 5), expands=(2,)),
        Stage(channels=16, stride=2, depths=(2, 3), kernels=(3, 5), expands=(2,)),
    ),
)
# What a recipe for 32-pixel colour images could say; YAML gives nothing but lists, mappings, texts and numbers.
LAID_OUT: dict[str, Any] = {
    "resolutions": [28, 32],
    "in_channels": 3,
    "stem_channels": 16,
    "stem_stride": 1,
    "head_channels": 128,
    "kernels": [3, 5],
    "expands": [2, 4],
    "activation": "h-swish",
    "stages": [
        {"channels": 16, "stride": 1, "depths": [1, 2], "activation": "relu"},
        {"channels": 32, "stride": 2, "depths": [2], "se": True, "kernels": [3, 5, 7]},
        {"channels": 48, "stride": 2, "depths": [1, 3], "expands": [3], "se": True},
    ],
}


class TestMBConvSmall(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return mbconv_small()


class TestMBConvOfOtherShape(SearchSpaceContract):
    """Three input channels, and depths that do not begin at one."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        return MBConvSpace(replace(TWO_STAGES, in_channels=3))


class TestMBConvLaidOutByARecipe(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("mbconv-small", **LAID_OUT)


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


@settings(max_examples=25)
@given(seed=SEEDS)
def test_no_sampled_architecture_costs_more_than_the_largest_or_less_than_the_smallest(seed: int) -> None:
    genomes_NG = SPACE.sample_many(16, np.random.default_rng(seed))
    ends = SPACE.op_table(SPACE.genomes([SPACE.smallest, SPACE.largest]))
    table = SPACE.op_table(genomes_NG)
    for counts, limits in ((table.macs, ends.macs), (table.params, ends.params)):
        assert (counts.sum(axis=1) >= limits[0].sum()).all()
        assert (counts.sum(axis=1) <= limits[1].sum()).all()


@settings(max_examples=25)
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


def test_resolution_is_a_gene_and_decides_the_input() -> None:
    for size in (16, 20, 24):
        arch = SPACE.architecture({**dict(SPACE.smallest.genes), "resolution": size})
        assert SPACE.input_shape(arch) == (1, size, size)


def test_the_default_space_is_the_one_of_recorded_runs() -> None:
    arch = SPACE.architectures(SPACE.sample_many(1, np.random.default_rng(0)))[0]
    assert (SPACE.space_id, arch.arch_id) == ("mbconv-small", "8e1eed5712ca")
    table = SPACE.op_table(SPACE.sample_many(30, np.random.default_rng(0)))
    totals = [int(counts.sum()) for counts in (table.macs, table.params, table.input_elements)]
    assert totals == [38_842_088, 1_605_820, 1_590_336]


def test_settings_that_spell_out_the_default_are_the_default() -> None:
    stages = [
        {"channels": 16, "stride": 1, "depths": [1, 2, 3], "kernels": [3, 5, 7], "se": False},
        {"channels": 24, "stride": 2, "depths": [1, 2, 3], "activation": "relu"},
        {"channels": 40, "stride": 2, "depths": [1, 2, 3]},
    ]
    space = get_space("mbconv-small", stages=stages, expands=[3, 4, 6], width=1, stem_channels=8)
    assert space.space_id == "mbconv-small"
    assert space.choices == SPACE.choices


def test_a_recipe_lays_out_stages() -> None:
    space = get_space("mbconv-small", **LAID_OUT)
    assert isinstance(space, MBConvSpace)
    first, second, third = space.config.stages
    assert first == Stage(channels=16, stride=1, depths=(1, 2), kernels=(3, 5), expands=(2, 4), activation="relu")
    assert (second.kernels, second.expands, second.activation, second.se) == ((3, 5, 7), (2, 4), "h-swish", True)
    assert (third.channels, third.depths, third.expands) == (48, (1, 3), (3,))
    assert space.input_shape(space.smallest) == (3, 28, 28)
    # stage 1: 4 kinds of block in 1 or 2; stage 2: 6 kinds in exactly 2; stage 3: 2 kinds in 1 or 3
    assert space.size == 2 * (4 + 4**2) * 6**2 * (2 + 2**3)
    assert {choice.kind for choice in space.choices} == {"resolution", "depth", "kernel", "expand"}
    assert space.space_id.startswith("mbconv-small-")


def test_width_scales_and_rounds_all_channels_but_leaves_them_alone_at_one() -> None:
    stages = [{"channels": 10, "stride": 1, "depths": [1]}]
    alone, half = (mbconv_small(stages=stages, stem_channels=12, width=width).config for width in (1.0, 2.5))
    assert (alone.stem_channels, alone.stages[0].channels, alone.head_channels) == (12, 10, 96)
    assert (half.stem_channels, half.stages[0].channels, half.head_channels) == (32, 24, 240)


def test_squeeze_excite_is_an_operator_of_its_own_counted_by_hand() -> None:
    space = get_space("mbconv-small", **LAID_OUT)
    operators = {op.name: op for op in space.graph(space.largest).operators}
    assert "stage1.block1.se" not in operators
    unit = operators["stage2.block1.se"]
    # 16 channels expanded by 4 are 64 on 16 x 16 pixels, squeezed to 16; both convolutions have biases
    assert (unit.kind, unit.stage) == ("se", 1)
    assert unit.macs == 2 * 64 * 16
    assert unit.params == 2 * 64 * 16 + 64 + 16
    assert unit.input_elements == unit.output_elements == 64 * 16 * 16


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


GOOD_STAGE = {"channels": 8, "stride": 1, "depths": [1, 2]}


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"resolutions": []}, "resolutions must be ascending"),
        ({"resolutions": [20, 16]}, r"resolutions must be ascending positive integers, got \[20, 16\]"),
        ({"resolutions": [16, 16]}, "resolutions must be ascending"),
        ({"resolutions": [16.0]}, "resolutions must be ascending"),
        ({"resolutions": [True]}, "resolutions must be ascending"),
        ({"resolutions": 16}, "resolutions must be ascending positive integers, got 16"),
        ({"resolutions": [8]}, r"stage 3 leaves 1 x 1 pixels of resolution 8"),
        ({"resolutions": [1]}, "the stem leaves 1 x 1 pixels"),
        ({"kernels": [3, 4]}, r"stage 1: kernels must be odd, got \[3, 4\]"),
        ({"kernels": "3"}, "kernels must be ascending positive integers, got '3'"),
        ({"expands": [0, 3]}, "expands must be ascending"),
        ({"expands": [3.5]}, "expands must be ascending"),
        ({"width": 0}, "width is 0, expected a number from 0.1 to 10"),
        ({"width": "1"}, "width is '1'"),
        ({"in_channels": 0}, "in_channels must be a positive integer, got 0"),
        ({"in_channels": True}, "in_channels must be a positive integer, got True"),
        ({"stem_channels": 0}, "stem_channels must be a positive integer, got 0"),
        ({"stem_channels": "8"}, "stem_channels must be a positive integer, got '8'"),
        ({"head_channels": 96.0}, "head_channels must be a positive integer, got 96.0"),
        ({"stem_stride": 3}, "stem_stride is 3, allowed are 1, 2"),
        ({"stem_stride": True}, "stem_stride is True, allowed are 1, 2"),
        ({"activation": "swish"}, "activation is 'swish', allowed are 'relu', 'relu6', 'h-swish'"),
        ({"activation": ["relu"]}, "activation is"),
        ({"stages": []}, "stages is empty"),
        ({"stages": 3}, "stages must be a list of mappings, got 3"),
        ({"stages": GOOD_STAGE}, "stages must be a list of mappings"),
        ({"stages": [GOOD_STAGE, 16]}, r"stage 2 must be a mapping, got 16"),
        ({"stages": [{"channels": 8, "stride": 1}]}, r"stage 1: depths is missing"),
        ({"stages": [GOOD_STAGE, {**GOOD_STAGE, "depths": [2, 1]}]}, r"stage 2: depths must be ascending"),
        ({"stages": [{**GOOD_STAGE, "depths": 2}]}, r"stage 1: depths must be ascending positive integers, got 2"),
        ({"stages": [{**GOOD_STAGE, "depths": [0, 1]}]}, r"stage 1: depths must be ascending"),
        ({"stages": [{**GOOD_STAGE, "channels": -8}]}, r"stage 1: channels must be a positive integer, got -8"),
        ({"stages": [{**GOOD_STAGE, "channels": None}]}, r"stage 1: channels must be a positive integer"),
        ({"stages": [{**GOOD_STAGE, "stride": 4}]}, r"stage 1: stride is 4, allowed are 1, 2"),
        ({"stages": [{**GOOD_STAGE, "stride": "2"}]}, r"stage 1: stride is '2'"),
        ({"stages": [GOOD_STAGE, {**GOOD_STAGE, "kernels": [2]}]}, r"stage 2: kernels must be odd"),
        ({"stages": [{**GOOD_STAGE, "expands": []}]}, r"stage 1: expands must be ascending"),
        ({"stages": [{**GOOD_STAGE, "se": "yes"}]}, r"stage 1: se is 'yes', allowed are True, False"),
        ({"stages": [{**GOOD_STAGE, "se": 1}]}, r"stage 1: se is 1"),
        ({"stages": [{**GOOD_STAGE, "activation": "gelu"}]}, r"stage 1: activation is 'gelu'"),
        ({"stages": [GOOD_STAGE, {**GOOD_STAGE, "depth": [1]}]}, r"stage 2 has no setting 'depth'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_their_place(given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        get_space("mbconv-small", **given_settings)
    assert refusal.value.hint


def test_an_unknown_setting_of_a_stage_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(SpaceError) as refusal:
        get_space("mbconv-small", stages=[{**GOOD_STAGE, "kernel": [3]}])
    assert "did you mean 'kernels'?" in refusal.value.hint
    with pytest.raises(SpaceError) as refusal:
        get_space("mbconv-small", stages=[{**GOOD_STAGE, 7: [3]}])
    assert "did you mean" not in refusal.value.hint


@pytest.mark.parametrize("strides", [(1, 1), (1, 2), (2, 2), (2, 2, 2), (2, 1, 2, 2, 2)])
def test_the_smallest_resolution_that_the_hint_names_is_the_smallest_that_fits(strides: tuple[int, ...]) -> None:
    stages = tuple(Stage(channels=8, stride=stride) for stride in strides)
    with pytest.raises(SpaceError, match="pixels of resolution 1,") as refusal:
        MBConvConfig(resolutions=(1,), stages=stages)
    total = 2 * int(np.prod(strides))
    assert f"at least {total + 1} pixels" in refusal.value.hint
    MBConvConfig(resolutions=(total + 1,), stages=stages)
    with pytest.raises(SpaceError):
        MBConvConfig(resolutions=(total,), stages=stages)
