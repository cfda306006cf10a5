"""Promised against found, on a verified run and on small tables."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hardware.device import Device
from nas.data import DataSplits
from nas.objectives import Limit
from nas.pareto import hypervolume, verified_points
from nas.promises import compute_promises
from nas.verify import VerifySettings
from tests.nas.tiny_run import SEED, TinyRun, copy_run, ignore, make_bench, make_pricer, verify_all

DEVICE_ID = "onnxruntime-cpu"


def test_every_verified_candidate_has_its_promise_beside_what_was_found(verified: TinyRun) -> None:
    evaluations, rows = verified.evaluations(), verified.verifications()
    found = compute_promises(evaluations, rows, device_id=DEVICE_ID)
    assert {row.candidate for row in found.rows} == set(rows["candidate_id"])
    assert found.provenance == "measured"
    for promise in found.rows:
        row = rows[rows["candidate_id"] == promise.candidate].iloc[-1]
        searched = evaluations[evaluations["candidate_id"] == promise.candidate].iloc[-1]
        assert promise.accuracy_promised == searched["accuracy"]
        assert promise.accuracy_promised_interval == (searched["accuracy_low"], searched["accuracy_high"])
        assert (promise.accuracy_found, promise.latency_found_ms) == (row["accuracy"], row["latency_ms"])
        assert promise.accuracy_kept == (searched["accuracy_low"] <= row["accuracy"] <= searched["accuracy_high"])
        low, high = promise.latency_promised_interval_ms
        assert promise.latency_kept == (low <= row["latency_ms"] <= high)
        assert 0.0 <= promise.membership <= 1.0
    on_front = {row.candidate for row in found.rows if row.on_front}
    assert on_front >= {point.candidate for point in verified.front().points}
    # whoever is fastest or most accurate is not beaten
    assert sum(row.membership for row in found.rows) >= 1.0
    assert json.loads(json.dumps(found.to_json()))["rows"][0]["candidate"] == found.rows[0].candidate


def test_both_hypervolumes_are_measured_from_the_same_point(verified: TinyRun) -> None:
    found = compute_promises(verified.evaluations(), verified.verifications(), device_id=DEVICE_ID)
    accuracy_N, latency_N = (
        np.array([getattr(row, name) for row in found.rows]) for name in ("accuracy_promised", "latency_promised_ms")
    )
    slowest = max(*latency_N, *(row.latency_found_ms for row in found.rows))
    assert found.reference_point == pytest.approx((0.0, 1.1 * slowest))
    assert found.hypervolume_promised == pytest.approx(
        hypervolume(accuracy_N, latency_N, reference=found.reference_point)
    )
    differences = [row.accuracy_found - row.accuracy_promised for row in found.rows]
    assert found.mean_accuracy_difference == pytest.approx(np.mean(differences))


def test_candidates_beyond_a_limit_are_left_out_and_nothing_verified_gives_nothing(verified: TinyRun) -> None:
    evaluations, rows = verified.evaluations(), verified.verifications()
    middle = float(rows["latency_ms"].median())
    limits = [Limit(name="latency_ms", value=middle, unit="ms")]
    found = compute_promises(evaluations, rows, device_id=DEVICE_ID, limits=limits)
    assert 0 < len(found.rows) < len(rows)
    assert all(row.latency_found_ms <= middle for row in found.rows)
    nothing = compute_promises(evaluations, rows.head(0), device_id=DEVICE_ID)
    assert (nothing.rows, nothing.provenance, nothing.hypervolume_found) == ((), "none", 0.0)
    assert nothing.to_json()["mean_latency_error"] is None


def test_latencies_that_were_not_measured_are_predicted_and_say_so_until_they_are(
    tmp_path: Path, refined: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(refined, tmp_path / "run")
    bench, pricer = make_bench(run, data=data, device=device), make_pricer(run)
    settings = VerifySettings(candidates=3, protocol="quick", seed=SEED, measure=False)
    num_measured = len(run.measurements())
    assert verify_all(bench, pricer=pricer, settings=settings, on_progress=ignore).num_new == 3
    assert verify_all(bench, pricer=pricer, settings=settings, on_progress=ignore).num_new == 0
    assert len(run.measurements()) == num_measured
    rows = run.verifications()
    assert rows["latency_ms"].isna().all()
    assert rows["accuracy"].between(0, 1).all()
    front = run.front()
    assert (front.provenance, front.split) == ("predicted", "verify")
    for point in front.points:
        row = rows[rows["candidate_id"] == point.candidate].iloc[0]
        assert point.latency_ms == row["latency_predicted_ms"]
        assert point.latency_interval_ms == (row["latency_predicted_low_ms"], row["latency_predicted_high_ms"])
        assert point.provenance == "predicted"
        assert 0.0 <= point.membership <= 1.0
    promises = compute_promises(run.evaluations(), rows, device_id=DEVICE_ID)
    assert promises.provenance == "predicted"
    assert all(math.isnan(row.latency_found_ms) and row.latency_kept is None for row in promises.rows)
    measuring = VerifySettings(candidates=2, protocol="quick", seed=SEED)
    assert verify_all(bench, pricer=pricer, settings=measuring, on_progress=ignore).num_new == 2
    # the third one has no measured latency: it is not compared with those that do
    assert run.front().provenance == "measured"
    assert len(verified_points(run.verifications(), device_id=DEVICE_ID)) == 2
