import numpy as np
import pytest

from predictors.features import LatencyFeatures
from predictors.operator_sums import OperatorSums
from searchspaces import OpTable, get_space
from searchspaces.errors import SpaceError


def macs(table: OpTable) -> list[np.ndarray]:
    return [table.macs.astype(np.float64)]


@pytest.mark.parametrize(
    "name", ["mbconv-small", "ofa-mobilenetv3-w1.0", "ofa-resnet50d", "nasbench201", "fbnet", "conv1d-sensor"]
)
def test_sums_from_tables_are_those_over_the_operators(name: str) -> None:
    space = get_space(name)
    genomes_NG = np.concatenate(
        [space.genomes([space.smallest, space.largest]), space.sample_many(300, np.random.default_rng(5))]
    )
    table = space.op_table(genomes_NG)
    num_slots = len(table.names)
    sums = OperatorSums(space, macs, members=[np.ones((num_slots, 1))])
    np.testing.assert_allclose(sums.of(genomes_NG)[:, 0], table.macs.sum(axis=1), rtol=1e-12)
    # it is the tables that are tested here, not what is done where they cannot be had
    assert sums.num_tables > 0


def test_what_depends_on_too_many_genes_is_summed_directly() -> None:
    space = get_space("ofa-mobilenetv3-w1.0")

    def entangled(table: OpTable) -> list[np.ndarray]:
        return [table.macs * table.macs.sum(axis=1, keepdims=True) / 1e9]

    genomes_NG = space.sample_many(50, np.random.default_rng(6))
    table = space.op_table(genomes_NG)
    sums = OperatorSums(space, entangled, members=[np.ones((len(table.names), 1))])
    assert sums.num_tables == 0
    np.testing.assert_allclose(sums.of(genomes_NG)[:, 0], entangled(table)[0].sum(axis=1), rtol=1e-9)


def test_no_rows_give_no_rows_and_foreign_ones_are_refused() -> None:
    space = get_space("mbconv-small")
    features = LatencyFeatures(space=space)
    nothing = features.encode(space.sample_many(0, np.random.default_rng(0)))
    assert {len(block) for block in nothing.values()} == {0}
    with pytest.raises(SpaceError):
        features.encode(np.full((1, len(space.choices)), 99, dtype=np.int8))
