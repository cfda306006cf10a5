"""Baselines beside a front: a pure function of a run's tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from nas.pareto import FrontPoint, JSONPoint, number
from searchspaces import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselinePoint:
    """One baseline on one device. Accuracies are fractions on the verify split; latencies milliseconds.

    Attributes:
        name: for people.
        arch_id, candidate: its key in the tables.
        metric, accuracy, accuracy_interval: in the device's runtime.
        latency_ms, latency_interval_ms: median and its interval; NaN as long as it is not measured.
        provenance: of the latency.
        suspect: the measurement failed its own checks.
        macs, params: for one input; None if the file's operators do not tell.
        beaten_by: candidates of the front that are as accurate and as fast, and better in one of the two; None as long
            as it, or the front, is not measured.
        weights_kind: "baseline".
    """

    name: str
    arch_id: str
    candidate: str
    metric: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    latency_ms: float
    latency_interval_ms: tuple[float, float]
    provenance: str
    suspect: bool
    macs: int | None
    params: int | None
    beaten_by: tuple[str, ...] | None
    weights_kind: str = "baseline"

    def to_json(self) -> JSONPoint:
        """Plain JSON values; NaN becomes null."""
        point: JSONPoint = {name: getattr(self, name) for name in self.__slots__}
        point["accuracy_interval"] = list(self.accuracy_interval)
        point["latency_interval_ms"] = [None if math.isnan(bound) else bound for bound in self.latency_interval_ms]
        point["beaten_by"] = None if self.beaten_by is None else list(self.beaten_by)
        return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in point.items()}


def baseline_points(rows: pd.DataFrame, *, device_id: str, front: Sequence[FrontPoint]) -> list[BaselinePoint]:
    """The baselines of a device, the newest row of each, the fastest first and the unmeasured last.

    Args:
        rows: of `Run.baseline_rows`.
        device_id: whose.
        front: points of the device's verified front; empty as long as there is none.
    """
    rows = rows[rows["device_id"] == device_id].drop_duplicates("candidate_id", keep="last")
    rows = rows.sort_values(["latency_ms", "candidate_id"], na_position="last")
    return [_point(row, front=front) for row in rows.to_dict("records")]


def _point(row: dict[object, object], *, front: Sequence[FrontPoint]) -> BaselinePoint:
    values = {str(key): value for key, value in row.items()}
    accuracy, latency_ms = number(values["accuracy"]), number(values["latency_ms"])
    better = tuple(
        point.candidate
        for point in front
        if point.accuracy >= accuracy
        and point.latency_ms <= latency_ms
        and (point.accuracy > accuracy or point.latency_ms < latency_ms)
    )
    return BaselinePoint(
        name=str(Architecture.from_json(str(values["architecture"]))["name"]),
        arch_id=str(values["arch_id"]),
        candidate=str(values["candidate_id"]),
        metric=str(values["metric"]),
        accuracy=accuracy,
        accuracy_interval=(number(values["accuracy_low"]), number(values["accuracy_high"])),
        latency_ms=latency_ms,
        latency_interval_ms=(number(values["latency_low_ms"]), number(values["latency_high_ms"])),
        provenance=str(values["provenance"]),
        suspect=bool(values["suspect"]),
        macs=_count(values["macs"]),
        params=_count(values["params"]),
        beaten_by=better if front and math.isfinite(latency_ms) else None,
    )


def _count(value: object) -> int | None:
    found = number(value)
    return int(found) if math.isfinite(found) else None
