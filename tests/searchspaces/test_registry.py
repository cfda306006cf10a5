"""Spaces are found by name."""

import pytest

from searchspaces import get_space, list_spaces
from searchspaces.errors import SpaceError


@pytest.mark.parametrize("name", list_spaces())
def test_every_listed_space_can_be_got_and_knows_its_ends(name: str) -> None:
    space = get_space(name)
    space.validate(space.smallest)
    space.validate(space.largest)
    assert space.size > 1
    assert space.space_id == name


def test_the_names_are_sorted_and_contain_the_space_of_the_quickstart() -> None:
    assert list_spaces() == sorted(list_spaces())
    assert "mbconv-small" in list_spaces()


def test_getting_a_space_twice_gives_equal_spaces() -> None:
    a, b = get_space("mbconv-small"), get_space("mbconv-small")
    assert a.choices == b.choices
    b.validate(a.largest)


def test_settings_reach_the_space() -> None:
    space = get_space("mbconv-small", resolutions=(16,), in_channels=3)
    assert space.size == get_space("mbconv-small").size // 3
    assert space.input_shape(space.smallest) == (3, 16, 16)


def test_a_list_of_resolutions_as_a_recipe_gives_it_is_taken() -> None:
    assert get_space("mbconv-small", resolutions=[16, 20, 24]).space_id == "mbconv-small"


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(SpaceError, match="unknown search space 'mbconv-smal'") as refusal:
        get_space("mbconv-smal")
    assert "did you mean 'mbconv-small'?" in refusal.value.hint


def test_a_name_unlike_any_other_is_answered_with_the_list() -> None:
    with pytest.raises(SpaceError) as refusal:
        get_space("")
    assert "did you mean" not in refusal.value.hint
    assert "known spaces: " in refusal.value.hint
    assert "mbconv-small" in refusal.value.hint


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(SpaceError, match="no setting 'widht'") as refusal:
        get_space("mbconv-small", widht=2)
    assert "resolutions" in refusal.value.hint


@pytest.mark.parametrize(
    "settings", [{"resolutions": "16"}, {"resolutions": 16}, {"resolutions": None}, {"in_channels": "3"}]
)
def test_a_setting_of_another_type_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SpaceError) as refusal:
        get_space("mbconv-small", **settings)
    assert refusal.value.hint
