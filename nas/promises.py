"""Promised against found: what the search and the predictor said of the verified candidates, and what came of it.

Accuracy was promised on the search split and is found on the verify split; latency was predicted and is measured.
Letters: N candidates.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from hardware.files import JSON
from nas.objectives import Limit
from nas.pareto import front_mask, hypervolume, number, reference_latency, verified_rows
from nas.run import Run
from nas.tables import PREDICTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One verified candidate. Accuracies are fractions, latencies milliseconds.

    Attributes:
        arch_id, candidate, weights_kind: what it is.
        on_front: whether no other verified candidate beats what was found.
        membership: see `FrontPoint`.
        accuracy_promised, accuracy_promised_interval: on the search split; NaN if it was never evaluated there.
        accuracy_found: on the verify split.
        accuracy_kept: whether that lies within the promised interval; None without a promise. Both splits are samples,
            so even without any bias fewer are kept than the interval's level says.
        latency_promised_ms, latency_promised_interval_ms: predicted before it was verified.
        latency_found_ms: measured; NaN if it was not.
        latency_kept: whether that lies within the promised interval; None if it was not measured.
    """

    arch_id: str
    candidate: str
    weights_kind: str
    on_front: bool
    membership: float
    accuracy_promised: float
    accuracy_promised_interval: tuple[float, float]
    accuracy_found: float
    accuracy_kept: bool | None
    latency_promised_ms: float
    latency_promised_interval_ms: tuple[float, float]
    latency_found_ms: float
    latency_kept: bool | None

    @property
    def accuracy_difference(self) -> float:
        """Found minus promised."""
        return self.accuracy_found - self.accuracy_promised

    @property
    def latency_ratio(self) -> float:
        """Found over promised."""
        return self.latency_found_ms / self.latency_promised_ms

    def to_json(self) -> dict[str, JSON]:
        """Plain JSON values, with the differences; NaN becomes null."""
        values = asdict(self) | {
            "accuracy_difference": self.accuracy_difference,
            "latency_ratio": self.latency_ratio,
        }
        return {key: _plain(value) for key, value in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What was promised of the verified candidates of a device, and what was found.

    Attributes:
        rows: one a candidate, the fastest first.
        provenance: of the latencies that count as found: "measured", or "predicted" if nothing was to be measured.
        reference_point: accuracy and latency_ms, the same for both hypervolumes: 0, and a little slower than the
            slowest value, promised or found.
        hypervolume_promised: of the candidates' promised values, accuracy x milliseconds.
        hypervolume_found: of what was found of the same candidates.
    """

    rows: tuple[Promise, ...]
    provenance: str
    reference_point: tuple[float, float]
    hypervolume_promised: float
    hypervolume_found: float

    @property
    def mean_accuracy_difference(self) -> float:
        """Found minus promised, on average; NaN without promises."""
        return _mean([row.accuracy_difference for row in self.rows])

    @property
    def mean_latency_error(self) -> float:
        """Mean absolute relative error of the promised latencies; NaN if nothing was measured."""
        return _mean([abs(1.0 / row.latency_ratio - 1.0) for row in self.rows])

    @property
    def accuracies_kept(self) -> float:
        """Share of candidates whose accuracy lies within the promised interval; NaN without promises."""
        return _mean([float(row.accuracy_kept) for row in self.rows if row.accuracy_kept is not None])

    @property
    def latencies_kept(self) -> float:
        """Share of candidates whose latency lies within the promised interval; NaN if nothing was measured."""
        return _mean([float(row.latency_kept) for row in self.rows if row.latency_kept is not None])

    def figures(self) -> dict[str, float]:
        """The numbers about all candidates together, by name; NaN where there are none."""
        return {
            "hypervolume_promised": self.hypervolume_promised,
            "hypervolume_found": self.hypervolume_found,
            "mean_accuracy_difference": self.mean_accuracy_difference,
            "accuracies_kept": self.accuracies_kept,
            "mean_latency_error": self.mean_latency_error,
            "latencies_kept": self.latencies_kept,
        }

    def to_json(self) -> dict[str, JSON]:
        """Plain JSON values; NaN becomes null."""
        return {
            **{key: _plain(value) for key, value in self.figures().items()},
            "reference_point": list(self.reference_point),
            "provenance": self.provenance,
            "rows": [row.to_json() for row in self.rows],
        }


def compute_promises(
    evaluations: pd.DataFrame, verifications: pd.DataFrame, *, device_id: str, limits: Sequence[Limit] = ()
) -> Promises:
    """Set what was promised of a device's verified candidates beside what was found; empty before verification.

    Args:
        evaluations: of the search split, for the intervals of promised accuracies.
        verifications: of the verify split; they hold what the predictor said before.
        device_id: whose latencies.
        limits: candidates that exceed one are left out, as they are of the front.
    """
    rows = verified_rows(verifications, device_id=device_id, limits=limits)
    rows = rows.sort_values(["latency_ms", "candidate_id"])
    searched = evaluations.drop_duplicates("candidate_id", keep="last").set_index("candidate_id")
    low_N, high_N = (
        rows["candidate_id"].map(searched[name]).to_numpy(dtype=np.float64)
        for name in ("accuracy_low", "accuracy_high")
    )
    promised_NM, found_NM = (
        rows[names].to_numpy(dtype=np.float64)
        for names in (["accuracy_search", "latency_predicted_ms"], ["accuracy", "latency_ms"])
    )
    on_front_N = front_mask(rows, latency="latency_ms")
    reference = 0.0, reference_latency(np.concatenate([promised_NM[:, 1], found_NM[:, 1]]))
    return Promises(
        rows=tuple(
            _promise({str(key): value for key, value in row.items()}, low=low, high=high, on_front=bool(on_front))
            for row, low, high, on_front in zip(rows.to_dict("records"), low_N, high_N, on_front_N, strict=True)
        ),
        provenance="+".join(sorted(set(rows["provenance"]))) or "none",
        reference_point=reference,
        hypervolume_promised=hypervolume(promised_NM[:, 0], promised_NM[:, 1], reference=reference),
        hypervolume_found=hypervolume(found_NM[on_front_N, 0], found_NM[on_front_N, 1], reference=reference),
    )


def host_slowdown(run: Run, *, device_id: str) -> float:
    """How much slower the host was while verifying than when profiling began, which is the speed of predictions.

    Returns:
        Ratio of the reference network's medians in the two sessions; NaN without a measured front or references.
    """
    records = run.measurements_table(device_id).read()
    references = records[records["arch_id"] == run.space.largest.arch_id].drop_duplicates("session_id", keep="last")
    verified = verified_rows(run.verifications(), device_id=device_id)
    sessions = records[records["measurement_id"].isin(verified["measurement_id"])]["session_id"]
    if not len(references) or not len(sessions):
        return float("nan")
    p50 = references.set_index("session_id")["p50"]
    return float(p50.get(sessions.iloc[-1], np.nan) / p50.iloc[0])


def _promise(row: dict[str, object], *, low: float, high: float, on_front: bool) -> Promise:
    accuracy, promised = number(row["accuracy"]), number(row["accuracy_search"])
    measured = row["provenance"] != PREDICTED
    latency = number(row["latency_ms"]) if measured else float("nan")
    fast, slow = number(row["latency_predicted_low_ms"]), number(row["latency_predicted_high_ms"])
    return Promise(
        arch_id=str(row["arch_id"]),
        candidate=str(row["candidate_id"]),
        weights_kind=str(row["weights_kind"]),
        on_front=on_front,
        membership=number(row["membership"]),
        accuracy_promised=promised,
        accuracy_promised_interval=(low, high),
        accuracy_found=accuracy,
        accuracy_kept=bool(low <= accuracy <= high) if np.isfinite([low, high]).all() else None,
        latency_promised_ms=number(row["latency_predicted_ms"]),
        latency_promised_interval_ms=(fast, slow),
        latency_found_ms=latency,
        latency_kept=bool(fast <= latency <= slow) if measured else None,
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _plain(value: JSON) -> JSON:
    if isinstance(value, tuple):
        return [_plain(bound) for bound in value]
    return None if isinstance(value, float) and np.isnan(value) else value
