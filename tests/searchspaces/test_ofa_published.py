"""Published specialised networks are rebuilt from their facts: their MACs are the published ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from searchspaces.errors import SpaceError
from searchspaces.ofa_published import PublishedNetwork, published_macs, published_network

# Kept beside a checkout for development; the facts below are checked everywhere.
FACTS = Path(__file__).parents[3] / "shared" / "data" / "ofa" / "specialized_nets_published.json"

MOBILENETV3 = (24, 40, 80, 112, 160)
MOBILENETV3_WIDE = (32, 48, 96, 136, 192)
PROXYLESS = (32, 56, 104, 128, 248, 416)


def facts(stem: int, image_size: int, widths: Sequence[int], ks: str, e: str) -> PublishedNetwork:
    """Facts from texts with a digit for every block and a space between stages."""
    return {
        "stem": stem,
        "image_size": image_size,
        "stages": [
            {"width": width, "ks": [int(k) for k in kernels], "e": [int(x) for x in expands]}
            for width, kernels, expands in zip(widths, ks.split(), e.split(), strict=True)
        ],
    }


# (facts, million MACs) from the names and model descriptions of the once-for-all model zoo
PUBLISHED = {
    "note8 22 ms": (facts(16, 140, MOBILENETV3, "33 55 73 53 37", "33 33 43 34 66"), 66.4),
    "lg-g8 24 ms": (facts(16, 220, MOBILENETV3, "33 753 555 375 5733", "33 433 643 443 6664"), 228.3),
    "flops 595M": (facts(24, 236, MOBILENETV3_WIDE, "353 5535 7535 3573 3353", "343 4463 6634 6664 6663"), 592.3),
    "note10 64 ms": (facts(24, 260, MOBILENETV3_WIDE, "333 5335 5537 5333 3353", "363 4633 6644 6664 6663"), 740.2),
    "cpu 17 ms": (facts(40, 208, PROXYLESS, "33 53 373 553 353 3", "34 34 633 346 643 4"), 364.5),
    "gpu 27 ms": (facts(40, 188, PROXYLESS, "33 3533 535 535 3573 7", "33 6644 634 644 6636 6"), 396.7),
}


def macs_of(network: PublishedNetwork) -> float:
    space, arch = published_network(network)
    return float(published_macs(space.op_table(space.genomes([arch]), num_classes=1000))[0]) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_agree_with_the_published_figure(name: str) -> None:
    network, published = PUBLISHED[name]
    assert macs_of(network) == pytest.approx(published, abs=0.051)


@pytest.mark.skipif(not FACTS.exists(), reason="the list of all published networks is not beside this checkout")
def test_macs_of_all_published_networks_agree_within_rounding() -> None:
    entries: list[dict[str, Any]] = json.loads(FACTS.read_text())
    assert len(entries) == 50
    for entry in entries:
        network = PublishedNetwork(stem=entry["stem"], image_size=entry["image_size"], stages=entry["stages"])
        assert macs_of(network) == pytest.approx(entry["macs_M"], abs=0.051), entry["id"]


def test_counting_squeeze_excite_would_not_agree() -> None:
    network, published = PUBLISHED["note8 22 ms"]
    space, arch = published_network(network)
    assert space.op_table(space.genomes([arch]), num_classes=1000).macs.sum() / 1e6 > 1.01 * published


def test_a_network_of_a_resolution_outside_the_grid_is_the_only_resolution_of_its_space() -> None:
    space, arch = published_network(PUBLISHED["flops 595M"][0])
    assert space.input_shape(arch) == (3, 236, 236)
    assert space.space_id.startswith("ofa-mobilenetv3-w1.2-")
    assert {choice.name: choice.values for choice in space.choices}["resolution"] == (236,)


def test_a_published_network_can_be_built() -> None:
    network, _ = PUBLISHED["note8 22 ms"]
    space, arch = published_network(network)
    built = space.build_supernet(num_classes=1000).extract(arch)
    table = space.op_table(space.genomes([arch]), num_classes=1000)
    assert sum(parameter.numel() for parameter in built.parameters()) == table.params.sum()


def test_facts_that_fit_no_space_are_refused() -> None:
    network, _ = PUBLISHED["note8 22 ms"]
    with pytest.raises(SpaceError, match="no once-for-all space has stem 17") as refusal:
        published_network({**network, "stem": 17})
    assert "ofa-proxyless-w1.3" in refusal.value.hint
    first, *others = network["stages"]
    for change in ({"ks": [3] * 5, "e": [3] * 5}, {"ks": [3], "e": [3]}, {"ks": [4, 3]}, {"e": [3, 3, 3]}):
        with pytest.raises(SpaceError):
            published_network({**network, "stages": [{**first, **change}, *others]})  # type: ignore[typeddict-item]
