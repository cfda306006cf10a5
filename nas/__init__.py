"""Which architectures are best: runs, training, evaluation, search, refinement, front, verification, export."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.run import Run, open_run
    from nas.search.surrogate import SurrogateSampler

__all__ = ["Run", "SurrogateSampler", "open_run"]

_PLACES = {"Run": "nas.run", "SurrogateSampler": "nas.search.surrogate", "open_run": "nas.run"}


def __getattr__(name: str) -> object:
    # torch, pandas and optuna are imported only when they are really used
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
