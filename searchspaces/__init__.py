"""What can be built: choices, architectures, elastic layers, supernets and operator graphs.

    from searchspaces import get_space
    space = get_space("mbconv-small")
    arch = space.sample(np.random.default_rng(0))

The names below are loaded when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchspaces.architecture import Architecture, Value
    from searchspaces.errors import SpaceError
    from searchspaces.genomes import Choice
    from searchspaces.graph import Operator, OpGraph, OpTable
    from searchspaces.ofa_checkpoint import load_ofa_checkpoint
    from searchspaces.registry import get_space, list_spaces, space_factory
    from searchspaces.space import SearchSpace

__all__ = [
    "Architecture",
    "Choice",
    "OpGraph",
    "OpTable",
    "Operator",
    "SearchSpace",
    "SpaceError",
    "Value",
    "get_space",
    "list_spaces",
    "load_ofa_checkpoint",
    "space_factory",
]

_HOMES = {
    "Architecture": "architecture",
    "Choice": "genomes",
    "OpGraph": "graph",
    "OpTable": "graph",
    "Operator": "graph",
    "SearchSpace": "space",
    "SpaceError": "errors",
    "Value": "architecture",
    "get_space": "registry",
    "list_spaces": "registry",
    "load_ofa_checkpoint": "ofa_checkpoint",
    "space_factory": "registry",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"searchspaces.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
