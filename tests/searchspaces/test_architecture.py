"""An architecture is a value with one spelling."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces.architecture import Architecture, Value
from searchspaces.errors import SpaceError

VALUES: st.SearchStrategy[Value] = st.one_of(
    st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
)
GENES = st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=6)


@given(genes=GENES, space_id=st.text(min_size=1, max_size=12))
def test_json_round_trips_exactly(genes: dict[str, Value], space_id: str) -> None:
    arch = Architecture(space_id=space_id, genes=tuple(genes.items()))
    restored = Architecture.from_json(arch.to_json())
    assert restored == arch
    assert hash(restored) == hash(arch)
    assert restored.to_json() == arch.to_json()
    assert restored.arch_id == arch.arch_id


@given(genes=GENES, data=st.data())
def test_the_order_of_genes_does_not_matter(genes: dict[str, Value], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(list(genes.items())))
    a = Architecture(space_id="s", genes=tuple(genes.items()))
    b = Architecture(space_id="s", genes=tuple(shuffled))
    assert a == b
    assert a.arch_id == b.arch_id


def test_json_is_canonical_and_ascii() -> None:
    arch = Architecture(space_id="s", genes=(("kernel", 3), ("depth", 2), ("act", "relu")))
    assert arch.to_json() == '{"genes":{"act":"relu","depth":2,"kernel":3},"space":"s"}'


def test_the_id_is_twelve_hexadecimal_digits_and_stays_what_it_was() -> None:
    arch = Architecture(space_id="mbconv-small", genes=(("resolution", 16),))
    # A changed id would orphan every run directory that was written before.
    assert arch.arch_id == "adebbf5a4bbe"
    assert len(arch.arch_id) == 12


def test_different_spaces_or_genes_have_different_ids() -> None:
    archs = [
        Architecture(space_id="s", genes=(("depth", 1),)),
        Architecture(space_id="t", genes=(("depth", 1),)),
        Architecture(space_id="s", genes=(("depth", 2),)),
        Architecture(space_id="s", genes=(("depth", "1"),)),
        Architecture(space_id="s", genes=()),
    ]
    assert len({arch.arch_id for arch in archs}) == len(archs)


def test_genes_are_read_by_name() -> None:
    arch = Architecture(space_id="s", genes=(("depth", 1),))
    assert arch["depth"] == 1
    assert arch.get("depth") == 1
    assert arch.get("kernel") is None
    assert arch.get("kernel", 3) == 3


def test_an_inactive_gene_is_refused_with_the_active_ones() -> None:
    arch = Architecture(space_id="s", genes=(("depth", 1), ("resolution", 16)))
    with pytest.raises(SpaceError, match="'kernel' is not active") as refusal:
        arch["kernel"]
    assert "depth, resolution" in refusal.value.hint


def test_an_architecture_cannot_be_changed() -> None:
    arch = Architecture(space_id="s", genes=(("depth", 1),))
    with pytest.raises(AttributeError):
        arch.space_id = "t"  # type: ignore[misc]
    assert copy.deepcopy(arch) == arch


@pytest.mark.parametrize(
    ("space_id", "genes"),
    [("", (("depth", 1),)), ("s", (("depth", 1), ("depth", 2)))],
)
def test_a_missing_space_or_a_gene_twice_is_refused(space_id: str, genes: tuple[tuple[str, Value], ...]) -> None:
    with pytest.raises(SpaceError, match="space id and distinct genes"):
        Architecture(space_id=space_id, genes=genes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"genes": {}}',
        '{"genes": {}, "space": 3}',
        '{"genes": [], "space": "s"}',
        '{"genes": {}, "space": "s", "more": 1}',
        '{"genes": {}, "space": ""}',
    ],
)
def test_text_that_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(SpaceError) as refusal:
        Architecture.from_json(text)
    assert refusal.value.hint


@pytest.mark.parametrize("value", [True, None, [1], {"a": 1}])
def test_a_gene_value_that_is_no_number_or_text_is_named(value: object) -> None:
    with pytest.raises(SpaceError, match="'depth'"):
        Architecture.from_json(json.dumps({"genes": {"depth": value}, "space": "s"}))
