"""Families of regressors: every module of this folder with a `REGRESSORS` tuple offers its entries to the choice."""

import importlib
import pkgutil
from functools import cache

from predictors.regressors.regressor import Regressor


@cache
def find_regressors() -> tuple[Regressor, ...]:
    """All registered regressors, ordered by name."""
    found: list[Regressor] = []
    for module in pkgutil.iter_modules(__path__):
        found.extend(getattr(importlib.import_module(f"{__name__}.{module.name}"), "REGRESSORS", ()))
    return tuple(sorted(found, key=lambda regressor: regressor.name))
