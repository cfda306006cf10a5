"""Finds spaces by name: every module of this folder with a `SPACES` table of factories is an entry."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache

import searchspaces
from searchspaces.errors import SpaceError
from searchspaces.space import SearchSpace

SpaceFactory = Callable[..., SearchSpace]

_OWN_MODULES = frozenset({"architecture", "errors", "genomes", "graph", "registry", "space", "testing"})


@cache
def _factories() -> Mapping[str, SpaceFactory]:
    found: dict[str, SpaceFactory] = {}
    for module in pkgutil.iter_modules(searchspaces.__path__):
        if module.ispkg or module.name in _OWN_MODULES:
            continue
        spaces: Mapping[str, SpaceFactory] = getattr(
            importlib.import_module(f"{searchspaces.__name__}.{module.name}"), "SPACES", {}
        )
        found.update(spaces)
    return found


def list_spaces() -> list[str]:
    """Names that `get_space` knows, sorted."""
    return sorted(_factories())


def space_factory(name: str) -> SpaceFactory:
    """The function that makes the space called `name`; its parameters are what can be set.

    Raises:
        SpaceError: unknown name (the known ones are listed).
    """
    factories = _factories()
    if name not in factories:
        close = difflib.get_close_matches(name, factories, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise SpaceError(f"unknown search space {name!r}", hint=f"{meant}known spaces: {', '.join(list_spaces())}")
    return factories[name]


def get_space(name: str, **settings: object) -> SearchSpace:
    """Return the search space called `name`; pure data, torch is not imported.

    Args:
        name: one of `list_spaces()`.
        **settings: what the space lets you set, for example `resolutions=(16, 20, 24)`.

    Raises:
        SpaceError: unknown name or setting (the known ones are listed), or settings that do not fit.
    """
    factory = space_factory(name)
    allowed = list(inspect.signature(factory).parameters)
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise SpaceError(
            f"space {name!r} has no setting {', '.join(map(repr, unknown))}",
            hint=f"its settings are: {', '.join(allowed)}",
        )
    return factory(**settings)
