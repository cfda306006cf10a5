"""Small spaces of any shape, drawn by hypothesis: their architectures can be counted by listing them."""

import itertools

from hypothesis import strategies as st

from searchspaces.architecture import Architecture, Value
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import OpTable, OpTableBuilder
from searchspaces.space import SearchSpace


class TinySpace(SearchSpace):
    """Choices without a network: one operator, whose cost is the number of active genes."""

    def __init__(self, choices: list[Choice]) -> None:
        super().__init__("tiny", choices=choices)

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        return 1, 8, 8

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        active_N = (genomes_NG >= 0).sum(axis=1)
        build = OpTableBuilder(len(genomes_NG), network_input_elements=1)
        build.add("all", kind="linear", stage=0, macs=active_N, params=0, input_elements=1, output_elements=num_classes)
        return build.build()


@st.composite
def choice_lists(draw: st.DrawFn, *, most: int = 5) -> list[Choice]:
    """Up to `most` choices of 1 ... 3 values; each may depend on some values of an earlier one."""
    choices: list[Choice] = []
    for number in range(draw(st.integers(1, most))):
        kinds: list[tuple[Value, ...]] = [(1, 2, 3), (0.5, 1.5, 2.5), ("a", "b", "c")]
        values = draw(st.sampled_from(kinds))[: draw(st.integers(1, 3))]
        parent = draw(st.sampled_from([None, *choices]))
        if parent is None:
            choices.append(Choice(name=f"g{number}", values=values))
            continue
        wanted = draw(st.lists(st.sampled_from(parent.values), min_size=1, unique=True))
        choices.append(Choice(name=f"g{number}", values=values, parent=parent.name, parent_values=tuple(wanted)))
    return choices


def tiny_spaces() -> st.SearchStrategy[TinySpace]:
    return choice_lists().map(TinySpace)


def enumerate_by_hand(choices: list[Choice] | tuple[Choice, ...]) -> set[frozenset[tuple[str, Value]]]:
    """All distinct sets of active genes, from the plain product of all values: slow, and obviously right."""
    found = set()
    for values in itertools.product(*(choice.values for choice in choices)):
        active: dict[str, Value] = {}
        for choice, value in zip(choices, values, strict=True):
            if choice.parent is None or active.get(choice.parent) in choice.parent_values:
                active[choice.name] = value
        found.add(frozenset(active.items()))
    return found
