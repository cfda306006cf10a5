"""Verification: what the search promised is measured on the device and evaluated on data that the search never saw."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hardware.errors import DeadDeviceError
from hardware.measurement import CostMeasurement
from nas.accuracy import Accuracy, accuracy_row
from nas.baselines import BASELINE
from nas.candidate import Candidate
from nas.materialise import Workbench
from nas.measure import measure_candidates
from nas.pareto import front_order
from nas.pricing import Pricer
from nas.run import Run, utc_now
from nas.tables import ADDED_TRIAL, PREDICTED, UNMEASURED
from searchspaces import SearchSpace

VERIFY = "verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """What is verified; the recipe's section `verify` has the same names.

    Attributes:
        candidates: most candidates that are measured and evaluated.
        protocol: measurement protocol.
        seed: order of measuring.
        measure: whether latencies are measured; otherwise they stay the predicted ones.
    """

    candidates: int
    protocol: str
    seed: int
    measure: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verification came to.

    Attributes:
        num_new: candidates that got a new row; 0 if all were verified before.
        dead: why the device could not measure; its candidates are marked as unmeasured, their accuracies are known.
    """

    num_new: int
    dead: DeadDeviceError | None = None


def choose_for_verification(
    evaluations: pd.DataFrame, *, space: SearchSpace, device_id: str, num: int
) -> list[Candidate]:
    """The space's two ends, then candidates of the predicted front and of the fronts behind it, spread over latencies.

    Accuracies have intervals, so candidates just behind the front may well belong to it. The ends, where they were
    evaluated, show what the space can do. Architectures that somebody added come on top of `num`, each with what was
    added and with its most accurate weights. An architecture has one latency, the newest, whatever its weights.
    """
    rows = evaluations[evaluations["device_id"] == device_id].drop_duplicates("candidate_id", keep="last")
    rows = rows.assign(latency_predicted_ms=rows.groupby("arch_id")["latency_predicted_ms"].transform("last"))
    rows = rows.sort_values(["latency_predicted_ms", "candidate_id"])
    order = front_order(rows["accuracy"].to_numpy(dtype=float), rows["latency_predicted_ms"].to_numpy(dtype=float))
    records = rows.to_dict("records")
    ends = {space.smallest.arch_id, space.largest.arch_id}
    order.sort(key=lambda n: records[n]["arch_id"] not in ends)
    is_added = rows["trial_number"] == ADDED_TRIAL
    best = rows.sort_values("accuracy", kind="stable").drop_duplicates("arch_id", keep="last")["candidate_id"]
    is_named_N = is_added | (rows["arch_id"].isin(rows["arch_id"][is_added]) & rows["candidate_id"].isin(best))
    named = [n for n in order[num:] if is_named_N.iloc[n]]
    return [Candidate.from_row(records[n]) for n in [*order[:num], *named]]


def verify_candidates(
    bench: Workbench,
    chosen: Sequence[Candidate],
    *,
    evaluations: pd.DataFrame,
    pricer: Pricer,
    settings: VerifySettings,
    on_progress: Callable[[int, int], None],
) -> Verified:
    """Measure the candidates together and evaluate those that were not evaluated yet.

    All latencies of a front come from one session: when a candidate joins, all are measured again, because a host that
    became slower in between would look like a slower network. Accuracies are computed in the device's runtime from the
    very file that is measured; each candidate's row is appended as soon as it is known. When the device is dead the
    accuracies are computed all the same, and candidates that were never measured get rows without a latency. So they do
    when nothing is to be measured; the provenance says why.

    Args:
        bench: makes artifacts.
        chosen: what to verify; baselines may be among them.
        evaluations: rows of the search split, for what was promised.
        pricer: says again what was promised.
        settings: how thoroughly.
        on_progress: called with (done, all) candidates.

    Raises:
        DeviceError: the device is busy, or the run was measured on another machine.
    """
    run, device_id = bench.run, bench.device.spec.device_id
    verified = run.verifications_table.read()
    verified = verified[verified["device_id"] == device_id].drop_duplicates("candidate_id", keep="last")
    known = {str(row["candidate_id"]): row for row in verified.to_dict("records")}
    dead: DeadDeviceError | None = None
    measurements: Mapping[str, CostMeasurement] = {}
    if settings.measure:
        try:
            measurements = _measured_together(run, chosen, device_id=device_id) or measure_candidates(
                bench,
                dict.fromkeys(chosen, VERIFY),
                protocol=settings.protocol,
                seed=settings.seed,
                on_round=on_progress,
            )
        except DeadDeviceError as e:
            dead = e
    without = UNMEASURED if settings.measure else PREDICTED
    added = 0
    for number, candidate in enumerate(chosen):
        measured = measurements.get(candidate.candidate_id)
        before = known.get(candidate.candidate_id)
        if before is not None and _is_told(before, measured, without=without):
            continue
        if before is not None:
            accuracy = Accuracy.from_row({str(key): value for key, value in before.items()})
        else:
            with bench.computing():
                accuracy = bench.accuracy(bench.artifact(candidate), bench.data.verify)
        run.verifications_table.append(
            [
                verification_row(
                    candidate,
                    accuracy=accuracy,
                    price=_promised(run, candidate, pricer=pricer),
                    latency=_latency_row(measured, without=without),
                    accuracy_search=_accuracy(evaluations, candidate),
                    accuracy_inherited=_accuracy(evaluations, bench.inherit(candidate.architecture)),
                )
            ]
        )
        added += 1
        on_progress(number + 1, len(chosen))
    return Verified(num_new=added, dead=dead)


def _is_told(before: Mapping[Hashable, object], measured: CostMeasurement | None, *, without: str) -> bool:
    """Whether a candidate's newest row says already what is known now."""
    if measured is not None:
        return before["measurement_id"] == measured.measurement_id
    # What was not to be measured need not wait for a dead device any more; a measurement stays.
    return without == UNMEASURED or before["provenance"] != UNMEASURED


def _promised(run: Run, candidate: Candidate, *, pricer: Pricer) -> Mapping[str, object]:
    """The columns of a price; nothing is predicted of a baseline."""
    if candidate.weights_kind != BASELINE:
        return pricer.price([candidate.architecture])[0].row()
    return run.baselines.get(candidate.architecture.arch_id).price_row(pricer.predictor.device_id)


def verification_row(
    candidate: Candidate,
    *,
    accuracy: Accuracy,
    price: Mapping[str, object],
    latency: Mapping[str, object],
    accuracy_search: float = float("nan"),
    accuracy_inherited: float = float("nan"),
) -> dict[str, object]:
    """One row of the table `verifications`.

    Args:
        candidate: what was verified.
        accuracy: on the verify split.
        price: the columns of what was promised.
        latency: the columns of what was measured, or of its absence, see `unmeasured_row`.
        accuracy_search: of the candidate on the search split; NaN if it was never evaluated there.
        accuracy_inherited: of its architecture with inherited weights there.
    """
    return {
        **candidate.row(),
        **accuracy_row(accuracy),
        **price,
        "split": "verify",
        "accuracy_search": accuracy_search,
        "accuracy_inherited": accuracy_inherited,
        **latency,
        "utc_time": utc_now(),
    }


def unmeasured_row(provenance: str) -> dict[str, object]:
    """The columns of a latency that is absent; the provenance says why."""
    nothing = dict.fromkeys(("latency_ms", "latency_low_ms", "latency_high_ms"), float("nan"))
    return {**nothing, "provenance": provenance, "suspect": False, "measurement_id": ""}


def _latency_row(measured: CostMeasurement | None, *, without: str) -> dict[str, object]:
    """The columns of a latency, or of its absence, of which `without` is the provenance."""
    if measured is None:
        return unmeasured_row(without)
    return {
        "latency_ms": measured.p50,
        "latency_low_ms": measured.low,
        "latency_high_ms": measured.high,
        "provenance": measured.provenance,
        "suspect": measured.suspect,
        "measurement_id": measured.measurement_id,
    }


def _measured_together(
    run: Run, chosen: Sequence[Candidate], *, device_id: str
) -> Mapping[str, CostMeasurement] | None:
    """The newest verifying session, if it has all of `chosen`; None if they must be measured."""
    rows = run.measurements_table(device_id).read()
    rows = rows[rows["purpose"] == VERIFY]
    if not len(rows):
        return None
    rows = rows[rows["session_id"] == rows["session_id"].iloc[-1]]
    found = {
        str(row["candidate_id"]): CostMeasurement.from_row({str(key): value for key, value in row.items()})
        for row in rows.to_dict("records")
    }
    return found if {candidate.candidate_id for candidate in chosen} <= found.keys() else None


def _accuracy(evaluations: pd.DataFrame, candidate: Candidate) -> float:
    """Accuracy on the search split, NaN if never evaluated."""
    found = evaluations[evaluations["candidate_id"] == candidate.candidate_id]["accuracy"].to_numpy(dtype=np.float64)
    return float(found[-1]) if len(found) else float("nan")
