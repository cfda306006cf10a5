"""YAML as recipes use it: safe, UTF-8, no duplicate keys, numbers such as 1e-3 read as numbers."""

import re
from pathlib import Path
from typing import Any

import yaml

from experiments.errors import RecipeError

_LARGEST_BYTES = 1_000_000
_SHIPPED = "Give the path of a recipe, for example experiments/recipes/quickstart.yaml."


class _RecipeLoader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys: YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads 1e-3 as a text because it has no point; in a recipe it is always meant as a number.
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, *, place: str) -> object:
    """Parse one YAML document.

    Raises:
        RecipeError: it is not valid YAML, or a mapping repeats a key; `place` and the line are named.
    """
    try:
        # What yaml.safe_load does, with our subclass of its loader: plain scalars, lists and mappings only.
        loader = _RecipeLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise RecipeError(f"{place} is not valid YAML: {_one_line(e)}", hint="Correct the line that is named.") from e


def read_yaml(path: Path, *, what: str = "recipe") -> dict[str, object]:
    """Read a file that holds one YAML mapping with text keys; a UTF-8 byte order mark is accepted.

    Args:
        path: of the file.
        what: how messages call it.

    Raises:
        RecipeError: missing, a directory, unreadable, too large, not UTF-8, not YAML, empty or not a mapping.
    """
    place = f"{what} {str(path)!r}"
    shipped = _SHIPPED if what == "recipe" else f"Give the path of a {what}."
    if path.is_dir():
        raise RecipeError(f"{place} is a directory, expected a YAML file", hint=shipped)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError as e:
        raise RecipeError(f"{place} does not exist", hint=shipped) from e
    except (OSError, ValueError) as e:
        raise RecipeError(f"{place} cannot be read: {e}", hint=shipped) from e
    if len(data) > _LARGEST_BYTES:
        raise RecipeError(f"{place} is larger than {_LARGEST_BYTES:,} bytes: not a {what}", hint=shipped)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise RecipeError(f"{place} is not UTF-8 text: {e}", hint="Save it as UTF-8, or give another path.") from e
    document = parse_yaml(text, place=place)
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise RecipeError(f"{place} holds {found}, expected a mapping of sections", hint=shipped)
    wrong = [key for key in document if not isinstance(key, str)]
    if wrong:
        raise RecipeError(f"{place}: got the key {wrong[0]!r}, expected a text", hint=shipped)
    return document


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        where = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        return f"{where}: {error.problem or error.context}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())
