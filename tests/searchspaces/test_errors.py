"""Errors carry the way out, also across process borders."""

import copy

import pytest

from searchspaces.errors import Hinted, SpaceError


def test_a_space_error_is_a_value_error_with_a_hint() -> None:
    error = SpaceError("kernel 4 is not allowed", hint="use 3, 5 or 7")
    assert isinstance(error, ValueError)
    assert isinstance(error, Hinted)
    assert str(error) == "kernel 4 is not allowed"
    assert error.hint == "use 3, 5 or 7"


def test_an_error_without_a_hint_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="hint"):
        SpaceError("kernel 4 is not allowed")  # type: ignore[call-arg]


def test_message_and_hint_survive_being_rebuilt() -> None:
    # copy uses the same protocol by which Ray ships an exception to another process
    error = copy.copy(SpaceError("kernel 4 is not allowed", hint="use 3, 5 or 7"))
    assert type(error) is SpaceError
    assert (str(error), error.hint) == ("kernel 4 is not allowed", "use 3, 5 or 7")
