"""The limits of a search, held against what a run's tables say."""

from collections.abc import Mapping, Sequence

import pandas as pd
import yaml

from nas.errors import RunError
from nas.objectives import LATENCY, Limit
from nas.pricing import LIMITS, PEAK_MEMORY, count_costs, search_limits
from searchspaces import Architecture, SearchSpace


def recipe_limits(text: str, *, device: str | None = None) -> tuple[Limit, ...]:
    """The limits of a resolved recipe: those of the section `search`; none if there is no such section.

    Args:
        text: YAML.
        device: on a further device the limit on latency is its own, if the recipe sets one; None: the recipe's device.

    Raises:
        RunError: it is no YAML.
    """
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise RunError(f"the run's recipe cannot be read: {e}", hint="bring its recipe.yaml back") from e
    sections = recipe if isinstance(recipe, dict) else {}
    values = _limits_of(sections.get("search"))
    if device is not None:
        devices = sections.get("devices") or []
        own = next((one for one in devices if isinstance(one, dict) and one.get("id") == device), None)
        values = {**values, LATENCY.name: _limits_of(own).get(LATENCY.name)}
    return search_limits({name: values.get(name) for name in LIMITS})


def _limits_of(section: object) -> Mapping[str, float | None]:
    limits = section.get("limits") if isinstance(section, dict) else None
    return limits if isinstance(limits, dict) else {}


def with_peak_memory(
    rows: pd.DataFrame, *, space: SearchSpace, num_classes: int, precision: str | None = None
) -> pd.DataFrame:
    """Rows of a table with the column `peak_memory_bytes`, which is computed: no table has it.

    Args:
        rows: with architectures.
        space: of the architectures.
        num_classes: of the classifier.
        precision: of the device; None: that of each row.
    """
    precisions = rows["precision"] if precision is None else pd.Series(precision, index=rows.index)
    peak = pd.Series(0.0, index=rows.index)
    for one in sorted(set(precisions)):
        here = precisions == one
        archs = [Architecture.from_json(text) for text in rows["architecture"][here]]
        cost = count_costs(space, num_classes=num_classes, precision=one)[PEAK_MEMORY]
        peak[here] = cost(space.genomes(archs))
    return rows.assign(**{PEAK_MEMORY: peak})


def within_limits(rows: pd.DataFrame, limits: Sequence[Limit], *, latency: str) -> "pd.Series[bool]":
    """Which rows exceed no limit.

    Args:
        rows: of a table with counts; where memory is limited, with its column.
        limits: as `Run.limits` gives them.
        latency: the column that a limit on latency is about.
    """
    within = pd.Series(True, index=rows.index)
    for limit in limits:
        within &= rows[latency if limit.name == LATENCY.name else limit.name] <= limit.value
    return within
