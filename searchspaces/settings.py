"""Checks of what a user can set in a space, and the identity that follows from the settings."""

import hashlib
import json
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from searchspaces.errors import SpaceError


class Config(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """The largest value that makes sense, and how such a setting looks."""

    at_most: int
    example: str


_CHANNELS, _STEPS = 2**16, 2**20
_LIMITS: Mapping[str, _Limit] = {
    "in_channels": _Limit(at_most=_CHANNELS, example="3"),
    "stem_channels": _Limit(at_most=_CHANNELS, example="16"),
    "channels": _Limit(at_most=_CHANNELS, example="16"),
    "head_channels": _Limit(at_most=_CHANNELS, example="128"),
    "mix_channels": _Limit(at_most=_CHANNELS, example="128"),
    "widths": _Limit(at_most=_CHANNELS, example="[[16, 32], [32, 64]]"),
    "resolutions": _Limit(at_most=4096, example="[16, 20, 24]"),
    "length": _Limit(at_most=_STEPS, example="128"),
    "depths": _Limit(at_most=64, example="[1, 2, 3]"),
    "kernels": _Limit(at_most=31, example="[3, 5, 7]"),
    "stem_kernel": _Limit(at_most=31, example="7"),
    "dilations": _Limit(at_most=_STEPS, example="[1, 2, 4]"),
    "expands": _Limit(at_most=64, example="[3, 4, 6]"),
}
_MOST_STAGES = 64
_MOST_MACS = 2**62
_SHOWN = 8


def stage_place(number: int) -> str:
    """How errors call stage 0, 1, ...: counted from 1, as the genes are; a setting of it follows after a colon."""
    return f"stage {number + 1}"


def check_positive(name: str, value: object) -> int:
    """`value` if it is a positive integer that is not beyond all reason.

    Args:
        name: of the setting, with its place, for example "stage 1: channels".
        value: what was given.

    Raises:
        SpaceError: it is not; the message begins with `name`.
    """
    limit = _limit(name)
    if type(value) is not int or value < 1:
        raise SpaceError(f"{name} must be a positive integer, got {plain(value)!r}", hint=_example(name, limit.example))
    _check_size(name, value, limit)
    return value


def check_ascending(name: str, values: object) -> tuple[int, ...]:
    """`values` as a tuple if they are a list or tuple of ascending positive integers that are not beyond all reason.

    Args:
        name: of the setting, with its place, for example "stage 1: kernels".
        values: what was given.

    Raises:
        SpaceError: they are not; the message begins with `name`.
    """
    limit = _limit(name)
    if isinstance(values, list | tuple) and values and all(type(value) is int and value > 0 for value in values):
        found = tuple(int(value) for value in values)
        if list(found) == sorted(set(found)):
            _check_size(name, found[-1], limit)
            return found
    shown = f"[{shortened(values)}]" if isinstance(values, list | tuple) else repr(plain(values))
    raise SpaceError(f"{name} must be ascending positive integers, got {shown}", hint=_example(name, limit.example))


def check_odd(name: str, kernels: Sequence[int]) -> None:
    """Refuse even kernels, which have no centre.

    Raises:
        SpaceError: the message begins with `name`.
    """
    if any(kernel % 2 == 0 for kernel in kernels):
        raise SpaceError(f"{name} must be odd, got [{shortened(kernels)}]", hint=_example(name, _limit(name).example))


def check_num_stages(num_stages: int) -> None:
    """Refuse networks without stages, or with more than anybody can train.

    Raises:
        SpaceError: none, or more than 64.
    """
    if not num_stages:
        raise SpaceError("stages is empty", hint="give at least one stage")
    if num_stages > _MOST_STAGES:
        raise SpaceError(f"{num_stages} stages are too many", hint=f"give at most {_MOST_STAGES}")


def check_macs(macs: int) -> None:
    """Refuse networks whose operations a 64-bit integer does not hold; nobody could train them either.

    Args:
        macs: at least the multiply-accumulate operations, parameters and activations of the largest network.

    Raises:
        SpaceError: more than 2^62.
    """
    if macs > _MOST_MACS:
        raise SpaceError(
            f"the largest network would need about {macs:.1e} multiply-accumulate operations for one input, at most "
            f"{_MOST_MACS:.1e} can be counted",
            hint="use fewer stages, blocks or channels, or smaller expand ratios, kernels or inputs",
        )


def check_one_of(name: str, value: object, allowed: tuple[object, ...], *, example: str | None = None) -> None:
    """Refuse a value outside `allowed`; True is not 1.

    Args:
        name: of the setting, with its place.
        value: what was given.
        allowed: the values.
        example: how the setting looks; the first allowed value if None.

    Raises:
        SpaceError: the message begins with `name`.
    """
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise _not_allowed(name, value, allowed, example=example)


def position_of(name: str, value: object, allowed: Sequence[int] | Sequence[float]) -> int:
    """Where `value` is in `allowed`, whatever kind of number it is (numpy's, too); True is not 1.

    Raises:
        SpaceError: it is not there; the message begins with `name`.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        for position, one in enumerate(allowed):
            if value == one:
                return position
    raise _not_allowed(name, value, allowed)


def plain(value: object) -> object:
    """A numpy scalar as the Python value that it stands for; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def shortened(values: Sequence[object]) -> str:
    """The first values, and how many there are if those are not all."""
    more = f", ... ({len(values)} values)" if len(values) > _SHOWN else ""
    return ", ".join(repr(plain(value)) for value in values[:_SHOWN]) + more


def _limit(name: str) -> _Limit:
    return _LIMITS[re.split(r"\.|: ", name)[-1]]


def _check_size(name: str, value: int, limit: _Limit) -> None:
    if value > limit.at_most:
        raise SpaceError(f"{name} is {value}, at most {limit.at_most} is allowed", hint=_example(name, limit.example))


def _not_allowed(name: str, value: object, allowed: Sequence[object], *, example: str | None = None) -> SpaceError:
    return SpaceError(
        f"{name} is {plain(value)!r}, allowed are {', '.join(map(repr, allowed))}",
        hint=_example(name, str(allowed[0]) if example is None else example),
    )


def _example(name: str, example: str) -> str:
    """A hint as one writes it in a file: the setting without the stage that it belongs to."""
    return f"for example {name.rpartition(': ')[2]}: {example}"


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
