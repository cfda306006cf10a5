"""Objectives and limits: what is optimised, what must not be exceeded, and what finding out costs."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One axis of the search.

    Attributes:
        name: column name, with its unit.
        direction: which way is better.
        unit: unit of the values.
        cost_class: "cheap" values are predicted or computed before anything runs; "expensive" ones need weights or a
            device. NaN means that finding out failed, never a bad value.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    unit: str
    cost_class: Literal["cheap", "expensive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An upper bound on a cheap objective that a candidate must meet."""

    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.name} <= {self.value:g} {self.unit}".rstrip()

    def violation(self, value: float) -> float:
        """How much `value` exceeds the limit, relative to it; at or below zero the limit is met."""
        return value / self.value - 1.0


ACCURACY = Objective(name="accuracy", direction="maximize", unit="fraction", cost_class="expensive")
LATENCY = Objective(name="latency_ms", direction="minimize", unit="ms", cost_class="cheap")
