"""Verification: what is chosen, measured, and left alone the second time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hardware.device import Device
from nas.accuracy import predict_classes
from nas.data import DataSplits
from nas.pareto import unmeasured_points, verified_points
from nas.verify import VerifySettings, choose_for_verification
from tests.fakes.devices import DeadHost, FlakyBackend
from tests.nas.tiny_run import SEED, SPACE, TinyRun, copy_run, ignore, make_bench, make_pricer, verify_all

SETTINGS = VerifySettings(candidates=2, protocol="quick", seed=SEED)
DEVICE_ID = "onnxruntime-cpu"


@pytest.fixture
def run(tmp_path: Path, refined: TinyRun) -> TinyRun:
    return copy_run(refined, tmp_path / "run")


def test_the_ends_of_the_space_and_the_predicted_front_are_verified_first(refined: TinyRun) -> None:
    chosen = choose_for_verification(refined.evaluations(), space=SPACE, device_id=DEVICE_ID, num=1000)
    ids = [candidate.candidate_id for candidate in chosen]
    ends = [candidate.candidate_id for candidate in chosen if candidate.architecture in (SPACE.smallest, SPACE.largest)]
    # an end need not be on the front: noise can make a larger network the faster one
    inner_front = {point.candidate for point in refined.front().points} - set(ends)
    assert ids[: len(ends)] == ends
    assert inner_front == set(ids[len(ends) : len(ends) + len(inner_front)])
    assert len(set(ids)) == len(ids) == refined.evaluations()["candidate_id"].nunique()
    assert choose_for_verification(refined.evaluations(), space=SPACE, device_id="toaster", num=5) == []


def test_inherited_and_fine_tuned_weights_of_one_architecture_are_two_candidates(refined: TinyRun) -> None:
    chosen = choose_for_verification(refined.evaluations(), space=SPACE, device_id=DEVICE_ID, num=1000)
    tuned = {candidate.architecture.arch_id for candidate in chosen if candidate.weights_kind == "fine-tuned"}
    inherited = {candidate.architecture.arch_id for candidate in chosen if candidate.weights_kind == "inherited"}
    assert tuned
    assert tuned <= inherited


@pytest.mark.parametrize("num", [1, 3])
def test_added_architectures_are_verified_on_top_with_their_best_weights(refined: TinyRun, num: int) -> None:
    rows = refined.evaluations()
    rows = rows[rows["weights_kind"] == "inherited"]
    chosen = choose_for_verification(rows, space=SPACE, device_id=DEVICE_ID, num=1000)
    first, last = [one.candidate_id for one in chosen[:num]], chosen[-1].candidate_id
    named = rows.assign(trial_number=rows["trial_number"].where(rows["candidate_id"] != last, -2))
    found = choose_for_verification(named, space=SPACE, device_id=DEVICE_ID, num=num)
    assert [one.candidate_id for one in found] == [*first, last]
    # Of two fine-tuned copies the better one, which is hardly better than what was added, is verified too.
    (added,) = named[named["candidate_id"] == last].to_dict("records")
    tuned = {**added, "weights_kind": "fine-tuned", "trial_number": -1}
    accuracies = {"worse": 0.0, "better": added["accuracy"] + 1e-9}
    copies = [{**tuned, "candidate_id": key, "weights": key, "accuracy": value} for key, value in accuracies.items()]
    more = pd.concat([named, pd.DataFrame(copies)])
    found = choose_for_verification(more, space=SPACE, device_id=DEVICE_ID, num=num)
    assert {one.weights for one in found[num:]} == {added["weights"], "better"}


def test_weights_of_one_architecture_are_not_told_apart_by_its_latency(refined: TinyRun) -> None:
    rows = refined.evaluations()
    chosen = choose_for_verification(rows, space=SPACE, device_id=DEVICE_ID, num=1000)
    latency = rows["latency_predicted_ms"]
    lower = latency.where(rows["weights_kind"] != "inherited", np.nextafter(latency, 0.0))
    again = rows.assign(latency_predicted_ms=lower)
    assert choose_for_verification(again, space=SPACE, device_id=DEVICE_ID, num=1000) == chosen


def test_verified_rows_say_what_was_found_and_what_was_promised(
    verified: TinyRun, data: DataSplits, device: Device
) -> None:
    bench, pricer = make_bench(verified, data=data, device=device), make_pricer(verified)
    evaluations = verified.evaluations()
    chosen = choose_for_verification(evaluations, space=SPACE, device_id=DEVICE_ID, num=5)
    rows = verified.verifications().set_index("candidate_id")
    assert set(rows.index) == {candidate.candidate_id for candidate in chosen}
    measurements = verified.measurements().set_index("measurement_id")
    for candidate in chosen:
        row = rows.loc[candidate.candidate_id]
        with torch.no_grad():
            correct = int(
                (predict_classes(bench.deployable(candidate), data.verify) == data.verify.labels_N.numpy()).sum()
            )
        assert (row["num_correct"], row["num_images"]) == (correct, len(data.verify))
        assert row["split"] == "verify"
        assert row["provenance"] == "measured"
        measured = measurements.loc[row["measurement_id"]]
        assert (row["latency_ms"], row["latency_low_ms"], row["latency_high_ms"]) == (
            measured["p50"],
            measured["low"],
            measured["high"],
        )
        assert measured["purpose"] == "verify"
        assert measured["candidate_id"] == candidate.candidate_id
        promised = pricer.price([candidate.architecture])[0].latency_predicted_ms
        assert row["latency_predicted_ms"] == pytest.approx(promised)
        searched = evaluations[evaluations["candidate_id"] == candidate.candidate_id].iloc[-1]
        inherited = evaluations[
            (evaluations["arch_id"] == row["arch_id"]) & (evaluations["weights_kind"] == "inherited")
        ].iloc[-1]
        assert row["accuracy_search"] == searched["accuracy"]
        assert row["accuracy_inherited"] == inherited["accuracy"]


def test_only_what_is_missing_is_verified(run: TinyRun, data: DataSplits, device: Device) -> None:
    flaky = FlakyBackend(device.backend)
    bench = make_bench(run, data=data, device=Device(spec=device.spec, backend=flaky))
    pricer = make_pricer(run)
    progress: list[tuple[int, int]] = []
    assert verify_all(bench, pricer=pricer, settings=SETTINGS, on_progress=lambda *p: progress.append(p)).num_new == 2
    assert progress[-1] == (2, 2)
    first = run.verifications()
    assert len(first) == 2
    runs = flaky.num_runs
    assert verify_all(bench, pricer=pricer, settings=SETTINGS, on_progress=ignore).num_new == 0
    assert flaky.num_runs == runs
    more = replace(SETTINGS, candidates=3)
    predictions = flaky.num_predictions
    assert verify_all(bench, pricer=pricer, settings=more, on_progress=ignore).num_new == 3
    # one more is evaluated, but all three are measured in the same rounds
    assert flaky.num_predictions - predictions == len(data.verify)
    rows = run.verifications().drop_duplicates("candidate_id", keep="last")
    assert len(rows) == 3
    sessions = run.measurements().set_index("measurement_id").loc[rows["measurement_id"], "session_id"]
    assert sessions.nunique() == 1
    assert set(rows["candidate_id"]) >= set(first["candidate_id"])


def test_a_kill_between_two_evaluations_repeats_neither_them_nor_the_measuring(
    run: TinyRun, data: DataSplits, device: Device
) -> None:
    flaky = FlakyBackend(device.backend)
    bench = make_bench(run, data=data, device=Device(spec=device.spec, backend=flaky))

    def kill_after_the_first(done: int, total: int) -> None:
        if (done, total) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_all(bench, pricer=make_pricer(run), settings=SETTINGS, on_progress=kill_after_the_first)
    assert len(run.verifications()) == 1
    measured = len(run.measurements())
    predictions = flaky.num_predictions
    assert verify_all(bench, pricer=make_pricer(run), settings=SETTINGS, on_progress=ignore).num_new == 1
    assert len(run.measurements()) == measured
    assert flaky.num_predictions - predictions == len(data.verify)
    assert run.verifications()["candidate_id"].is_unique


def test_a_device_that_fails_leaves_no_row_and_is_asked_again(run: TinyRun, data: DataSplits, device: Device) -> None:
    flaky = FlakyBackend(device.backend)
    bench = make_bench(run, data=data, device=Device(spec=device.spec, backend=flaky))
    # the power goes while latency is measured
    flaky.failing, flaky.fail_after_runs = {"run"}, 20
    with pytest.raises(RuntimeError, match="lost power"):
        verify_all(bench, pricer=make_pricer(run), settings=SETTINGS, on_progress=ignore)
    assert len(run.verifications()) == 0
    assert not len(run.measurements().query("purpose == 'verify'"))
    flaky.failing.clear()
    assert verify_all(bench, pricer=make_pricer(run), settings=SETTINGS, on_progress=ignore).num_new == 2
    assert run.front().provenance == "measured"


def test_points_of_a_dead_device_are_marked_as_unmeasured_and_measured_once_it_lives(
    run: TinyRun, data: DataSplits, device: Device
) -> None:
    dead = Device(spec=device.spec, backend=device.backend, host=DeadHost())
    found = verify_all(
        make_bench(run, data=data, device=dead), pricer=make_pricer(run), settings=SETTINGS, on_progress=ignore
    )
    assert found.num_new == 2
    assert "does not answer" in str(found.dead)
    rows = run.verifications()
    assert set(rows["provenance"]) == {"unmeasured"}
    assert rows["latency_ms"].isna().all()
    assert rows["accuracy"].between(0, 1).all()
    unmeasured = unmeasured_points(rows, device_id=DEVICE_ID)
    assert {point.candidate for point in unmeasured} == set(rows["candidate_id"])
    # as long as nothing is measured, the front is what was promised
    assert run.front().provenance == "predicted"
    assert verified_points(rows, device_id=DEVICE_ID) == []
    again = verify_all(
        make_bench(run, data=data, device=dead), pricer=make_pricer(run), settings=SETTINGS, on_progress=ignore
    )
    assert (again.num_new, len(run.verifications())) == (0, 2)
    flaky = FlakyBackend(device.backend)
    alive = make_bench(run, data=data, device=Device(spec=device.spec, backend=flaky))
    assert verify_all(alive, pricer=make_pricer(run), settings=SETTINGS, on_progress=ignore).num_new == 2
    # accuracies are known already
    assert flaky.num_predictions == 0
    assert run.front().provenance == "measured"
    assert unmeasured_points(run.verifications(), device_id=DEVICE_ID) == []


def test_a_device_that_dies_later_keeps_what_was_measured(run: TinyRun, data: DataSplits, device: Device) -> None:
    bench, pricer = make_bench(run, data=data, device=device), make_pricer(run)
    verify_all(bench, pricer=pricer, settings=SETTINGS, on_progress=ignore)
    before = run.front()
    dead = make_bench(run, data=data, device=Device(spec=device.spec, backend=device.backend, host=DeadHost()))
    more = replace(SETTINGS, candidates=3)
    assert verify_all(dead, pricer=pricer, settings=more, on_progress=ignore).num_new == 1
    assert len(unmeasured_points(run.verifications(), device_id=DEVICE_ID)) == 1
    assert run.front() == before
