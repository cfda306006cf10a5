import dataclasses
import json
import logging
import multiprocessing
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hardware.artifacts.artifact import Artifact
from hardware.device import DeviceSpec
from hardware.errors import (
    DeviceError,
    HangingError,
    MeasurementError,
    StorageError,
    UnreachableError,
    UntrustedError,
)
from hardware.health import GuardedHost, Health, HealthBook, RetryPolicy, state_directory
from hardware.host import look_at_host
from hardware.onsite import MeasureJob, OnProgress, OnsiteResult
from hardware.protocol import get_protocol
from hardware.selftest import CheckItem

SPEC = DeviceSpec(device_id="pi", backend="onnxruntime-cpu")
ARTIFACT = Artifact(
    path=Path("a"), format="onnx", sha256="0" * 64, size_bytes=1, input_shape=(1,), input_dtype="f4", output_shape=(1,)
)
JOB = MeasureJob(
    spec=SPEC, artifacts={"a": ARTIFACT}, reference=ARTIFACT, protocol=get_protocol("quick"), seed=0, owner="test"
)
RESULT = OnsiteResult(
    provenance="measured",
    versions={},
    unit_name="host:x",
    host=look_at_host(),
    foreign_cores=None,
    stolen=0.0,
    waited_s=0.0,
    lease_token=1,
)


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic_s(self) -> float:
        return sum(self.slept)

    def now_utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=sum(self.slept))

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class FlakyHost:
    """A host that raises what it is told to, one error a call, and works when nothing is left."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.num_calls = 0
        self.well = True

    def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
        self.num_calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return RESULT

    def check(self, spec: DeviceSpec) -> tuple[CheckItem, ...]:
        if self.errors:
            raise self.errors.pop(0)
        return (CheckItem(name="clock", ok=True, detail=""), CheckItem(name="runtime", ok=self.well, detail=""))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def book(tmp_path: Path, clock: FakeClock) -> HealthBook:
    return HealthBook(tmp_path / "health", clock=clock)


def guard(host: FlakyHost, *, book: HealthBook, clock: FakeClock) -> GuardedHost:
    return GuardedHost(host, device_id="pi", book=book, clock=clock)


def unreachable() -> UnreachableError:
    return UnreachableError("no route to pi", hint="switch it on")


def test_an_unreachable_device_is_tried_again_with_growing_pauses_and_then_works(
    book: HealthBook, clock: FakeClock
) -> None:
    host = FlakyHost(unreachable(), unreachable())
    assert guard(host, book=book, clock=clock).measure(JOB) is RESULT
    assert clock.slept == [1.0, 4.0]
    assert host.num_calls == 3
    assert book.health("pi") == Health()


def test_attempts_are_bounded_and_the_last_error_is_raised(book: HealthBook, clock: FakeClock) -> None:
    host = FlakyHost(*(unreachable() for _ in range(9)))
    with pytest.raises(UnreachableError, match="no route"):
        guard(host, book=book, clock=clock).measure(JOB)
    assert host.num_calls == 3
    assert book.health("pi").failures == 1
    assert not book.health("pi").quarantined


def test_pauses_do_not_grow_for_ever() -> None:
    policy = RetryPolicy()
    assert [policy.pause_s(attempt) for attempt in range(1, 6)] == [1.0, 4.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize("kind", [DeviceError, MeasurementError, StorageError])
def test_refusals_are_neither_tried_again_nor_counted(
    book: HealthBook, clock: FakeClock, kind: type[DeviceError]
) -> None:
    host = FlakyHost(kind("the unit is in use", hint="wait"))
    with pytest.raises(kind):
        guard(host, book=book, clock=clock).measure(JOB)
    assert host.num_calls == 1
    assert clock.slept == []
    assert book.health("pi") == Health()


def test_a_device_that_hangs_is_counted_but_not_tried_again(book: HealthBook, clock: FakeClock) -> None:
    host = FlakyHost(HangingError("silence", hint="check it"))
    with pytest.raises(HangingError):
        guard(host, book=book, clock=clock).measure(JOB)
    assert host.num_calls == 1
    assert book.health("pi").failures == 1


def test_three_failures_in_a_row_lead_to_quarantine_and_the_device_is_not_asked_any_more(
    book: HealthBook, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    host = FlakyHost(*(HangingError(f"silence {number}", hint="check it") for number in range(3)))
    guarded = guard(host, book=book, clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(HangingError):
                guarded.measure(JOB)
    assert "pi goes into quarantine: silence 2" in caplog.text
    with pytest.raises(DeviceError, match=r"'pi' is in quarantine since 2026-.* after 3 .*silence 2") as caught:
        guarded.measure(JOB)
    assert caught.value.hint == "repair it, then re-admit it: nas devices check pi"
    assert host.num_calls == 3


def test_a_success_in_between_starts_the_count_anew(book: HealthBook, clock: FakeClock) -> None:
    guarded = guard(host := FlakyHost(), book=book, clock=clock)
    for _ in range(4):
        host.errors = [HangingError("silence", hint="check it")]
        with pytest.raises(HangingError):
            guarded.measure(JOB)
        assert guarded.measure(JOB) is RESULT
    assert book.health("pi").failures == 0


def test_a_device_that_lies_goes_into_quarantine_at_once(book: HealthBook, clock: FakeClock) -> None:
    guarded = guard(FlakyHost(UntrustedError("negative times", hint="look at it")), book=book, clock=clock)
    with pytest.raises(UntrustedError):
        guarded.measure(JOB)
    with pytest.raises(DeviceError, match="quarantine"):
        guarded.measure(JOB)


def test_a_check_that_goes_well_readmits(book: HealthBook, clock: FakeClock) -> None:
    guarded = guard(host := FlakyHost(UntrustedError("negative times", hint="")), book=book, clock=clock)
    with pytest.raises(UntrustedError):
        guarded.measure(JOB)
    host.well = False
    assert [item.ok for item in guarded.check(SPEC)] == [True, False]
    assert book.health("pi").quarantined
    host.errors = [unreachable()]
    with pytest.raises(UnreachableError):
        guarded.check(SPEC)
    assert book.health("pi").quarantined
    host.well = True
    assert all(item.ok for item in guarded.check(SPEC))
    assert book.health("pi") == Health()
    assert guarded.measure(JOB) is RESULT


def test_other_devices_are_not_touched(book: HealthBook) -> None:
    book.record_failure("pi", error=UntrustedError("lies", hint=""), max_failures=3)
    book.require_admitted("other")
    assert book.health("other") == Health()


def test_a_success_does_not_end_a_quarantine(book: HealthBook) -> None:
    book.record_failure("pi", error=UntrustedError("lies", hint=""), max_failures=3)
    book.record_success("pi")
    assert book.health("pi").quarantined


def test_another_process_knows_it_too_and_files_are_written_only_for_those_who_fail(tmp_path: Path) -> None:
    first, second = HealthBook(tmp_path / "health"), HealthBook(tmp_path / "health")
    first.record_success("pi")
    assert not (tmp_path / "health").exists()
    first.record_failure("pi", error=UntrustedError("lies", hint=""), max_failures=3)
    assert second.health("pi") == first.health("pi")
    assert second.health("pi").reason == "lies"
    assert json.loads((tmp_path / "health" / "pi.json").read_text())["quarantined"] is True


def count_failures(directory: Path) -> None:
    for _ in range(20):
        HealthBook(directory).record_failure("pi", error=HangingError("silence", hint=""), max_failures=1000)


def test_two_processes_that_count_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_failures, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert HealthBook(tmp_path).health("pi").failures == 40


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"schema": 1}', '{"schema": 2, "failures": 0}'])
def test_a_damaged_file_is_refused_and_a_check_writes_it_anew(
    tmp_path: Path, book: HealthBook, clock: FakeClock, text: str
) -> None:
    book.record_failure("pi", error=UntrustedError("lies", hint=""), max_failures=3)
    (tmp_path / "health" / "pi.json").write_text(text)
    guarded = guard(FlakyHost(), book=book, clock=clock)
    with pytest.raises(StorageError, match=r"pi\.json is damaged"):
        guarded.measure(JOB)
    assert all(item.ok for item in guarded.check(SPEC))
    assert guarded.measure(JOB) is RESULT


def test_a_home_that_cannot_be_written_does_not_hide_the_failure(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    guarded = guard(
        FlakyHost(HangingError("silence", hint="check it")), book=HealthBook(tmp_path / "file" / "x"), clock=clock
    )
    with pytest.raises(HangingError, match="silence"):
        guarded.measure(JOB)
    assert "could not be recorded" in caplog.text


def test_the_state_lies_in_the_users_home_or_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path))
    assert state_directory() == tmp_path
    monkeypatch.delenv("ARCHSMITH_HOME")
    assert state_directory() == Path(os.path.expanduser("~")) / ".archsmith"  # noqa: PTH111 - another way than ours


def test_progress_is_passed_on(book: HealthBook, clock: FakeClock) -> None:
    class Reporting(FlakyHost):
        def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
            assert on_progress is not None
            on_progress(1, 1)
            return dataclasses.replace(RESULT, lease_token=7)

    seen: list[tuple[int, int]] = []
    found = guard(Reporting(), book=book, clock=clock).measure(JOB, on_progress=lambda *counts: seen.append(counts))
    assert found.lease_token == 7
    assert seen == [(1, 1)]
