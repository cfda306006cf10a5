"""Baselines in a verification, and beside a front."""

from dataclasses import replace
from pathlib import Path

from hardware.device import Device
from nas.baseline_points import baseline_points
from nas.baselines import adopted, read_baseline
from nas.data import DataSplits
from nas.verify import VerifySettings, choose_for_verification, verify_candidates
from tests.fakes.devices import FlakyBackend
from tests.nas.tiny_run import SEED, SPACE, TinyRun, copy_run, ignore, make_bench, make_pricer

SETTINGS = VerifySettings(candidates=2, protocol="quick", seed=SEED)
DEVICE_ID = "onnxruntime-cpu"


def test_a_baseline_is_measured_with_the_front_and_is_none_of_it(
    tmp_path: Path, refined: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(refined, tmp_path / "run")
    bench, pricer, evaluations = make_bench(run, data=data, device=device), make_pricer(run), run.evaluations()
    own_two = choose_for_verification(evaluations, space=SPACE, device_id=DEVICE_ID, num=2)
    source = bench.build(own_two[0], tmp_path / "own.onnx")
    baseline, artifact = read_baseline(source.path, name="mine", takes="raw", data=data, device=device, folder=tmp_path)
    run.baselines.save(baseline, artifact)
    (candidate,), left_out = adopted(run.baselines, data=data, device=device)
    assert left_out == []
    chosen = [*own_two, candidate]
    found = verify_candidates(
        bench, chosen, evaluations=evaluations, pricer=pricer, settings=SETTINGS, on_progress=ignore
    )
    assert found.num_new == 3
    again = verify_candidates(
        bench, chosen, evaluations=evaluations, pricer=pricer, settings=SETTINGS, on_progress=ignore
    )
    assert again.num_new == 0
    (row,) = run.baseline_rows().to_dict("records")
    own = run.verifications()
    assert set(own["candidate_id"]) == {one.candidate_id for one in own_two}
    assert own["macs"].dtype == own["params"].dtype == "int64"
    # the very network, under another name
    assert row["num_correct"] == own.set_index("candidate_id").loc[own_two[0].candidate_id, "num_correct"]
    sessions = run.measurements().set_index("measurement_id")["session_id"]
    assert sessions[row["measurement_id"]] == sessions[own["measurement_id"].iloc[0]]
    front = run.front()
    assert all(point.weights_kind != "baseline" for point in front.points)
    (point,) = baseline_points(run.baseline_rows(), device_id=DEVICE_ID, front=front.points)
    assert (point.name, point.provenance, point.macs) == (
        "mine",
        "measured",
        pricer.price([own_two[0].architecture])[0].macs,
    )
    better = replace(front.points[0], accuracy=1.0, latency_ms=0.0)
    (beaten,) = baseline_points(run.baseline_rows(), device_id=DEVICE_ID, front=[better])
    assert beaten.beaten_by == (better.candidate,)
    (open_,) = baseline_points(run.baseline_rows(), device_id=DEVICE_ID, front=[])
    assert open_.beaten_by is None


def test_devices_that_cannot_run_a_baseline_leave_it_out(
    tmp_path: Path, refined: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(refined, tmp_path / "run")
    bench = make_bench(run, data=data, device=device)
    source = bench.build(bench.inherit(SPACE.smallest), tmp_path / "own.onnx")
    run.baselines.save(*read_baseline(source.path, name=None, takes="raw", data=data, device=device, folder=tmp_path))
    larger = replace(device, spec=replace(device.spec, batch=4))
    assert adopted(run.baselines, data=data, device=larger)[0] == []
    (sentence,) = adopted(run.baselines, data=data, device=larger)[1]
    assert "baseline own is left out on onnxruntime-cpu: it takes float32 of shape (1, 1, 8, 8)" in sentence
    without = Device(spec=device.spec, backend=FlakyBackend(device.backend))
    (sentence,) = adopted(run.baselines, data=data, device=without)[1]
    assert "devices that take ONNX files" in sentence
