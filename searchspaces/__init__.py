"""What can be built: choices, architectures, elastic layers, supernets and operator graphs."""

from searchspaces.architecture import Architecture, Value
from searchspaces.errors import SpaceError
from searchspaces.graph import Operator, OpGraph, OpTable
from searchspaces.registry import get_space, list_spaces
from searchspaces.space import Choice, SearchSpace

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
]
