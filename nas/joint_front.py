"""The joint front of several devices: accuracy against the latencies on all of them; a pure function of tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hardware.files import JSON
from nas.objectives import LATENCY, Limit
from nas.pareto import hypervolume, number, pareto_mask, reference_latency, with_latencies

_KEY = ["arch_id", "weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLatency:
    """Latency on one device: ms of one inference, its interval, and whether it is "measured" or "predicted"."""

    latency_ms: float
    interval_ms: tuple[float, float]
    provenance: str
    suspect: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPoint:
    """One network of a joint front.

    Attributes:
        arch_id, architecture, weights_kind: what it is.
        metric, accuracy, accuracy_interval: on the front's split; where devices differ (in precision, say), the lowest.
        latencies: by device.
        macs, params: for one image.
    """

    arch_id: str
    architecture: str
    weights_kind: str
    metric: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    latencies: Mapping[str, DeviceLatency]
    macs: int
    params: int

    def to_json(self) -> dict[str, JSON]:
        """Plain JSON values; the latencies, their intervals and provenance are objects by device."""
        return {
            "arch_id": self.arch_id,
            "metric": self.metric,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "latency_ms": {device: one.latency_ms for device, one in self.latencies.items()},
            "latency_interval_ms": {device: list(one.interval_ms) for device, one in self.latencies.items()},
            "provenance": {device: one.provenance for device, one in self.latencies.items()},
            "suspect": {device: one.suspect for device, one in self.latencies.items()},
            "macs": self.macs,
            "params": self.params,
            "weights_kind": self.weights_kind,
            "architecture": self.architecture,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JointFront:
    """Networks that no other one beats in accuracy and on every device, in the order of the first device's latency.

    Attributes:
        devices: their ids.
        points: the front; empty when nothing was evaluated.
        reference_point: accuracy, then the latency of each device.
        hypervolume: accuracy x ms x ms ..., up to the reference point.
        split: the data that the accuracies come from.
    """

    devices: tuple[str, ...]
    points: tuple[JointPoint, ...]
    reference_point: tuple[float, ...]
    hypervolume: float
    split: str


def compute_joint_front(
    evaluations: Mapping[str, pd.DataFrame],
    verifications: pd.DataFrame,
    *,
    limits: Mapping[str, Sequence[Limit]] | None = None,
) -> JointFront:
    """The joint front of devices.

    Once something is verified, only networks that are so on one device at least can be on it (if something is measured
    also, only the measured ones); where their latency is not measured, it is predicted, and says so.

    Args:
        evaluations: by device, the evaluated candidates with the device's predicted latency.
        verifications: of all devices.
        limits: by device; a network that exceeds one on its device is left out.
    """
    devices = tuple(evaluations)
    rows = with_latencies(verifications[verifications["device_id"].isin(devices)])
    evaluated = {device: _by_network(rows) for device, rows in evaluations.items()}
    verified = {device: _by_network(rows[rows["device_id"] == device]) for device in devices}
    split = "verify" if len(rows) else "search"
    found = verified if len(rows) else evaluated
    keys = [
        key
        for key in sorted({key for rows in found.values() for key in rows})
        if all(
            _is_within(verified[device].get(key), evaluated[device].get(key), limits=of_device)
            for device, of_device in (limits or {}).items()
        )
    ]
    joined = [_join(key, found=found, evaluated=evaluated, verified=verified) for key in keys]
    points = _most_accurate(point for point in joined if point is not None)
    accuracy_N = np.array([point.accuracy for point in points], dtype=np.float64)
    latency_ND = np.array([[point.latencies[d].latency_ms for d in devices] for point in points], dtype=np.float64)
    latency_ND = latency_ND.reshape(len(points), len(devices))
    reference = (0.0, *(reference_latency(latency_ND[:, d]) for d in range(len(devices))))
    on_front = [point for point, on in zip(points, pareto_mask(accuracy_N, latency_ND), strict=True) if on]
    # Networks that are equal in everything count once.
    values = {(_latencies(point), point.accuracy): point for point in reversed(on_front)}
    return JointFront(
        devices=devices,
        points=tuple(sorted(values.values(), key=lambda point: (_latencies(point), point.arch_id))),
        reference_point=reference,
        hypervolume=hypervolume(accuracy_N, latency_ND, reference=reference),
        split=split,
    )


def _most_accurate(points: Iterable[JointPoint]) -> list[JointPoint]:
    """Of an architecture with several weights the most accurate ones: its latencies differ by noise only."""
    best: dict[str, JointPoint] = {}
    for point in points:
        known = best.setdefault(point.arch_id, point)
        if np.isfinite(point.accuracy) and not known.accuracy >= point.accuracy:
            best[point.arch_id] = point
    return list(best.values())


def _is_within(
    verified: Mapping[str, object] | None, evaluated: Mapping[str, object] | None, *, limits: Sequence[Limit]
) -> bool:
    """Whether a network exceeds no limit of a device, by what is known of it there; what is unknown is not beyond."""
    row, latency = (verified, "latency_ms") if verified is not None else (evaluated, "latency_predicted_ms")
    if row is None:
        return True
    names = {limit: latency if limit.name == LATENCY.name else limit.name for limit in limits}
    return all(limit.violation(number(row[name])) <= 0 for limit, name in names.items())


def _latencies(point: JointPoint) -> tuple[float, ...]:
    return tuple(one.latency_ms for one in point.latencies.values())


_Rows = dict[tuple[str, str], dict[str, object]]


def _by_network(rows: pd.DataFrame) -> _Rows:
    """The newest row of every architecture with its weights, whatever its precision."""
    newest = rows.drop_duplicates(_KEY, keep="last")
    return {(str(row["arch_id"]), str(row["weights"])): row for row in newest.to_dict("records")}  # type: ignore[misc]


def _join(
    key: tuple[str, str],
    *,
    found: Mapping[str, _Rows],
    evaluated: Mapping[str, _Rows],
    verified: Mapping[str, _Rows],
) -> JointPoint | None:
    """One network on all devices; None if a latency is not even predicted, or its evaluation failed."""
    latencies = {}
    for device in found:
        one = _latency(verified[device].get(key), evaluated[device].get(key))
        if one is None:
            return None
        latencies[device] = one
    rows = [rows[key] for rows in found.values() if key in rows]
    row = min(rows, key=lambda row: number(row["accuracy"]))
    accuracy = number(row["accuracy"])
    if not np.isfinite(accuracy):
        return None
    return JointPoint(
        arch_id=key[0],
        architecture=str(row["architecture"]),
        weights_kind=str(row["weights_kind"]),
        metric=str(row["metric"]),
        accuracy=accuracy,
        accuracy_interval=(number(row["accuracy_low"]), number(row["accuracy_high"])),
        latencies=latencies,
        macs=int(number(row["macs"])),
        params=int(number(row["params"])),
    )


def _latency(verified: Mapping[str, object] | None, evaluated: Mapping[str, object] | None) -> DeviceLatency | None:
    row, name = (verified, "latency") if verified is not None else (evaluated, "latency_predicted")
    if row is None:
        return None
    low, high = number(row[f"{name}_low_ms"]), number(row[f"{name}_high_ms"])
    return DeviceLatency(
        latency_ms=number(row[f"{name}_ms"]),
        interval_ms=(low, high),
        provenance="predicted" if verified is None else str(verified["provenance"]),
        suspect=verified is not None and bool(verified["suspect"]),
    )


def joint_warnings(front: JointFront) -> Sequence[str]:
    """What speaks against a joint front, in sentences."""
    warnings = []
    for device in front.devices:
        predicted = sum(point.latencies[device].provenance == "predicted" for point in front.points)
        suspect = sum(point.latencies[device].suspect for point in front.points)
        if predicted:
            warnings.append(
                f"{predicted} of {len(front.points)} latencies on {device} are predicted: "
                f"`nas verify RUN --device {device}` measures those of its own front, unless search.measure is none"
            )
        if suspect:
            warnings.append(f"{suspect} of {len(front.points)} latencies on {device} are suspect")
    return warnings
