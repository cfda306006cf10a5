"""The limits of a search, held against what a run's tables say."""

from collections.abc import Sequence

import pandas as pd
import yaml

from nas.errors import RunError
from nas.objectives import LATENCY, Limit
from nas.pricing import LIMITS, search_limits


def recipe_limits(text: str) -> tuple[Limit, ...]:
    """The limits of the section `search` of a resolved recipe; none if there is no such section.

    Args:
        text: YAML.

    Raises:
        RunError: it is no YAML.
    """
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise RunError(f"the run's recipe cannot be read: {e}", hint="bring its recipe.yaml back") from e
    search = recipe.get("search") if isinstance(recipe, dict) else None
    limits = search.get("limits") if isinstance(search, dict) else None
    values = limits if isinstance(limits, dict) else {}
    return search_limits({name: values.get(name) for name in LIMITS})


def within_limits(rows: pd.DataFrame, limits: Sequence[Limit], *, latency: str) -> "pd.Series[bool]":
    """Which rows exceed no limit.

    Args:
        rows: of a table with counts.
        limits: as `Run.limits` gives them.
        latency: the column that a limit on latency is about.
    """
    within = pd.Series(True, index=rows.index)
    for limit in limits:
        within &= rows[latency if limit.name == LATENCY.name else limit.name] <= limit.value
    return within
