"""Finds data sources by name: every module of this folder with a `SOURCE` is an entry. No torch here."""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

import experiments.sources
from experiments.errors import DataError
from experiments.sources.source import DataSource

_OWN_MODULES = frozenset({"arrays", "registry", "source"})


@cache
def _sources() -> Mapping[str, DataSource]:
    found: dict[str, DataSource] = {}
    for module in pkgutil.iter_modules(experiments.sources.__path__):
        if module.name not in _OWN_MODULES:
            source: DataSource = importlib.import_module(f"{experiments.sources.__name__}.{module.name}").SOURCE
            found[source.name] = source
    return found


def list_sources() -> list[str]:
    """Names that `get_source` knows, sorted."""
    return sorted(_sources())


def get_source(name: str) -> DataSource:
    """The source called `name`.

    Raises:
        DataError: there is none; the known ones are listed.
    """
    sources = _sources()
    if name not in sources:
        close = difflib.get_close_matches(name, sources, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise DataError(
            f"unknown data set {name!r}",
            hint=f"{meant}known: {', '.join(list_sources())} (own data: image-folder, numpy, torch)",
        )
    return sources[name]
