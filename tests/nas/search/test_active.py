"""Measuring while searching: on a real run and device, within a budget, and again after an end of any kind."""

from pathlib import Path

import pytest

from hardware.device import Device
from hardware.files import read_manifest
from nas.data import DataSplits
from nas.device_seconds import device_sessions, seconds_by_purpose
from nas.errors import RunError
from nas.profile import SEARCH, profiled_subnets, stored_num_measured
from nas.search.active import ActiveMeasuring, read_rounds
from tests.fakes.devices import DeadHost
from tests.nas.tiny_run import PROFILE, TinyRun, copy_run, ignore, make_bench

DEVICE_ID = "onnxruntime-cpu"


@pytest.fixture
def run(tmp_path: Path, searched: TinyRun) -> TinyRun:
    return copy_run(searched, tmp_path / "run")


def measuring(run: TinyRun, data: DataSplits, device: Device, *, device_seconds: float | None) -> ActiveMeasuring:
    return ActiveMeasuring(
        make_bench(run, data=data, device=device),
        device_seconds=device_seconds,
        settings=PROFILE,
        on_progress=ignore,
        on_message=ignore,
    )


def predictor_of(run: TinyRun) -> str:
    return str(read_manifest(run.predictor_dir(DEVICE_ID)).files)


def test_undecided_subnets_are_measured_and_the_predictor_learns_from_them(
    run: TinyRun, data: DataSplits, device: Device
) -> None:
    before, known = predictor_of(run), stored_num_measured(run, DEVICE_ID)
    active = measuring(run, data, device, device_seconds=60.0)
    assert not active.is_done(evaluations=12)
    done = active.measure(evaluations=12, share=1.0)
    rows = run.measurements()
    measured = rows[rows["purpose"] == SEARCH]
    assert done.ended == "settled"
    assert done.measured == len(measured) > 0
    assert set(measured["arch_id"]) <= set(run.evaluations()["arch_id"])
    assert predictor_of(run) != before
    assert stored_num_measured(run, DEVICE_ID) == known + done.measured
    sessions = device_sessions(rows, taken=run.sessions_table.read())
    assert done.device_seconds == pytest.approx(seconds_by_purpose(sessions)[SEARCH])
    # A unit is taken for longer than runs are timed.
    assert (sessions["seconds"] >= sessions["timed_seconds"]).all()
    again = measuring(run, data, device, device_seconds=60.0)
    assert again.is_done(evaluations=12)
    assert not again.is_done(evaluations=13)
    assert read_rounds(run) == (done,)


def test_a_budget_that_is_too_small_for_a_session_measures_nothing_until_it_grows(
    run: TinyRun, data: DataSplits, device: Device
) -> None:
    before = predictor_of(run)
    small = measuring(run, data, device, device_seconds=0.01)
    done = small.measure(evaluations=12, share=0.25)
    assert (done.measured, done.device_seconds, done.ended) == (0, 0.0, "budget")
    assert predictor_of(run) == before
    assert measuring(run, data, device, device_seconds=0.01).is_done(evaluations=12)
    assert not measuring(run, data, device, device_seconds=60.0).is_done(evaluations=12)


def test_without_a_budget_it_is_what_profiling_took(run: TinyRun, data: DataSplits, device: Device) -> None:
    taken_s = float(run.sessions_table.read()["seconds"].sum())
    assert measuring(run, data, device, device_seconds=None).budget_s == pytest.approx(taken_s)


def test_a_dead_device_is_told_of_and_asked_again(run: TinyRun, data: DataSplits, device: Device) -> None:
    dead = Device(spec=device.spec, backend=device.backend, host=DeadHost())
    heard: list[str] = []
    active = ActiveMeasuring(
        make_bench(run, data=data, device=dead),
        device_seconds=60.0,
        settings=PROFILE,
        on_progress=ignore,
        on_message=heard.append,
    )
    assert active.measure(evaluations=12, share=1.0).ended == "dead"
    assert any("does not answer" in text and "goes on with predicted latencies" in text for text in heard)
    assert not active.is_done(evaluations=12)


def test_what_a_killed_call_measured_is_fitted_by_the_next_one(
    run: TinyRun, data: DataSplits, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    active = measuring(run, data, device, device_seconds=60.0)
    with monkeypatch.context() as patched:
        patched.setattr("nas.near_front.fit_profile", kill)
        with pytest.raises(KeyboardInterrupt):
            active.measure(evaluations=12, share=1.0)
    measured = len(profiled_subnets(run, device_id=DEVICE_ID))
    assert measured > stored_num_measured(run, DEVICE_ID)
    # No budget is left, but what was paid for is used.
    done = measuring(run, data, device, device_seconds=0.01).measure(evaluations=12, share=1.0)
    assert done.measured == 0
    assert stored_num_measured(run, DEVICE_ID) == measured


def test_a_damaged_record_of_rounds_is_refused_with_what_to_do(run: TinyRun) -> None:
    (run.path / "active.json").write_text('{"rounds": [{"evaluations": 3}]}', encoding="utf-8")
    with pytest.raises(RunError, match="is damaged") as caught:
        read_rounds(run)
    assert "delete" in caught.value.hint
