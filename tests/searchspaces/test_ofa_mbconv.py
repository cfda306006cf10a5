"""The published once-for-all spaces of inverted-residual networks, and the lists that their code speaks."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from searchspaces import get_space
from searchspaces.errors import SpaceError
from searchspaces.ofa_mbconv import OfaMBConvSpace
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract

NAMES = ["ofa-mobilenetv3-w1.0", "ofa-mobilenetv3-w1.2", "ofa-proxyless-w1.3"]
PER_STAGE = 9**2 + 9**3 + 9**4  # 3 kernels x 3 expand ratios in 2, 3 or 4 blocks


def ofa_space(name: str, **settings: Any) -> OfaMBConvSpace:
    space = get_space(name, **settings)
    assert isinstance(space, OfaMBConvSpace)
    return space


class TestOfaMobileNetV3(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("ofa-mobilenetv3-w1.0")


class TestOfaMobileNetV3Wide(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("ofa-mobilenetv3-w1.2", resolutions=[160, 224])


class TestOfaProxyless(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("ofa-proxyless-w1.3")


@pytest.mark.parametrize(
    ("name", "per_resolution"),
    [(NAMES[0], PER_STAGE**5), (NAMES[1], PER_STAGE**5), (NAMES[2], PER_STAGE**5 * 9)],
)
def test_the_sizes_are_the_published_ones(name: str, per_resolution: int) -> None:
    assert PER_STAGE == 7371
    assert get_space(name).size == 25 * per_resolution
    assert get_space(name, resolutions=[224]).size == per_resolution


@pytest.mark.parametrize(
    ("name", "stem", "first", "stages", "head", "mix"),
    [
        ("ofa-mobilenetv3-w1.0", 16, 16, (24, 40, 80, 112, 160), 960, 1280),
        ("ofa-mobilenetv3-w1.2", 24, 24, (32, 48, 96, 136, 192), 1152, 1536),
        ("ofa-proxyless-w1.3", 40, 24, (32, 56, 104, 128, 248, 416), 1664, None),
    ],
)
def test_the_channels_are_the_published_ones(
    name: str, stem: int, first: int, stages: tuple[int, ...], head: int, mix: int | None
) -> None:
    config = ofa_space(name).config
    assert config.first_block is not None
    assert (config.stem_channels, config.first_block.channels) == (stem, first)
    assert tuple(stage.channels for stage in config.stages) == stages
    assert (config.head_channels, config.mix_channels) == (head, mix)


def test_only_mobilenetv3_has_squeeze_excite_and_a_shortcut_in_its_first_block() -> None:
    slots = {name: get_space(name).op_table(get_space(name).genomes([get_space(name).largest])) for name in NAMES}
    units = [slot for slot, kind in zip(slots[NAMES[0]].names, slots[NAMES[0]].kinds, strict=True) if kind == "se"]
    assert units == [f"stage{stage}.block{block}.se" for stage in (2, 4, 5) for block in (1, 2, 3, 4)]
    assert "se" not in slots["ofa-proxyless-w1.3"].kinds
    assert ["first.add" in slots[name].names for name in NAMES] == [True, True, False]
    assert ["mix" in slots[name].names for name in NAMES] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "learnable"),
    [("ofa-mobilenetv3-w1.0", 7_678_880), ("ofa-mobilenetv3-w1.2", 10_715_752), ("ofa-proxyless-w1.3", 7_956_882)],
)
def test_the_largest_network_has_the_published_number_of_parameters(name: str, learnable: int) -> None:
    space = ofa_space(name)
    table = space.op_table(space.genomes([space.largest]), num_classes=1000)
    num_blocks = len(space.to_ofa(space.largest)["ks"])
    # the published tensors also hold the kernel transforms 7 -> 5 and 5 -> 3 of every block
    assert int(table.params.sum()) + num_blocks * (25 * 25 + 9 * 9) == learnable


@pytest.mark.parametrize("name", NAMES)
def test_once_for_all_lists_round_trip(name: str) -> None:
    space = ofa_space(name)
    archs = [space.smallest, space.largest, *space.architectures(space.sample_many(60, np.random.default_rng(1)))]
    for arch in archs:
        lists = space.to_ofa(arch)
        assert (len(lists["ks"]), len(lists["e"]), len(lists["d"])) == ((21, 21, 6) if "prox" in name else (20, 20, 5))
        assert space.from_ofa(**lists) == arch


def test_entries_of_the_lists_become_the_genes_of_their_blocks() -> None:
    space = ofa_space("ofa-mobilenetv3-w1.0")
    ks, e, d = [3] * 20, [4] * 20, [2, 3, 4, 2, 2]
    ks[5], e[8 + 3], ks[16] = 5, 6, 7  # stage 2 block 2, stage 3 block 4, stage 5 block 1
    arch = space.from_ofa(ks=ks, e=e, d=d, resolution=132)
    assert (arch["stage2.block2.kernel"], arch["stage3.block4.expand"], arch["stage5.block1.kernel"]) == (5, 6, 7)
    assert [arch[f"stage{stage}.depth"] for stage in range(1, 6)] == d
    assert space.input_shape(arch) == (3, 132, 132)


def test_entries_of_blocks_that_are_left_out_are_ignored_whatever_they_say() -> None:
    space = ofa_space("ofa-mobilenetv3-w1.0")
    ks, e = [3, 3, 0, 99] * 5, [6, 6, 0, -1] * 5
    arch = space.from_ofa(ks=ks, e=e, d=[2] * 5, resolution=224)
    assert arch == space.from_ofa(ks=[3] * 20, e=[6] * 20, d=[2] * 5, resolution=224)


def test_the_depth_of_the_last_proxyless_stage_is_one_whatever_is_given() -> None:
    space = ofa_space("ofa-proxyless-w1.3")
    archs = {space.from_ofa(ks=[5] * 21, e=[4] * 21, d=[3, 3, 3, 3, 3, last], resolution=192) for last in (1, 2, 4)}
    assert [arch["stage6.depth"] for arch in archs] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": [3] * 19}, r"ks needs a list of 20 entries for space 'ofa-mobilenetv3-w1\.0', got 19"),
        ({"e": [3] * 21}, "e needs a list of 20 entries .* got 21"),
        ({"d": [2] * 6}, "d needs a list of 5 entries .* got 6"),
        ({"d": 2}, "d needs a list of 5 entries .* got 2"),
        ({"ks": "3" * 20}, "ks needs a list of 20 entries"),
        ({"ks": [3] * 4 + [9] + [3] * 15}, r"ks\[4\] is 9, allowed are 3, 5, 7"),
        ({"ks": [True] + [3] * 19}, r"ks\[0\] is True"),
        ({"e": [3.5] + [3] * 19}, r"e\[0\] is 3\.5, allowed are 3, 4, 6"),
        ({"e": [np.float64(2)] + [3] * 19}, r"e\[0\] is 2\.0, allowed"),
        ({"d": [2, 2, 5, 2, 2]}, r"d\[2\] is 5, allowed are 2, 3, 4"),
        ({"d": [2, 2, 2, 2, None]}, r"d\[4\] is None"),
        ({"resolution": 130}, "resolution is 130, allowed are 128, 132.* 220, 224"),
        ({"resolution": np.True_}, "resolution is True"),
        ({"resolution": "224"}, "resolution is '224'"),
    ],
)
def test_lists_that_do_not_fit_are_refused_with_the_entry(change: dict[str, Any], message: str) -> None:
    lists: dict[str, Any] = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "resolution": 224}
    with pytest.raises(SpaceError, match=message) as refusal:
        ofa_space("ofa-mobilenetv3-w1.0").from_ofa(**{**lists, **change})
    assert refusal.value.hint
    assert "counted" not in refusal.value.hint


def test_numbers_of_numpy_are_numbers() -> None:
    space, rng = ofa_space("ofa-mobilenetv3-w1.0"), np.random.default_rng(0)
    lists = space.to_ofa(space.sample(rng))
    as_numpy: dict[str, Any] = {
        "ks": [np.int64(k) for k in lists["ks"]],
        "e": [np.float32(e) for e in lists["e"]],
        "d": [float(d) for d in lists["d"]],
        "resolution": np.int32(lists["resolution"]),
    }
    arch = space.from_ofa(**as_numpy)
    assert arch == space.from_ofa(**lists)
    assert {type(value) for _, value in arch.genes} == {int}


def test_an_architecture_of_another_space_has_no_lists() -> None:
    with pytest.raises(SpaceError, match="belongs to space"):
        ofa_space("ofa-mobilenetv3-w1.0").to_ofa(get_space("ofa-mobilenetv3-w1.2").smallest)


def test_settings_other_than_the_published_ones_give_an_id_of_their_own() -> None:
    for name in NAMES:
        ids = {get_space(name, **settings).space_id for settings in ({}, {"resolutions": [64]}, {"in_channels": 1})}
        assert name in ids
        assert len(ids) == 3
        assert all(space_id == name or space_id.startswith(f"{name}-") for space_id in ids)
    assert get_space(NAMES[0], resolutions=list(range(128, 225, 4)), in_channels=3).space_id == NAMES[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": [32]}, r"stage 5 leaves 1 x 1 pixels"),
        ({"resolutions": [224, 128]}, "resolutions must be ascending"),
        ({"in_channels": "3"}, "in_channels must be a positive integer, got '3'"),
        ({"width": 1.0}, "no setting 'width'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        get_space("ofa-mobilenetv3-w1.0", **settings)


def test_the_spaces_are_data_that_need_no_torch() -> None:
    code = (
        "import sys; from searchspaces import get_space; import searchspaces.ofa_published;"
        f"[get_space(name).graph(get_space(name).largest) for name in {NAMES!r}]; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
