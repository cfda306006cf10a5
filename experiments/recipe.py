"""Recipes: read from YAML, checked completely, resolved once. No torch here: validation answers at once."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from experiments.errors import RecipeError
from experiments.recipe_problems import known_paths, list_problems, unknown_key
from experiments.recipe_settings import (
    OPERATIONAL,
    DataSettings,
    DeviceSettings,
    ExportSettings,
    FurtherDeviceSettings,
    ProfileSettings,
    RefineSettings,
    SearchLimits,
    SearchSettings,
    Section,
    SpaceSettings,
    TrackingSettings,
    TrainSettings,
    VerifySettings,
)
from experiments.recipe_yaml import parse_yaml, read_yaml

__all__ = [
    "DataSettings",
    "DeviceSettings",
    "ExportSettings",
    "FurtherDeviceSettings",
    "ProfileSettings",
    "Recipe",
    "RefineSettings",
    "SearchLimits",
    "SearchSettings",
    "SpaceSettings",
    "TrackingSettings",
    "TrainSettings",
    "VerifySettings",
    "first_difference",
    "load_recipe",
]

_HINT = "Correct it and run again; experiments/recipes/quickstart.yaml shows every key."


class Recipe(Section):
    """One run, said completely: immutable, and equal to what `to_yaml` writes."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the run and of its directory",
        json_schema_extra={"allowed": "letters, digits, . - and _, a letter or digit first"},
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed that every other seed derives from")
    data: DataSettings
    space: SpaceSettings
    device: DeviceSettings = DeviceSettings()
    # They add to a run and change nothing that it has, so they may come and go.
    devices: Annotated[tuple[FurtherDeviceSettings, ...], Field(strict=False)] = Field(
        default=(),
        description="further devices, perhaps with limits: profiled, and verified on the front of their own",
        json_schema_extra=OPERATIONAL,
    )
    train: TrainSettings = TrainSettings()
    profile: ProfileSettings = ProfileSettings()
    search: SearchSettings = SearchSettings()
    refine: RefineSettings = RefineSettings()
    verify: VerifySettings = VerifySettings()
    export: ExportSettings = ExportSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _devices_differ(self) -> Self:
        ids = [self.device.id, *(device.id for device in self.devices)]
        if len(set(ids)) < len(ids):
            raise ValueError(f"devices: got {ids[1:]} beside {ids[0]!r}, expected every device once")
        return self

    @model_validator(mode="after")
    def _stops_what_it_can(self) -> Self:
        confidence = self.search.early_stopping
        if confidence is not None and self.search.candidates == "inherit" and self.data.metric != "top1":
            raise ValueError(
                f"search.early_stopping: got {confidence}, expected null: answers are compared image by image, "
                f"which says nothing of data.metric {self.data.metric}"
            )
        return self

    @property
    def model_name(self) -> str:
        """Name in the model registry: the recipe's own, or `archsmith-<name>`."""
        return self.export.model_name or f"archsmith-{self.name}"

    def to_yaml(self) -> str:
        """The resolved recipe as YAML; `load_recipe` reads it back to an equal value. `--quick` is already applied."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)
        return text

    def fingerprint(self) -> str:
        """16 hex digits over everything that changes results; operational fields (workers, addresses) are left out."""
        text = json.dumps(_effective(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(path: str | Path, *, overrides: Sequence[str] = (), quick: bool = False) -> Recipe:
    """Read, complete and check a recipe. Later wins: defaults, the file, its `quick` block, `overrides`.

    Args:
        path: YAML file.
        overrides: `dotted.key=value` texts as typed after `--set`; values are YAML scalars or lists.
        quick: apply the file's `quick` block. It is checked in any case.

    Raises:
        RecipeError: the file cannot be read, is not a mapping, or something in it is not allowed; every problem is
            listed in one message, as `key: got VALUE, expected ...`.
    """
    document = read_yaml(Path(path))
    place = f"recipe {str(path)!r}"
    quick_block = document.pop("quick", None)
    changes = [_parse_override(text) for text in overrides]

    quick_document = _with_changes(document, changes=_quick_changes(quick_block, place=place), source="quick")
    if quick_block:
        # Checked before it is needed: a quick block that rots is found by every run, not by the first --quick one.
        _validate(quick_document, place=f"{place} with --quick")
    chosen = quick_document if quick else document
    return _validate(_with_changes(chosen, changes=changes, source="--set"), place=place)


def first_difference(a: Recipe, b: Recipe) -> str | None:
    """The first key, in the order of the recipe, whose difference changes results.

    Returns:
        For example `train.epochs: 40 against 2`; None exactly if the fingerprints agree.
    """
    left, right = _effective(a), _effective(b)
    for key, value in left.items():
        if right[key] != value:
            return f"{key}: {json.dumps(value)} against {json.dumps(right[key])}"
    return None


def _effective(recipe: Recipe) -> dict[str, object]:
    """Dotted key -> JSON value of every field that changes results."""
    dumped = recipe.model_dump(mode="json")
    values: dict[str, object] = {}
    for path, operational in known_paths(Recipe).items():
        if not operational:
            value: object = dumped
            for part in path.split("."):
                assert isinstance(value, dict)
                value = value[part]
            values[path] = value
    return values


def _validate(document: Mapping[str, object], *, place: str) -> Recipe:
    try:
        return Recipe.model_validate(document)
    except ValidationError as e:
        problems = list_problems(e, model=Recipe)
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError(f"{place} has {count}:\n" + "\n".join(f"  {p}" for p in problems), hint=_HINT) from e


def _parse_override(text: str) -> tuple[str, object]:
    key, sign, value = text.partition("=")
    key = key.strip()
    if not sign or not key:
        raise RecipeError(f"--set: got {text!r}, expected key=value", hint="For example --set search.evaluations=200")
    return key, parse_yaml(value, place=f"--set {key}")


def _quick_changes(block: object, *, place: str) -> list[tuple[str, object]]:
    if block is None:
        return []
    if not isinstance(block, Mapping) or not all(isinstance(key, str) for key in block):
        raise RecipeError(
            f"{place}: quick: got {block!r}, expected dotted keys with values",
            hint="For example\nquick:\n  train.epochs: 2",
        )
    return list(block.items())


def _with_changes(
    document: Mapping[str, object], *, changes: Sequence[tuple[str, object]], source: str
) -> dict[str, object]:
    """A deep copy of `document` with dotted keys replaced; unknown ones are refused here, where `source` is known."""
    changed: dict[str, object] = copy.deepcopy(dict(document))
    for key, value in changes:
        problem = unknown_key(key, model=Recipe)
        if problem is not None:
            raise RecipeError(f"{source}: {problem}", hint=_HINT)
        *sections, last = key.split(".")
        target = changed
        for section in sections:
            inner = target.get(section)
            if not isinstance(inner, dict):
                inner = {}
                target[section] = inner
            target = inner
        target[last] = value
    return changed
