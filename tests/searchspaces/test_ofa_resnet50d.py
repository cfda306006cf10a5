"""The once-for-all ResNet50D space: its genes, its size, its channels, the published spelling."""

from typing import Any

import numpy as np
import pytest

from searchspaces import get_space
from searchspaces.errors import SpaceError
from searchspaces.genomes import Choice
from searchspaces.ofa_resnet50d import EXPANDS, WIDTHS, ResNet50DSpace, hidden_channels, ofa_resnet50d
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract

SPACE = ofa_resnet50d()
FULL_D, FULL_E, FULL_W = [2] * 5, [0.35] * 18, [2] * 6


class TestOfaResNet50D(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return ofa_resnet50d()


def test_the_size_is_exact() -> None:
    # eight resolutions, two stem depths, three widths in six places, three ratios for each of the blocks that run
    two_to_four, four_to_six = (sum(3**depth for depth in depths) for depths in ((2, 3, 4), (4, 5, 6)))
    assert SPACE.size == 8 * 2 * 3**6 * two_to_four**3 * four_to_six == 19_671_318_375_696


def test_the_kinds_of_choices_are_those_that_progressive_shrinking_opens() -> None:
    assert {choice.kind for choice in SPACE.choices} == {"resolution", "depth", "width", "expand"}
    numbers = {kind: sum(choice.kind == kind for choice in SPACE.choices) for kind in ("depth", "width", "expand")}
    assert numbers == {"depth": 5, "width": 6, "expand": 18}


def test_channels_are_the_published_ones() -> None:
    config = SPACE.config
    assert [config.stem_mid_channels(w) for w in WIDTHS] == [24, 24, 32]
    assert [config.stem_channels(w) for w in WIDTHS] == [40, 48, 64]
    assert [[config.stage_channels(stage, w) for w in WIDTHS] for stage in range(4)] == [
        [168, 208, 256],
        [336, 408, 512],
        [664, 816, 1024],
        [1328, 1640, 2048],
    ]
    assert [hidden_channels(256, e) for e in EXPANDS] == [48, 64, 88]


def test_the_largest_network_is_counted_by_hand() -> None:
    space = ofa_resnet50d(resolutions=[224])
    operators = {op.name: op for op in space.graph(space.largest, num_classes=1000).operators}
    assert operators["stem.conv1"].macs == 112 * 112 * 32 * 3 * 9
    assert operators["stem.pool"].output_elements == 56 * 56 * 64
    # the 3x3 convolution carries the stride, the shortcut pools before it projects
    assert operators["stage2.block1.conv1"].output_elements == 56 * 56 * 176
    assert operators["stage2.block1.conv2"].macs == 28 * 28 * 176 * 176 * 9
    assert operators["stage2.block1.shortcut_pool"].output_elements == 28 * 28 * 256
    assert operators["stage2.block1.shortcut_conv"].params == 256 * 512 + 2 * 512
    assert "stage1.block1.shortcut_pool" not in operators
    assert operators["classifier"].params == 2049 * 1000


def test_a_stage_runs_its_first_blocks() -> None:
    names = {op.name for op in SPACE.graph(SPACE.smallest).operators}
    assert "stem.conv2" not in names
    assert "stage3.block4.conv1" in names
    assert "stage3.block5.conv1" not in names
    assert "stage1.block3.conv1" not in names


def test_two_widths_inside_the_stem_are_one_network_by_rounding() -> None:
    genes = dict(SPACE.largest.genes)
    archs = [SPACE.architecture({**genes, "stem.mid.width": width}) for width in WIDTHS]
    params = SPACE.op_table(SPACE.genomes(archs)).params.sum(axis=1)
    assert params[0] == params[1] < params[2]


def test_lists_of_the_published_code_round_trip() -> None:
    for arch in (SPACE.smallest, SPACE.largest, *SPACE.architectures(SPACE.sample_many(200, np.random.default_rng(0)))):
        assert SPACE.from_ofa(**SPACE.to_ofa(arch)) == arch


def test_the_ends_of_the_space_in_the_published_spelling() -> None:
    assert SPACE.to_ofa(SPACE.largest) == {"d": FULL_D, "e": FULL_E, "w": FULL_W, "resolution": 256}
    assert SPACE.to_ofa(SPACE.smallest) == {"d": [0] * 5, "e": [0.2] * 18, "w": [0] * 6, "resolution": 128}


def test_published_entries_land_in_their_stage_and_block() -> None:
    arch = SPACE.from_ofa(
        d=[0, 2, 0, 1, 2],
        e=[0.25] + [0.2] * 3 + [0.35] + [0.2] * 3 + [0.25] * 6 + [0.2] * 3 + [0.35],
        w=[0, 1, 2, 1, 0, 2],
        resolution=160,
    )
    assert arch["resolution"] == 160
    assert [arch[f"stage{stage}.depth"] for stage in (1, 2, 3, 4)] == [4, 2, 5, 4]
    assert [arch[name] for name in ("stem.mid.width", "stem.width", "stage1.width", "stage3.width")] == [
        0.65,
        0.8,
        1.0,
        0.65,
    ]
    assert [arch[f"stage{stage}.block1.expand"] for stage in (1, 2, 3, 4)] == [0.25, 0.35, 0.25, 0.2]
    assert arch["stage4.block4.expand"] == 0.35
    assert arch.get("stage2.block3.expand") is None


def test_expand_ratios_of_blocks_that_do_not_run_are_ignored() -> None:
    ratios = [0.2] * 18
    bare = {"d": [2, 0, 0, 0, 0], "w": FULL_W, "resolution": 224}
    with_others = [*ratios[:2], 9.0, 0.0, *ratios[4:]]
    assert SPACE.from_ofa(e=with_others, **bare) == SPACE.from_ofa(e=ratios, **bare)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": [2, 2, 2, 2]}, "d needs a list of 5 entries"),
        ({"e": [0.35] * 17}, "e needs a list of 18 entries"),
        ({"w": [2] * 5}, "w needs a list of 6 entries"),
        ({"w": 2}, "w needs a list of 6 entries"),
        ({"d": [1, 2, 2, 2, 2]}, r"d\[0\] is 1, allowed are 0, 2"),
        ({"d": [2, 2, 3, 2, 2]}, r"d\[2\] is 3, allowed are 0, 1, 2"),
        ({"w": [2, 2, 2, 2, 2, 3]}, r"w\[5\] is 3"),
        ({"w": [2, 2, 2, 2, 2, True]}, r"w\[5\] is True"),
        ({"e": [0.35] * 17 + [0.3]}, r"e\[17\] is 0.3"),
        ({"resolution": 200}, "resolution is 200, allowed are 128, .* 256"),
    ],
)
def test_lists_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    lists = {"d": FULL_D, "e": FULL_E, "w": FULL_W, "resolution": 224, **change}
    with pytest.raises(SpaceError, match=message) as refusal:
        SPACE.from_ofa(**lists)  # type: ignore[arg-type]
    assert refusal.value.hint


def test_numbers_of_numpy_are_numbers() -> None:
    as_numpy: dict[str, Any] = {
        "d": [np.int64(2)] * 5,
        "e": [np.float64(0.35)] * 17 + [np.float32(0.35)],
        "w": [np.int8(2)] * 6,
        "resolution": np.int64(256),
    }
    arch = SPACE.from_ofa(**as_numpy)
    assert arch == SPACE.largest
    assert {type(value) for _, value in arch.genes} == {int, float}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": [64, 8192]}, "resolutions is 8192, at most 4096 is allowed"),
        ({"in_channels": 2**16 + 1}, "in_channels is 65537, at most 65536"),
        ({"resolutions": [32]}, "resolution 32 is too small for a total stride of 32"),
        ({"resolutions": [192, 160]}, "resolutions must be ascending"),
        ({"resolutions": 224}, "resolutions must be ascending"),
        ({"width": 0}, "width is 0"),
        ({"width": "1"}, "width is '1'"),
        ({"in_channels": 0}, "in_channels must be a positive integer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        get_space("ofa-resnet50d", **settings)
    assert refusal.value.hint


def test_settings_make_another_space() -> None:
    spaces: list[ResNet50DSpace] = [
        SPACE,
        ofa_resnet50d(resolutions=[64, 96]),
        ofa_resnet50d(width=0.5),
        ofa_resnet50d(in_channels=1),
    ]
    assert len({space.space_id for space in spaces}) == len(spaces)
    assert ofa_resnet50d(width=2).space_id == ofa_resnet50d(width=2.0).space_id
    assert spaces[1].input_shape(spaces[1].largest) == (3, 96, 96)
    assert spaces[3].input_shape(SPACE.smallest) == (1, 128, 128)


def test_opening_kinds_limits_what_is_sampled() -> None:
    opened = {"expand": 1, "width": 2, "depth": 1}
    genomes_NG = SPACE.sample_many(50, np.random.default_rng(0), lowest_G=SPACE.lowest_positions(opened))
    drawn: dict[str, set[object]] = {kind: set() for kind in ("expand", "width", "depth", "resolution")}
    kinds: dict[str, Choice] = {choice.name: choice for choice in SPACE.choices}
    for arch in SPACE.architectures(genomes_NG):
        for name, value in arch.genes:
            drawn[kinds[name].kind].add(value)
    assert drawn["expand"] == {0.35}
    assert drawn["width"] == {0.8, 1.0}
    assert drawn["depth"] == {3, 4, 6}
    assert drawn["resolution"] == set(SPACE.config.resolutions)
