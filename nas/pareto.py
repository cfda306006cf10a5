"""The Pareto front: a pure function of a run's tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt
import pandas as pd

from hardware.files import JSON
from nas.limits import within_limits
from nas.membership import membership
from nas.objectives import Limit
from nas.tables import PREDICTED, UNMEASURED

JSONPoint = dict[str, JSON]

# Slower than the slowest point, so that every point adds to the hypervolume.
_REFERENCE_MARGIN = 1.1
# Of the knee, in units of the front's span: less is rounding.
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One candidate of a front. Accuracies are fractions; latencies milliseconds of one inference.

    Attributes:
        arch_id, candidate: what it is.
        metric: which one the accuracies are values of.
        accuracy, accuracy_interval: on the split that the front is made of (`verify`, or `search` before that).
        accuracy_inherited: on the search split with the supernet's weights, NaN if never evaluated so.
        accuracy_search: on the search split with the candidate's own weights.
        latency_ms, latency_interval_ms: median and its interval.
        latency_predicted_ms: what the predictor had promised.
        membership: probability to be on the front of all verified candidates, see `nas.membership`; NaN before
            verification.
        provenance: "measured", "predicted" or "unmeasured" (there is none), of `latency_ms`.
        suspect: the measurement failed its own checks.
        macs, params: counts for one image.
        weights_kind: "inherited", "fine-tuned" or "averaged".
        architecture: its JSON.
    """

    arch_id: str
    candidate: str
    metric: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_inherited: float
    accuracy_search: float
    latency_ms: float
    latency_interval_ms: tuple[float, float]
    latency_predicted_ms: float
    membership: float
    provenance: str
    suspect: bool
    macs: int
    params: int
    weights_kind: str
    architecture: str

    def to_json(self) -> JSONPoint:
        """Plain JSON values; NaN becomes null."""
        point: JSONPoint = {name: getattr(self, name) for name in self.__slots__}
        for name in ("accuracy_interval", "latency_interval_ms"):
            point[name] = [None if np.isnan(bound) else bound for bound in getattr(self, name)]
        return {key: None if isinstance(v, float) and np.isnan(v) else v for key, v in point.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoFront:
    """Non-dominated candidates, fastest first.

    Attributes:
        device_id: where the latencies hold.
        points: the front; empty when nothing was evaluated.
        reference_point: (accuracy, latency_ms) that the hypervolume is measured from.
        hypervolume: accuracy x milliseconds between the front and the reference point.
        provenance: of the latencies: "measured" (or the device's own) for the verified front, "predicted" before
            verification, "none" when empty.
        split: the data that the accuracies come from.
    """

    device_id: str
    points: tuple[FrontPoint, ...]
    reference_point: tuple[float, float]
    hypervolume: float
    provenance: str
    split: str

    @property
    def metric(self) -> str:
        """What the points' accuracies are values of; "none" when empty."""
        return self.points[0].metric if self.points else "none"

    def knee(self) -> FrontPoint:
        """The point farthest from the straight line between the fastest and the most accurate one, axes scaled to 1.

        Where none lies above that line: the most accurate. The front must not be empty.
        """
        accuracy = np.array([point.accuracy for point in self.points])
        latency = np.array([point.latency_ms for point in self.points])
        spans = np.ptp(accuracy), np.ptp(latency)
        if len(self.points) < 3 or min(spans) == 0.0:
            return self.points[-1]
        gain = (accuracy - accuracy[0]) / spans[0] - (latency - latency[0]) / spans[1]
        best = int(np.argmax(gain))
        return self.points[best if gain[best] > _LEAST_GAIN else -1]


def pareto_mask(accuracy_N: npt.NDArray[np.float64], latency: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points no other one beats: higher accuracy and lower latency are better.

    Equal points are all kept; a point with NaN failed and is never on the front.

    Args:
        accuracy_N: of each point.
        latency: (N,), or (N, D) on several devices.
    """
    costs = np.column_stack([-accuracy_N, latency])
    valid_N = np.isfinite(costs).all(axis=1)
    mask_N = np.zeros(len(accuracy_N), dtype=np.bool_)
    if valid_N.any():
        mask_N[valid_N] = moocore.is_nondominated(costs[valid_N], keep_weakly=True)
    return mask_N


def front_mask(rows: pd.DataFrame, *, latency: str) -> npt.NDArray[np.bool_]:
    """Which rows are on the front, when an architecture with several weights has one latency.

    Only its most accurate row competes: that another one was a little faster is noise of the measurement.

    Args:
        rows: one a candidate: arch_id, candidate_id, accuracy and latency.
        latency: name of the latency's column.
    """
    known_N = np.isfinite(_column(rows, "accuracy")) & np.isfinite(_column(rows, latency))
    found = rows.assign(_row=np.arange(len(rows)))[known_N]
    best = found.sort_values(["accuracy", latency, "candidate_id"], ascending=[False, True, True])
    best = best.drop_duplicates("arch_id")
    mask_N = np.zeros(len(rows), dtype=np.bool_)
    mask_N[best["_row"].to_numpy(dtype=np.int64)] = pareto_mask(_column(best, "accuracy"), _column(best, latency))
    return mask_N


def hypervolume(
    accuracy_N: npt.NDArray[np.float64], latency: npt.NDArray[np.float64], *, reference: Sequence[float]
) -> float:
    """Volume (accuracy x ms of each device) dominated by the points, up to `reference`; 0 without points.

    Args:
        accuracy_N: of each point.
        latency: (N,), or (N, D) on several devices.
        reference: accuracy, then the latency of each device.
    """
    costs = np.column_stack([-accuracy_N, latency])
    valid_N = np.isfinite(costs).all(axis=1)
    if not valid_N.any():
        return 0.0
    return float(moocore.hypervolume(costs[valid_N], ref=np.array([-reference[0], *reference[1:]])))


def hypervolume_by_evaluation(evaluations: pd.DataFrame, *, device_id: str) -> list[float]:
    """Hypervolume of the predicted front after each evaluation of the search, in the order of the table.

    The reference point is fixed by all rows: accuracy 0, 1.1 x the slowest prediction.
    """
    rows = _of_device(evaluations, device_id)
    # What is refined later belongs to no trial.
    rows = rows[rows["trial_number"] >= 0]
    accuracy_N, latency_N = _column(rows, "accuracy"), _column(rows, "latency_predicted_ms")
    reference = _reference(latency_N)
    return [hypervolume(accuracy_N[: n + 1], latency_N[: n + 1], reference=reference) for n in range(len(rows))]


def compute_front(
    evaluations: pd.DataFrame, verifications: pd.DataFrame, *, device_id: str, limits: Sequence[Limit] = ()
) -> ParetoFront:
    """The verified front, or the predicted one as long as nothing within the limits is verified.

    One row a candidate (the newest), in the order of latency, then candidate id; a candidate equal to another in both
    objectives stays out if its id comes later. Of an architecture with several weights the most accurate ones compete.

    Args:
        evaluations: on the search split.
        verifications: on the verify split.
        device_id: whose latencies count.
        limits: what exceeds one is left out: its measured latency counts, or the predicted one if there is no other.
    """
    verified = verified_rows(verifications, device_id=device_id, limits=limits)
    if len(verified):
        return _front(verified, device_id=device_id, latency="latency", split="verify")
    evaluated = _of_device(evaluations, device_id)
    evaluated = evaluated[within_limits(evaluated, limits, latency="latency_predicted_ms")]
    evaluated = evaluated.assign(provenance=PREDICTED, suspect=False, membership=float("nan"))
    inherited = evaluated[evaluated["weights_kind"] == "inherited"].set_index("arch_id")["accuracy"]
    evaluated = evaluated.assign(
        accuracy_search=evaluated["accuracy"],
        accuracy_inherited=evaluated["arch_id"].map(inherited[~inherited.index.duplicated(keep="last")]),
    )
    return _front(evaluated, device_id=device_id, latency="latency_predicted", split="search")


def verified_rows(verifications: pd.DataFrame, *, device_id: str, limits: Sequence[Limit] = ()) -> pd.DataFrame:
    """What competes for a device's verified front: the newest row of each candidate, with the column `membership`."""
    found = with_latencies(_of_device(verifications, device_id))
    found = found.drop_duplicates("candidate_id", keep="last")
    found = found[within_limits(found, limits, latency="latency_ms")]
    return found.assign(membership=membership(found))


def with_latencies(verifications: pd.DataFrame) -> pd.DataFrame:
    """Measured rows, if there are any; else those that were not to be measured, with the predicted latency.

    So measured and predicted latencies are never compared with each other.
    """
    measured = verifications[verifications["latency_ms"].notna()]
    if len(measured):
        return measured
    found = verifications[verifications["provenance"] == PREDICTED]
    columns = ("latency_ms", "latency_low_ms", "latency_high_ms")
    return found.assign(**{name: found[name.replace("latency", "latency_predicted")] for name in columns})


def verified_points(verifications: pd.DataFrame, *, device_id: str, limits: Sequence[Limit] = ()) -> list[FrontPoint]:
    """Every candidate that competes for a device's verified front, on it or behind it, fastest first."""
    rows = verified_rows(verifications, device_id=device_id, limits=limits)
    rows = rows.sort_values(["latency_ms", "candidate_id"])
    return [_point(row, latency="latency") for row in rows.to_dict("records")]


def unmeasured_points(verifications: pd.DataFrame, *, device_id: str) -> list[FrontPoint]:
    """Candidates whose accuracy is verified, but whose device was dead: their latency is NaN. Most accurate first."""
    rows = _of_device(verifications, device_id).drop_duplicates("candidate_id", keep="last")
    rows = rows[rows["provenance"] == UNMEASURED].sort_values(["accuracy", "candidate_id"], ascending=[False, True])
    return [_point(row, latency="latency") for row in rows.assign(membership=float("nan")).to_dict("records")]


def _front(rows: pd.DataFrame, *, device_id: str, latency: str, split: str) -> ParetoFront:
    rows = rows.drop_duplicates("candidate_id", keep="last")
    accuracy_N, latency_N = _column(rows, "accuracy"), _column(rows, f"{latency}_ms")
    reference = _reference(latency_N)
    on_front_N = front_mask(rows, latency=f"{latency}_ms")
    front = rows[on_front_N]
    front = front.sort_values([f"{latency}_ms", "candidate_id"]).drop_duplicates([f"{latency}_ms", "accuracy"])
    points = tuple(_point(row, latency=latency) for row in front.to_dict("records"))
    return ParetoFront(
        device_id=device_id,
        points=points,
        reference_point=reference,
        hypervolume=hypervolume(accuracy_N[on_front_N], latency_N[on_front_N], reference=reference),
        provenance="+".join(sorted({point.provenance for point in points})) or "none",
        split=split,
    )


def _point(row: Mapping[object, object], *, latency: str) -> FrontPoint:
    values = {str(key): value for key, value in row.items()}
    return FrontPoint(
        arch_id=str(values["arch_id"]),
        candidate=str(values["candidate_id"]),
        metric=str(values["metric"]),
        accuracy=number(values["accuracy"]),
        accuracy_interval=(number(values["accuracy_low"]), number(values["accuracy_high"])),
        accuracy_inherited=number(values["accuracy_inherited"]),
        accuracy_search=number(values["accuracy_search"]),
        latency_ms=number(values[f"{latency}_ms"]),
        latency_interval_ms=(number(values[f"{latency}_low_ms"]), number(values[f"{latency}_high_ms"])),
        latency_predicted_ms=number(values["latency_predicted_ms"]),
        membership=number(values["membership"]),
        provenance=str(values["provenance"]),
        suspect=bool(values["suspect"]),
        macs=int(number(values["macs"])),
        params=int(number(values["params"])),
        weights_kind=str(values["weights_kind"]),
        architecture=str(values["architecture"]),
    )


def number(value: object) -> float:
    """A table's number; NaN for None."""
    return float("nan") if value is None else float(str(value))


def _of_device(rows: pd.DataFrame, device_id: str) -> pd.DataFrame:
    return rows[rows["device_id"] == device_id]


def _column(rows: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return rows[name].to_numpy(dtype=np.float64)


def reference_latency(latency_N: npt.NDArray[np.float64]) -> float:
    """The latency that hypervolumes are measured from: a little slower than the slowest point."""
    finite: Sequence[float] = latency_N[np.isfinite(latency_N)].tolist()
    return _REFERENCE_MARGIN * max(finite, default=0.0)


def _reference(latency_N: npt.NDArray[np.float64]) -> tuple[float, float]:
    return 0.0, reference_latency(latency_N)


def front_order(accuracy_N: npt.NDArray[np.float64], latency_N: npt.NDArray[np.float64]) -> list[int]:
    """Row numbers, best first: front by front (non-dominated sorting), each front from its ends to its middle.

    The first k of the order are spread over the whole front, however small k is. Rows with NaN are left out.
    """
    order: list[int] = []
    left = np.flatnonzero(np.isfinite(accuracy_N) & np.isfinite(latency_N))
    while len(left):
        mask = pareto_mask(accuracy_N[left], latency_N[left])
        layer = left[mask]
        order.extend(int(n) for n in layer[_spread(np.log(latency_N[layer]))])
        left = left[~mask]
    return order


def _spread(values_N: npt.NDArray[np.float64]) -> list[int]:
    """Positions so ordered that each next one is farthest from those before; starts with the smallest value."""
    chosen = [int(np.argmin(values_N))]
    distance_N = np.abs(values_N - values_N[chosen[0]])
    distance_N[chosen[0]] = -1.0
    while len(chosen) < len(values_N):
        chosen.append(int(np.argmax(distance_N)))
        distance_N = np.minimum(distance_N, np.abs(values_N - values_N[chosen[-1]]))
        distance_N[chosen] = -1.0
    return chosen
