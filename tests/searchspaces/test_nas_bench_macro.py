"""NAS-Bench-Macro: published keys, published parameters and FLOPs, settings."""

import itertools

import numpy as np
import pytest

from searchspaces import get_space
from searchspaces.errors import SpaceError
from searchspaces.nas_bench_macro import nas_bench_macro
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract

SPACE = nas_bench_macro()

# key -> published params and flops. Both are sums over the layers, so these 17 settle all 6,561.
PUBLISHED = {
    "00000000": (387882, 7713280),
    "10000000": (396298, 12128768),
    "20000000": (409834, 17854976),
    "01000000": (415082, 14447104),
    "02000000": (448298, 22753792),
    "00100000": (419050, 12018176),
    "00200000": (464554, 17240576),
    "00010000": (491434, 14225920),
    "00020000": (607018, 21524992),
    "00001000": (491434, 14225920),
    "00002000": (607018, 21524992),
    "00000100": (507562, 11962880),
    "00000200": (672298, 16933376),
    "00000010": (791594, 14115328),
    "00000020": (1219370, 20910592),
    "00000001": (791594, 14115328),
    "00000002": (1219370, 20910592),
}


class TestNASBenchMacro(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return nas_bench_macro()


class TestNASBenchMacroOfOtherShape(SearchSpaceContract):
    """Several resolutions, few channels."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        return nas_bench_macro(resolutions=[16, 24], width=0.25, in_channels=1)


def test_the_costs_of_the_published_networks_are_reproduced_exactly() -> None:
    table = SPACE.op_table(SPACE.genomes([SPACE.from_key(key) for key in PUBLISHED]))
    told = list(zip(table.params.sum(axis=1).tolist(), table.macs.sum(axis=1).tolist(), strict=True))
    assert told == list(PUBLISHED.values())


def test_costs_are_sums_over_the_layers() -> None:
    keys = ["".join(digits) for digits in itertools.product("012", repeat=8)]
    table = SPACE.op_table(SPACE.genomes([SPACE.from_key(key) for key in keys]))
    base = PUBLISHED["00000000"]
    for counts, part in ((table.params, 0), (table.macs, 1)):
        deltas = {
            (layer, digit): PUBLISHED["0" * layer + digit + "0" * (7 - layer)][part] - base[part]
            for layer in range(8)
            for digit in "012"
        }
        expected = [base[part] + sum(deltas[layer, digit] for layer, digit in enumerate(key)) for key in keys]
        assert counts.sum(axis=1).tolist() == expected


def test_the_size_is_that_of_the_benchmark_and_every_key_is_its_own_network() -> None:
    keys = ["".join(digits) for digits in itertools.product("012", repeat=8)]
    assert SPACE.size == len(keys) == 6561
    assert len({SPACE.from_key(key) for key in keys[::7]}) == len(keys[::7])
    assert nas_bench_macro(resolutions=[24, 32]).size == 2 * 6561


def test_keys_round_trip() -> None:
    for arch in SPACE.architectures(SPACE.sample_many(100, np.random.default_rng(0))):
        assert SPACE.from_key(SPACE.to_key(arch)) == arch
    assert SPACE.to_key(SPACE.smallest) == "00000000"
    assert SPACE.to_key(SPACE.largest) == "22222222"
    arch = SPACE.from_key("01200000")
    assert [arch[f"layer{layer}.op"] for layer in (1, 2, 3)] == ["identity", "mbconv-e3-k3", "mbconv-e6-k5"]


def test_a_key_may_name_its_resolution() -> None:
    space = nas_bench_macro(resolutions=[24, 32])
    assert space.input_shape(space.from_key("00000000")) == (3, 32, 32)
    assert space.input_shape(space.from_key("00000000", resolution=24)) == (3, 24, 24)
    with pytest.raises(SpaceError, match="'resolution' has value 28"):
        space.from_key("00000000", resolution=28)


@pytest.mark.parametrize("key", ["", "0011220", "001122000", "00112203", "0011220a", " 0112200"])
def test_a_key_of_another_form_is_refused_with_an_example(key: str) -> None:
    with pytest.raises(SpaceError, match="no key of 'nas-bench-macro'") as refusal:
        SPACE.from_key(key)
    assert "00112200" in refusal.value.hint


def test_an_identity_that_changes_the_shape_is_a_convolution_and_any_other_is_nothing() -> None:
    names = [operator.name for operator in SPACE.graph(SPACE.smallest).operators]
    downsamples = [f"layer{layer}.downsample" for layer in (1, 3, 6)]
    assert names == ["stem", *downsamples, "head", "pool", "classifier"]


def test_a_block_has_a_shortcut_where_the_shape_stays() -> None:
    names = {operator.name for operator in SPACE.graph(SPACE.largest).operators}
    assert {name for name in names if name.endswith(".add")} == {f"layer{layer}.add" for layer in (2, 4, 5, 7, 8)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": [8]}, "resolution 8 is too small for a total stride of 8"),
        ({"resolutions": []}, "resolutions must be ascending"),
        ({"resolutions": "32"}, "resolutions must be ascending"),
        ({"width": 20}, "width is 20"),
        ({"width": True}, "width is True"),
        ({"width": None}, "width is None"),
        ({"in_channels": 1.0}, "in_channels must be a positive integer"),
        ({"layers": 9}, "no setting 'layers'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        get_space("nas-bench-macro", **settings)
    assert refusal.value.hint


def test_settings_make_another_space_and_are_taken_as_a_recipe_gives_them() -> None:
    spaces = [SPACE, nas_bench_macro(resolutions=[28]), nas_bench_macro(width=0.5), nas_bench_macro(in_channels=1)]
    assert len({space.space_id for space in spaces}) == len(spaces)
    assert get_space("nas-bench-macro", resolutions=[32], width=1).space_id == "nas-bench-macro"
    assert nas_bench_macro(width=2).space_id == nas_bench_macro(width=2.0).space_id


def test_width_multiplies_all_channels() -> None:
    half = nas_bench_macro(width=0.5).config
    assert half.stem_channels == 16
    assert [layer.out_channels for layer in half.layers] == [32, 32, 64, 64, 64, 128, 128, 128]
    assert half.head_channels == 640
