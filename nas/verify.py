"""Verification: what the search promised is measured on the device and evaluated on data that the search never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.candidate import Candidate
from nas.evaluation import accuracy_row
from nas.materialise import Workbench
from nas.measure import measure_candidates
from nas.pareto import front_order
from nas.pricing import Pricer
from nas.run import utc_now
from searchspaces import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """What is verified; the recipe's section `verify` has the same names.

    Attributes:
        candidates: most candidates that are measured and evaluated.
        protocol: measurement protocol.
        seed: order of measuring.
    """

    candidates: int
    protocol: str
    seed: int


def choose_for_verification(
    evaluations: pd.DataFrame, *, space: SearchSpace, device_id: str, num: int
) -> list[Candidate]:
    """The space's two ends, then candidates of the predicted front and of the fronts behind it, spread over latencies.

    Accuracies have intervals, so candidates just behind the front may well belong to it. The ends, where they were
    evaluated, show what the space can do.
    """
    rows = evaluations[evaluations["device_id"] == device_id].drop_duplicates("candidate_id", keep="last")
    rows = rows.sort_values(["latency_predicted_ms", "candidate_id"])
    order = front_order(rows["accuracy"].to_numpy(dtype=float), rows["latency_predicted_ms"].to_numpy(dtype=float))
    records = rows.to_dict("records")
    ends = {space.smallest.arch_id, space.largest.arch_id}
    order.sort(key=lambda n: records[n]["arch_id"] not in ends)
    return [Candidate.from_row({str(key): str(value) for key, value in records[n].items()}) for n in order[:num]]


def verify_candidates(
    bench: Workbench,
    *,
    pricer: Pricer,
    settings: VerifySettings,
    on_progress: Callable[[int, int], None],
) -> int:
    """Measure and evaluate the chosen candidates that are not verified yet; returns how many that were.

    Accuracies are computed in the device's runtime from the very file that is measured.

    Args:
        bench: makes artifacts.
        pricer: says again what was promised.
        settings: how many, how thoroughly.
        on_progress: called with (done, all) steps.

    Raises:
        DeviceError: the device is unavailable or busy.
    """
    run, device_id = bench.run, bench.device.spec.device_id
    evaluations = run.evaluations()
    chosen = choose_for_verification(evaluations, space=run.space, device_id=device_id, num=settings.candidates)
    verified = run.verifications()
    done = set(verified[verified["device_id"] == device_id]["candidate_id"])
    missing = [candidate for candidate in chosen if candidate.candidate_id not in done]
    if not missing:
        return 0
    steps = 2 * len(missing)
    with bench.computing():
        accuracies = []
        for number, candidate in enumerate(missing):
            accuracies.append(bench.accuracy(bench.artifact(candidate), bench.data.verify))
            on_progress(number + 1, steps)
    measurements = measure_candidates(
        bench, dict.fromkeys(missing, "verify"), protocol=settings.protocol, seed=settings.seed
    )
    prices = pricer.price([candidate.architecture for candidate in missing])
    rows = []
    for candidate, accuracy, price in zip(missing, accuracies, prices, strict=True):
        measured = measurements[candidate.candidate_id]
        rows.append(
            {
                **candidate.row(),
                **accuracy_row(accuracy),
                **price.row(),
                "split": "verify",
                "accuracy_search": _accuracy(evaluations, candidate_ids=[candidate.candidate_id]),
                "accuracy_inherited": _accuracy(
                    evaluations, candidate_ids=[bench.inherit(candidate.architecture).candidate_id]
                ),
                "latency_ms": measured.p50,
                "latency_low_ms": measured.low,
                "latency_high_ms": measured.high,
                "provenance": measured.provenance,
                "suspect": measured.suspect,
                "measurement_id": measured.measurement_id,
                "utc_time": utc_now(),
            }
        )
    run.verifications_table.append(rows)
    on_progress(steps, steps)
    return len(missing)


def _accuracy(evaluations: pd.DataFrame, *, candidate_ids: Sequence[str]) -> float:
    """Accuracy on the search split, NaN if never evaluated."""
    found = evaluations[evaluations["candidate_id"].isin(candidate_ids)]["accuracy"].to_numpy(dtype=np.float64)
    return float(found[-1]) if len(found) else float("nan")
