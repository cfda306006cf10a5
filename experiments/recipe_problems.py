"""pydantic's validation errors in the words of a recipe: key, offending value, what is allowed, nearest known key."""

import difflib
import reprlib
from collections.abc import Mapping
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

Schema = Mapping[str, Any]


def known_paths(model: type[BaseModel], *, prefix: str = "") -> dict[str, bool]:
    """Every dotted leaf key of `model` in order of definition -> whether it is operational (changes no result)."""
    paths: dict[str, bool] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            paths |= known_paths(field.annotation, prefix=f"{prefix}{name}.")
        else:
            extra = field.json_schema_extra
            paths[prefix + name] = bool(isinstance(extra, dict) and extra.get("operational"))
    return paths


def unknown_key(path: str, *, model: type[BaseModel]) -> str | None:
    """None if the dotted `path` names a field or section of `model`, else what to say, with the nearest known key."""
    leaves = list(known_paths(model))
    if any(path.startswith(f"{leaf}.") for leaf in _mappings(model)):
        return None  # the keys below are checked by whoever defines them
    known = list(dict.fromkeys(leaves + [leaf.rsplit(".", 1)[0] for leaf in leaves if "." in leaf]))
    if path in known:
        return None
    return f"{path}: unknown key{_suggest(path, known=known)}"


def _mappings(model: type[BaseModel], *, prefix: str = "") -> list[str]:
    """Dotted keys of the leaves that hold free mappings."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _mappings(field.annotation, prefix=f"{prefix}{name}.")
        elif get_origin(field.annotation) is dict:
            found.append(prefix + name)
    return found


def list_problems(error: ValidationError, *, model: type[BaseModel]) -> list[str]:
    """One line a problem, in the order of the file, for example `train.epochs: got 'ten', expected an integer >= 1`."""
    schema = model.model_json_schema()
    problems: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        path, field = _locate(detail["loc"], schema=schema)
        kind, got = detail["type"], detail["input"]
        if kind in ("extra_forbidden", "invalid_key"):
            path = ".".join(str(part) for part in detail["loc"] if part != "[key]")
            line = unknown_key(path, model=model) or f"{path}: unknown key"
        elif kind == "missing":
            line = f"{path}: missing, expected {_expected(field, root=schema)}"
        elif kind == "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            # A section's own check names the field that it blames first.
            line = f"{path}.{message}" if _resolve(field, root=schema).get("type") == "object" else f"{path}: {message}"
        else:
            line = f"{path}: got {_shown(got)}, expected {_expected(field, root=schema)}"
        # The members of a union complain one by one about the same value: one line is enough.
        problems.setdefault(path, line)
    return list(problems.values())


def _suggest(path: str, *, known: list[str]) -> str:
    last = path.rsplit(".", 1)[-1]
    same_name = [key for key in known if key.rsplit(".", 1)[-1] == last]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75) or same_name[:1]
    if not near:
        near = [key for key in known if difflib.get_close_matches(last, [key.rsplit(".", 1)[-1]], n=1, cutoff=0.75)][:1]
    if near:
        return f", did you mean {near[0]}?"
    section, dot, _ = path.rpartition(".")
    siblings = sorted({key[len(section + dot) :].split(".")[0] for key in known if key.startswith(section + dot)})
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _locate(loc: tuple[int | str, ...], *, schema: Schema) -> tuple[str, Schema]:
    """The dotted path of `loc` as far as the schema knows it (union tags are dropped), and the schema found there."""
    path, here = "", schema
    for part in loc:
        here = _resolve(here, root=schema)
        if isinstance(part, str) and part in here.get("properties", {}):
            path, here = f"{path}.{part}" if path else part, here["properties"][part]
        elif isinstance(part, int) and "items" in here:
            path, here = f"{path}[{part}]", here["items"]
        else:
            return path, here
    return path or "recipe", here


def _resolve(schema: Schema, *, root: Schema) -> Schema:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    found: Schema = root["$defs"][reference.rsplit("/", 1)[-1]]
    return found


def _shown(value: object) -> str:
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    brief.maxlist, brief.maxdict, brief.maxlevel = 8, 4, 3
    return "null" if value is None else brief.repr(value)


def _expected(schema: Schema, *, root: Schema) -> str:
    """The allowed values of a field's JSON schema in words."""
    schema = _resolve(schema, root=root)
    if "allowed" in schema:
        return str(schema["allowed"])
    if "anyOf" in schema:
        parts = [_expected(part, root=root) for part in schema["anyOf"]]
        return " or ".join(sorted(parts, key=lambda part: part == "null"))
    if "enum" in schema:
        return "one of " + ", ".join(repr(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        return f"a list, each item {_expected(schema['items'], root=root)}"
    words = {"integer": "an integer", "number": "a number", "string": "a text", "object": "a mapping"}
    text = words.get(str(kind), str(kind))
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:,}" for name, sign in signs.items() if name in schema]
    return f"{text} {' and '.join(bounds)}" if bounds else text
