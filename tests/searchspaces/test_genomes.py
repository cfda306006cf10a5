"""The bulk algebra, over spaces of any shape."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces.errors import SpaceError
from searchspaces.genomes import Choice, GenomeAlgebra, unique_genomes
from tests.searchspaces.tiny import TinySpace, choice_lists, enumerate_by_hand, tiny_spaces

SEEDS = st.integers(0, 2**32 - 1)
PROBABILITIES = st.sampled_from([0.0, 0.1, 0.5, 1.0])


@given(choices=choice_lists())
def test_size_is_what_listing_all_architectures_gives(choices: list[Choice]) -> None:
    assert GenomeAlgebra(choices).size() == len(enumerate_by_hand(choices))


@given(space=tiny_spaces(), seed=SEEDS)
def test_many_samples_reach_only_what_exists(space: TinySpace, seed: int) -> None:
    archs = space.architectures(space.sample_many(64, np.random.default_rng(seed)))
    assert {frozenset(arch.genes) for arch in archs} <= enumerate_by_hand(space.choices)


@given(space=tiny_spaces(), seed=SEEDS)
def test_unique_genomes_are_those_of_numpy_in_its_order(space: TinySpace, seed: int) -> None:
    genomes_NG = space.sample_many(64, np.random.default_rng(seed))
    assert (unique_genomes(genomes_NG) == np.unique(genomes_NG, axis=0)).all()
    assert unique_genomes(genomes_NG[:0]).shape == (0, genomes_NG.shape[1])


@given(space=tiny_spaces(), seed=SEEDS)
def test_canonicalising_twice_changes_nothing_more(space: TinySpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cardinality_G = [len(choice.values) for choice in space.choices]
    full_NG = rng.integers(0, cardinality_G, size=(16, len(cardinality_G))).astype(np.int8)
    before_NG = full_NG.copy()
    once_NG = space.canonicalise(full_NG)
    assert (space.canonicalise(once_NG) == once_NG).all()
    assert (full_NG == before_NG).all()
    assert space.architectures(full_NG) == space.architectures(once_NG)


@given(space=tiny_spaces(), seed=SEEDS)
def test_canonicalising_in_bulk_equals_dropping_inactive_genes_one_by_one(space: TinySpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cardinality_G = [len(choice.values) for choice in space.choices]
    full_NG = rng.integers(0, cardinality_G, size=(8, len(cardinality_G))).astype(np.int8)
    one_by_one = [
        space.architecture({c.name: c.values[entry] for c, entry in zip(space.choices, row, strict=True)})
        for row in full_NG
    ]
    assert space.architectures(full_NG) == one_by_one
    assert (space.genomes(one_by_one) == space.canonicalise(full_NG)).all()


@given(space=tiny_spaces(), seed=SEEDS, probability=PROBABILITIES)
def test_a_mutation_is_valid_and_new_wherever_the_space_allows_it(
    space: TinySpace, seed: int, probability: float
) -> None:
    rng = np.random.default_rng(seed)
    parents_NG = space.sample_many(24, rng)
    before_NG = parents_NG.copy()
    mutants_NG = space.mutate_many(parents_NG, rng, probability=probability)
    assert (parents_NG == before_NG).all()
    assert mutants_NG.dtype == np.int8
    assert (space.canonicalise(mutants_NG) == mutants_NG).all()
    cardinality_G = np.array([len(choice.values) for choice in space.choices])
    can_change_N = ((parents_NG >= 0) & (cardinality_G > 1)).any(axis=1)
    assert ((mutants_NG != parents_NG).any(axis=1) == can_change_N).all()


@given(seed=SEEDS)
def test_a_mutation_of_probability_zero_changes_one_active_choice(seed: int) -> None:
    space = TinySpace([Choice(name=f"g{number}", values=(1, 2, 3)) for number in range(6)])
    rng = np.random.default_rng(seed)
    parents_NG = space.sample_many(20, rng)
    changed_NG = space.mutate_many(parents_NG, rng, probability=0.0) != parents_NG
    assert (changed_NG.sum(axis=1) == 1).all()


@given(space=tiny_spaces(), seed=SEEDS)
def test_a_child_is_valid_and_takes_every_shared_gene_from_a_parent(space: TinySpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_NG, b_NG = space.sample_many(24, rng), space.sample_many(24, rng)
    child_NG = space.crossover_many(a_NG, b_NG, rng)
    assert (space.canonicalise(child_NG) == child_NG).all()
    known_NG = (child_NG >= 0) & ((a_NG >= 0) | (b_NG >= 0))
    assert ((child_NG == a_NG) | (child_NG == b_NG))[known_NG].all()


@given(space=tiny_spaces(), seed=SEEDS)
def test_a_child_of_equal_parents_is_the_parent(space: TinySpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_NG = space.sample_many(8, rng)
    assert (space.crossover_many(a_NG, a_NG, rng) == a_NG).all()


@given(space=tiny_spaces(), seed=SEEDS)
def test_bulk_equals_one_by_one(space: TinySpace, seed: int) -> None:
    """The scalar functions are the bulk ones of one row: the same generator gives the same architecture."""
    a, b = space.architectures(space.sample_many(2, np.random.default_rng(seed)))
    a_NG, b_NG = space.genomes([a]), space.genomes([b])

    def rng() -> np.random.Generator:
        return np.random.default_rng(seed + 1)

    assert space.genomes([space.sample(rng())]).tolist() == space.sample_many(1, rng()).tolist()
    assert space.genomes([space.mutate(a, rng(), probability=0.3)]).tolist() == (
        space.mutate_many(a_NG, rng(), probability=0.3).tolist()
    )
    assert space.genomes([space.crossover(a, b, rng())]).tolist() == (space.crossover_many(a_NG, b_NG, rng()).tolist())


@given(space=tiny_spaces(), seed=SEEDS)
def test_the_same_seed_gives_the_same_architectures(space: TinySpace, seed: int) -> None:
    once_NG = space.sample_many(8, np.random.default_rng(seed))
    again_NG = space.sample_many(8, np.random.default_rng(seed))
    assert (once_NG == again_NG).all()


@given(space=tiny_spaces(), seed=SEEDS)
def test_an_encoding_is_one_hot_and_tells_architectures_apart(space: TinySpace, seed: int) -> None:
    genomes_NG = space.sample_many(12, np.random.default_rng(seed))
    features_NF = space.encode_many(genomes_NG)
    assert features_NF.shape == (12, sum(len(choice.values) for choice in space.choices))
    assert features_NF.dtype == np.float32
    for features_F, arch in zip(features_NF, space.architectures(genomes_NG), strict=True):
        ones = {name for name, value in zip(space.feature_names, features_F, strict=True) if value == 1}
        assert ones == {f"{name}={value}" for name, value in arch.genes}
        assert features_F.sum() == len(ones)


def test_every_architecture_of_a_small_space_is_sampled_about_as_often_as_its_choices_say() -> None:
    space = TinySpace(
        [Choice(name="a", values=(1, 2)), Choice(name="b", values=(1, 2, 3), parent="a", parent_values=(2,))]
    )
    num = 12_000
    archs = space.architectures(space.sample_many(num, np.random.default_rng(0)))
    counts = {key: sum(frozenset(arch.genes) == key for arch in archs) for key in enumerate_by_hand(space.choices)}
    expected = {key: num / 2 if dict(key)["a"] == 1 else num / 6 for key in counts}
    assert len(counts) == 4
    for key, count in counts.items():
        assert abs(count - expected[key]) < 5 * np.sqrt(expected[key])


@pytest.mark.parametrize("num", [0, 1])
def test_no_architecture_or_one_is_a_batch_too(num: int) -> None:
    space = TinySpace(
        [Choice(name="a", values=(1, 2)), Choice(name="b", values=(1, 2), parent="a", parent_values=(2,))]
    )
    rng = np.random.default_rng(0)
    genomes_NG = space.sample_many(num, rng)
    assert genomes_NG.shape == (num, 2)
    assert space.mutate_many(genomes_NG, rng).shape == (num, 2)
    assert space.crossover_many(genomes_NG, genomes_NG, rng).shape == (num, 2)
    assert space.encode_many(genomes_NG).shape == (num, 4)
    assert len(space.architectures(genomes_NG)) == num
    assert space.genomes(space.architectures(genomes_NG)).shape == (num, 2)


SPACE = TinySpace(
    [Choice(name="depth", values=(1, 2)), Choice(name="k", values=(3, 5), parent="depth", parent_values=(2,))]
)


@pytest.mark.parametrize(
    ("genomes", "message"),
    [
        ([[2, 0]], "entry 2 of 'depth' is outside -1 ... 1"),
        ([[-2, 0]], "entry -2 of 'depth'"),
        ([[0, 0], [1, 7]], "genome 1: entry 7 of 'k'"),
        ([[1, -1]], "no value for the active choice 'k'"),
        ([[-1, 0]], "no value for the active choice 'depth'"),
    ],
)
def test_a_bad_entry_is_refused_with_its_name_and_range(genomes: list[list[int]], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        SPACE.canonicalise(np.array(genomes, dtype=np.int8))
    assert refusal.value.hint


@pytest.mark.parametrize(
    "genomes_NG",
    [np.zeros((1, 2), dtype=np.int64), np.zeros((1, 3), dtype=np.int8), np.zeros(2, dtype=np.int8)],
)
def test_an_array_of_another_type_or_shape_is_refused(genomes_NG: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for function in (
        lambda: SPACE.canonicalise(genomes_NG),
        lambda: SPACE.encode_many(genomes_NG),
        lambda: SPACE.mutate_many(genomes_NG, rng),
        lambda: SPACE.crossover_many(genomes_NG, genomes_NG, rng),
        lambda: SPACE.architectures(genomes_NG),
    ):
        with pytest.raises(SpaceError, match=r"int8 of shape \(N, 2\)"):
            function()


def test_parents_of_different_number_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(SpaceError, match="parents differ in shape"):
        SPACE.crossover_many(SPACE.sample_many(2, rng), SPACE.sample_many(3, rng), rng)


@pytest.mark.parametrize(
    ("values", "parent", "parent_values", "message"),
    [
        ((), None, (), "distinct values"),
        ((1, 1), None, (), "distinct values"),
        (tuple(range(128)), None, (), "1 to 127"),
        ((1, 2), "depth", (), "go together"),
        ((1, 2), None, (1,), "go together"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(
    values: tuple[int, ...], parent: str | None, parent_values: tuple[int, ...], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        Choice(name="g", values=values, parent=parent, parent_values=parent_values)


def test_choices_that_do_not_fit_together_are_refused() -> None:
    depth = Choice(name="depth", values=(1, 2))
    kernel = Choice(name="k", values=(3, 5), parent="depth", parent_values=(2,))
    with pytest.raises(SpaceError, match="same name"):
        GenomeAlgebra([depth, depth])
    with pytest.raises(SpaceError, match="does not come before it"):
        GenomeAlgebra([kernel, depth])
    with pytest.raises(SpaceError, match="does not come before it"):
        GenomeAlgebra([kernel])
    with pytest.raises(SpaceError, match="depth=7"):
        GenomeAlgebra([depth, Choice(name="k", values=(3, 5), parent="depth", parent_values=(7,))])


def test_the_largest_possible_choice_works() -> None:
    space = TinySpace([Choice(name="a", values=tuple(range(127)))])
    rng = np.random.default_rng(0)
    genomes_NG = space.sample_many(500, rng)
    mutants_NG = space.mutate_many(genomes_NG, rng, probability=0.0)
    assert genomes_NG.min() >= 0
    assert (mutants_NG != genomes_NG).all()
    assert mutants_NG.min() >= 0
    assert len(np.unique(genomes_NG)) > 100


def test_three_generations_of_conditions_are_counted_and_sampled() -> None:
    choices = [
        Choice(name="a", values=(1, 2)),
        Choice(name="b", values=(1, 2), parent="a", parent_values=(2,)),
        Choice(name="c", values=(1, 2, 3), parent="b", parent_values=(1, 2)),
    ]
    space = TinySpace(choices)
    assert space.size == 1 + 2 * 3 == len(enumerate_by_hand(choices))
    for a, b in itertools.pairwise(space.architectures(space.sample_many(50, np.random.default_rng(1)))):
        child = space.crossover(a, b, np.random.default_rng(2))
        space.validate(child)
