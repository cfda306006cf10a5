"""Checks of what a user can set in a space, and the identity that follows from the settings."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import Field, asdict
from typing import Any, ClassVar, Protocol

from searchspaces.errors import SpaceError


class Config(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def check_positive(name: str, value: object) -> int:
    """`value` if it is a positive integer.

    Raises:
        SpaceError: it is not; the message begins with `name`.
    """
    if type(value) is not int or value < 1:
        raise SpaceError(f"{name} must be a positive integer, got {value!r}", hint=f"for example {name}: 16")
    return value


def check_ascending(name: str, values: object) -> tuple[int, ...]:
    """`values` as a tuple if they are a list or tuple of ascending positive integers.

    Raises:
        SpaceError: they are not; the message begins with `name`.
    """
    if isinstance(values, list | tuple) and values and all(type(value) is int and value > 0 for value in values):
        numbers = tuple(int(value) for value in values)
        if list(numbers) == sorted(set(numbers)):
            return numbers
    shown = list(values) if isinstance(values, tuple) else values
    raise SpaceError(f"{name} must be ascending positive integers, got {shown!r}", hint=f"for example {name}: [3, 5]")


def check_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value outside `allowed`; True is not 1.

    Raises:
        SpaceError: the message begins with `name`.
    """
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise SpaceError(
            f"{name} is {value!r}, allowed are {', '.join(map(repr, allowed))}",
            hint=f"for example {name}: {allowed[0]}",
        )


def checked_resolutions(values: object, *, total_stride: int) -> tuple[int, ...]:
    """Ascending input sizes in pixels, of which the network's strides leave more than one.

    Raises:
        SpaceError: no ascending positive integers, or too small.
    """
    resolutions = check_ascending("resolutions", values)
    if resolutions[0] <= total_stride:
        raise SpaceError(
            f"resolution {resolutions[0]} is too small for a total stride of {total_stride}",
            hint=f"use resolutions of at least {total_stride + 1} pixels",
        )
    return resolutions


def checked_width(width: object) -> float:
    """A multiplier of channels as a float, if it is a number from 0.1 to 10.

    Raises:
        SpaceError: it is not.
    """
    if isinstance(width, int | float) and not isinstance(width, bool) and 0.1 <= width <= 10.0:
        return float(width)
    raise SpaceError(f"width is {width!r}, expected a number from 0.1 to 10", hint="for example width: 0.5")


def identity(name: str, config: Config, *, default: Config, ignoring: Sequence[str] = ()) -> str:
    """The id of a space: its name, with a checksum of what differs from the default settings.

    Args:
        name: registered name.
        config: the settings.
        default: the settings that have the bare name as their id.
        ignoring: fields that do not count; with the input sizes here this is the id of the weights.
    """
    usual = asdict(default)
    changed = {
        field: value for field, value in asdict(config).items() if value != usual[field] and field not in ignoring
    }
    if not changed:
        return name
    return f"{name}-{hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]}"
