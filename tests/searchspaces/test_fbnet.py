"""FBNet's layers: costs checked by hand, and the published spelling of its networks."""

import numpy as np
import pytest

from searchspaces.errors import SpaceError
from searchspaces.fbnet import OPERATORS, fbnet
from searchspaces.space import SearchSpace
from searchspaces.testing import SearchSpaceContract

SPACE = fbnet()


class TestFBNet(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return fbnet()


def test_the_size_is_nine_to_the_power_of_22() -> None:
    assert SPACE.size == 9**22
    assert not SPACE.trainable


def test_a_layer_costs_what_its_operators_cost() -> None:
    # layer 3: stage 2, 24 channels at 56 pixels, with a shortcut
    genes = {**dict(SPACE.smallest.genes), "layer3.op": "k5_e1_g2"}
    costs = {op.name: (op.macs, op.params) for op in SPACE.graph(SPACE.architecture(genes)).operators}
    pixels = 56 * 56
    assert costs["layer3.expand"] == (24 * 24 // 2 * pixels, 24 * 24 // 2 + 48)
    assert costs["layer3.depthwise"] == (24 * 25 * pixels, 24 * 25 + 48)
    assert costs["layer3.project"] == costs["layer3.expand"]
    assert costs["layer3.add"] == (0, 0)
    # a skip that changes the number of channels is a convolution, another one is nothing
    assert costs["layer2.skip"] == (16 * 24 * pixels, 16 * 24 + 48)
    assert "layer4.skip" not in costs


def test_published_rows_become_genomes() -> None:
    names = tuple(reversed(OPERATORS))
    rows_NL = np.tile(np.arange(9), 3)[None, :22]
    arch = SPACE.architectures(SPACE.genomes_of(rows_NL, names=names))[0]
    assert [arch[f"layer{number + 1}.op"] for number in range(9)] == list(names)
    with pytest.raises(SpaceError, match="k7_e1"):
        SPACE.genomes_of(rows_NL, names=(*names, "k7_e1"))
    with pytest.raises(SpaceError, match=r"\(1, 5\)") as caught:
        SPACE.genomes_of(rows_NL[:, :5], names=names)
    assert "give (N, 22) positions" in caught.value.hint
