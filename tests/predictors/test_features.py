import numpy as np
import pytest

from hardware.cost import analytic_costs
from predictors.features import LatencyFeatures, of_function, take
from predictors.regressors import find_regressors
from searchspaces import SearchSpace, SpaceError, get_space


def test_totals_are_the_analytic_costs(space: SearchSpace) -> None:
    genomes_NG = space.sample_many(30, np.random.default_rng(1))
    totals_NT = LatencyFeatures(space=space).encode(genomes_NG)["totals"]
    costs = analytic_costs(space.op_table(genomes_NG))
    np.testing.assert_array_equal(totals_NT[:, 1], costs.macs_N)
    np.testing.assert_array_equal(totals_NT[:, 2], costs.params_N)
    np.testing.assert_array_equal(4 * totals_NT[:, 2:].sum(axis=1), costs.bytes_moved_N)


@pytest.mark.parametrize("block", ["kinds", "stages"])
def test_every_grain_adds_up_to_the_totals(space: SearchSpace, block: str) -> None:
    blocks = LatencyFeatures(space=space).encode(space.sample_many(30, np.random.default_rng(2)))
    groups_NCK = blocks[block].reshape(30, 5, -1)
    np.testing.assert_array_equal(groups_NCK.sum(axis=2), blocks["totals"])


def test_genomes_that_are_not_canonical_have_the_features_of_their_architecture(space: SearchSpace) -> None:
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(20, np.random.default_rng(3))
    sloppy_NG = np.where(genomes_NG < 0, 0, genomes_NG).astype(np.int8)
    clean, sloppy = features.encode(genomes_NG), features.encode(sloppy_NG)
    assert all((clean[name] == sloppy[name]).all() for name in clean)


def test_taking_rows_takes_them_from_every_block(space: SearchSpace) -> None:
    blocks = LatencyFeatures(space=space).encode(space.sample_many(5, np.random.default_rng(4)))
    some = take(blocks, np.array([3, 1]))
    assert set(some) == set(blocks)
    assert all((some[name] == blocks[name][[3, 1]]).all() for name in blocks)


def test_the_signature_is_stable_and_tells_spaces_apart(space: SearchSpace) -> None:
    signature = LatencyFeatures(space=space).signature()
    assert signature == LatencyFeatures(space=get_space("mbconv-small")).signature()
    assert signature != LatencyFeatures(space=get_space("mbconv-small", resolutions=(16, 20))).signature()


def test_genomes_of_the_wrong_shape_are_refused(space: SearchSpace) -> None:
    with pytest.raises(SpaceError):
        LatencyFeatures(space=space).encode(np.zeros((2, 1), dtype=np.int8))


def test_operators_that_nobody_uses_are_left_out_of_the_live_blocks() -> None:
    space = get_space("nasbench201")
    genomes_NG = space.sample_many(200, np.random.default_rng(0))
    blocks = LatencyFeatures(space=space).encode(genomes_NG)
    live = LatencyFeatures(space=space).encode(space.functional(genomes_NG))
    for name in ("totals", "kinds", "shapes", "stages", "choices"):
        assert np.array_equal(blocks[f"live-{name}"], live[name])
    assert (blocks["live-totals"][:, 1] < blocks["totals"][:, 1]).any()
    assert not any(
        name.startswith("live-")
        for name in LatencyFeatures(space=get_space("fbnet")).encode(
            get_space("fbnet").sample_many(2, np.random.default_rng(0))
        )
    )


def test_paths_are_told_to_accuracy_alone() -> None:
    space = get_space("nasbench201")
    blocks = LatencyFeatures(space=space).encode(space.sample_many(30, np.random.default_rng(6)))
    assert np.array_equal(of_function(blocks)["paths"], blocks["function-paths"])
    assert np.array_equal(of_function(blocks)["depths"], blocks["function-depths"])
    assert not {"paths", "depths"} & set(blocks)
    cost_N = 1.0 + np.random.default_rng(7).uniform(size=30)
    without = {name: block_NB for name, block_NB in blocks.items() if not name.startswith("function-")}
    for family in (one for one in find_regressors() if one.fewest <= 30 and (one.needs is None or one.needs in blocks)):
        said, alone = (family.fit(some, cost_N, population=some).predict(some)[0] for some in (blocks, without))
        assert np.array_equal(said, alone), family.name
