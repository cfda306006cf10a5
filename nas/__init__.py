"""Which architectures are best: runs, training, evaluation, search, refinement, front, verification, export."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.run import Run, open_run

__all__ = ["Run", "open_run"]


def __getattr__(name: str) -> object:
    # torch and pandas are imported only when a run is really opened
    if name in __all__:
        from nas import run

        return getattr(run, name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
