"""Phases: what is open when, for how long, at which rate."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TrainingError
from nas.training.phases import Phase, input_kinds, phase_at, phases_of, smallest_open
from nas.training.settings import PhaseSettings, TrainSettings
from searchspaces import Architecture, SearchSpace, get_space
from searchspaces.space import Choice
from tests.nas.training.gloo_child import PROGRESSIVE, SMALL
from tests.searchspaces.tiny import TinySpace

MBCONV = get_space("mbconv-small")
PUBLISHED = replace(PROGRESSIVE, epochs=590, learning_rate=0.03, warmup_epochs=5)


class SeriesSpace(TinySpace):
    """Kinds that the published networks do not have; "length" is the size of the input."""

    def __init__(self) -> None:
        super().__init__(
            [
                Choice(name="length", values=(32, 64, 128)),
                Choice(name="stage1.width", values=(0.5, 0.75, 1.0)),
                Choice(name="stage1.op", values=("a", "b", "c")),
                Choice(name="stage1.dilation", values=(1, 2)),
                Choice(name="stage1.pool", values=(2,)),
                Choice(name="stage1.depth", values=(1, 2, 3, 4)),
            ]
        )

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        return 3, int(arch["length"])


def outline(phases: tuple[Phase, ...]) -> list[tuple[str, int]]:
    return [(phase.name, phase.epochs) for phase in phases]


def by_hand(*phases: PhaseSettings, space: SearchSpace = MBCONV, epochs: int | None = None) -> tuple[Phase, ...]:
    total = sum(phase.epochs for phase in phases) if epochs is None else epochs
    return phases_of(space, replace(PROGRESSIVE, epochs=total, phases=phases))


def test_the_published_phases_come_out_at_the_published_length() -> None:
    phases = phases_of(MBCONV, PUBLISHED)
    assert outline(phases) == [
        ("teacher", 180), ("kernel", 120), ("depth 1", 25), ("depth 2", 120), ("expand 1", 25), ("expand 2", 120)
    ]  # fmt: skip
    assert [phase.learning_rate for phase in phases] == pytest.approx([3e-2, 3e-2, 2.5e-3, 7.5e-3, 2.5e-3, 7.5e-3])
    assert [phase.num_subnets for phase in phases] == [1, 1, 2, 2, 4, 4]
    assert [phase.warmup_epochs for phase in phases] == pytest.approx([5, 5, 0, 5, 0, 5])
    assert [phase.rule for phase in phases] == ["teacher"] + ["progressive"] * 5


def test_each_phase_opens_more_of_one_kind_and_the_last_one_everything() -> None:
    phases = phases_of(MBCONV, PUBLISHED)
    assert [tuple(phase.opened.values()) for phase in phases] == [
        (1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 3, 1), (3, 3, 2), (3, 3, 3)
    ]  # fmt: skip
    assert all(tuple(phase.opened) == ("kernel", "depth", "expand") for phase in phases)


def test_channels_are_sorted_before_more_expand_ratios_open_and_never_else() -> None:
    phases = phases_of(MBCONV, PUBLISHED)
    found = [later.sorts_channels(before) for before, later in pairwise(phases)]
    assert found == [False, False, False, True, True]


def test_other_kinds_follow_and_what_cannot_be_opened_is_left_out() -> None:
    space = SeriesSpace()
    assert input_kinds(space) == {"length"}
    phases = phases_of(space, replace(PUBLISHED, epochs=100))
    # Operators open at once, two values are opened together, one value is none to open, the length is always elastic.
    assert [phase.name for phase in phases] == ["teacher", "depth 1", "depth 2", "width 1", "width 2", "op", "dilation"]
    assert "length" not in phases[0].opened
    assert phases[-1].opened == {"depth": 4, "width": 3, "op": 3, "dilation": 2, "pool": 1}
    assert phases[3].sorts_channels(phases[2])


def test_a_space_of_operators_has_a_teacher_and_one_phase() -> None:
    assert [phase.name for phase in phases_of(get_space("nasbench201"), PUBLISHED)] == ["teacher", "op"]


@given(st.integers(6, 2000))
def test_every_phase_has_an_epoch_and_together_they_have_all(epochs: int) -> None:
    phases = phases_of(MBCONV, replace(PUBLISHED, epochs=epochs))
    assert sum(phase.epochs for phase in phases) == epochs
    assert min(phase.epochs for phase in phases) >= 1
    assert phases[0].first_epoch == 0
    assert all(a.last_epoch == b.first_epoch for a, b in pairwise(phases))
    assert [phase_at(phases, phase.first_epoch) for phase in phases] == list(range(6))
    assert [phase_at(phases, phase.last_epoch - 1) for phase in phases] == list(range(6))


def test_fewer_epochs_than_phases_are_refused_with_the_phases() -> None:
    with pytest.raises(TrainingError, match=r"train\.epochs is 5, .* 6 phases .*: teacher, kernel, depth 1") as caught:
        phases_of(MBCONV, replace(PUBLISHED, epochs=5))
    assert caught.value.hint == "set train.epochs to 6 or more"


def test_the_sandwich_rule_has_one_phase_with_everything_open() -> None:
    (phase,) = phases_of(MBCONV, replace(PUBLISHED, method="sandwich", random_subnets=3))
    assert (phase.rule, phase.epochs, phase.num_subnets, phase.passes) == ("sandwich", 590, 3, 5.0)
    assert (phase.learning_rate, phase.warmup_epochs) == (0.03, 5)
    assert phase.opened == {"kernel": 3, "depth": 3, "expand": 3}


def test_a_warm_up_longer_than_half_a_phase_is_cut() -> None:
    (phase,) = phases_of(MBCONV, replace(PUBLISHED, method="sandwich", epochs=1, warmup_epochs=3))
    assert phase.warmup_epochs == 0.5


@pytest.mark.parametrize("method", ["sandwich", "progressive"])
def test_a_start_from_other_weights_begins_with_a_short_gentle_phase_of_the_largest_network(method: str) -> None:
    started = replace(PUBLISHED, method=method, start_sha256="0" * 64)
    teacher, following = phases_of(MBCONV, started)[:2]
    assert (teacher.name, teacher.rule) == ("teacher", "teacher")
    assert teacher.learning_rate == pytest.approx(0.25 * 0.03)
    assert teacher.epochs < following.epochs / 3
    assert following.learning_rate == 0.03


def test_the_smallest_open_subnet_has_the_smallest_open_values() -> None:
    arch = smallest_open(MBCONV, {"kernel": 3, "depth": 2, "expand": 1})
    genes = dict(arch.genes)
    assert genes["resolution"] == 16
    assert {genes[name] for name in genes if name.endswith("kernel")} == {3}
    assert {genes[name] for name in genes if name.endswith("depth")} == {2}
    assert {genes[name] for name in genes if name.endswith("expand")} == {6}


def test_phases_by_hand_add_up_and_may_use_published_names() -> None:
    phases = by_hand(
        PhaseSettings(open={}, epochs=4, learning_rate=0.1, warmup_epochs=1.0),
        PhaseSettings(open="depth 1", epochs=2, learning_rate=0.02, subnets=2),
        PhaseSettings(open={"depth": 3, "expand": 3}, epochs=3, learning_rate=0.01, subnets=4),
    )
    assert outline(phases) == [("teacher", 4), ("depth 1", 2), ("depth 3, expand 3", 3)]
    assert [dict(phase.opened) for phase in phases] == [
        {"kernel": 1, "depth": 1, "expand": 1},
        {"kernel": 3, "depth": 2, "expand": 1},
        {"kernel": 3, "depth": 3, "expand": 3},
    ]
    assert [(phase.learning_rate, phase.num_subnets) for phase in phases] == [(0.1, 1), (0.02, 2), (0.01, 4)]
    assert [phase.first_epoch for phase in phases] == [0, 4, 6]


TEACH = PhaseSettings(open="teacher", epochs=1, learning_rate=0.1)
ALL = PhaseSettings(open="expand 2", epochs=1, learning_rate=0.1)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((ALL,), r"phases\[0\] opens expand 2, but the largest network comes first"),
        ((TEACH,), "leave kernel, depth, expand partly closed"),
        (
            (TEACH, replace(ALL, open="kernels")),
            r"phases\[1\]\.open is 'kernels', this space's phases are 'teacher'",
        ),
        ((TEACH, replace(ALL, open={"kernel": 4})), r"phases\[1\]\.open has kernel: 4, allowed are kernel: 1 \.\.\. 3"),
        ((TEACH, replace(ALL, open={"resolution": 2})), r"open has resolution: 2, allowed are kernel"),
        ((TEACH, ALL, replace(ALL, open={"depth": 2})), r"phases\[2\] closes what an earlier phase opened"),
    ],
)
def test_phases_by_hand_that_do_not_fit_are_refused(phases: tuple[PhaseSettings, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        by_hand(*phases)
    assert caught.value.hint


def test_phases_by_hand_must_add_up_to_the_epochs() -> None:
    with pytest.raises(TrainingError, match=r"train\.epochs is 7, the epochs of train\.phases add up to 2") as caught:
        by_hand(TEACH, ALL, epochs=7)
    assert caught.value.hint == "set train.epochs to 2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(PROGRESSIVE, method="greedy"), "unknown training method 'greedy'"),
        (replace(PROGRESSIVE, method="sandwich", phases=(TEACH,)), "the sandwich rule has no phases"),
    ],
)
def test_methods_that_do_not_exist_are_refused(settings: TrainSettings, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        phases_of(SMALL, settings)
