import dataclasses
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hardware import get_device, measure, measure_many, measuring, onsite
from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import Count, Provenance
from hardware.device import Device, DeviceSpec
from hardware.errors import DeviceError, MeasurementError, StorageError
from hardware.lease import UnitLock
from hardware.measurement import MEASUREMENT_SCHEMA, CostMeasurement
from hardware.measuring import to_measurements
from hardware.onsite import MeasureJob, OnsiteResult, measure_onsite
from hardware.protocol import MeasurementProtocol
from hardware.table import Table
from hardware.testing import INPUT_SHAPE, example_network
from hardware.timing import InterleavedTimes, RunnerTimes
from tests.fakes.devices import FlakyBackend, FlakySession

# Wide enough that a busy test machine converges, so that no test waits for quiet.
FAST = MeasurementProtocol(
    name="fast", max_rounds=12, runs_per_round=3, warmup_runs=1, interval_width=0.9, max_seconds=60.0
)


def wide_network() -> nn.Module:
    """Some twenty times the work of the example network."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten(), nn.Linear(9216, 10)
    ).eval()


@pytest.fixture
def device() -> Device:
    return get_device("onnxruntime-cpu")


@pytest.fixture
def flaky(device: Device) -> FlakyBackend:
    return FlakyBackend(device.backend)


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def artifacts(device: Device, tmp_path: Path) -> dict[str, Artifact]:
    example = torch.zeros(1, *INPUT_SHAPE)
    networks = {"small": example_network(), "wide": wide_network()}
    return {
        name: device.backend.build(network, example=example, path=tmp_path / f"{name}.onnx")
        for name, network in networks.items()
    }


def test_a_real_module_is_measured_from_export_to_table(device: Device, locks: Path, tmp_path: Path) -> None:
    example = torch.zeros(1, *INPUT_SHAPE)
    found = measure(device, example_network(), protocol="quick", example=example, lock_directory=locks)
    assert 0 < found.low <= found.p50 <= found.high
    assert found.p50 <= found.p90 <= found.p99
    assert (found.device_id, found.provenance, found.unit) == ("onnxruntime-cpu", "measured", "ms")
    assert (found.protocol, found.threads, found.batch, found.precision) == ("quick", 1, 1, "fp32")
    assert len(found.raw_ms) == found.num_rounds >= 10
    assert {len(runs) for runs in found.raw_ms} == {found.runs_per_round} == {20}
    medians = np.array([np.median(runs) for runs in found.raw_ms])
    if found.corrected:
        medians = medians / np.array(found.slowdown)
    if not found.num_outliers:
        assert found.p50 == pytest.approx(float(np.median(medians)))
    assert found.versions["onnxruntime"]
    assert found.cpu_model
    assert found.lease_token >= 1
    table = Table(tmp_path / "measurements", schema=MEASUREMENT_SCHEMA)
    keys = {"arch_id": "a", "candidate_id": "c", "architecture": "{}", "purpose": "test"}
    table.append([{**keys, **found.to_row()}])
    assert table.read()["p50"][0] == found.p50


def test_networks_measured_together_keep_their_order(
    device: Device, artifacts: dict[str, Artifact], locks: Path
) -> None:
    progress: list[tuple[int, int]] = []
    found = measure_many(
        device,
        artifacts,
        reference=artifacts["small"],
        protocol=FAST,
        rng=np.random.default_rng(0),
        on_progress=lambda done, total: progress.append((done, total)),
        lock_directory=locks,
    )
    assert list(found) == ["small", "wide"]
    # Twenty times the work: no noise turns this round.
    assert found["wide"].p50 > found["small"].p50
    assert found["wide"].artifact_sha256 == artifacts["wide"].sha256
    assert found["wide"].lease_token == found["small"].lease_token
    assert found["wide"].measurement_id != found["small"].measurement_id
    assert progress[0] == (1, 12)
    assert progress[-1][0] == progress[-1][1] >= 10


def test_the_reference_need_not_be_among_the_networks_even_if_its_name_is_taken(
    device: Device, artifacts: dict[str, Artifact], locks: Path
) -> None:
    found = measure_many(
        device,
        {"reference": artifacts["wide"]},
        reference=artifacts["small"],
        protocol=FAST,
        rng=np.random.default_rng(0),
        lock_directory=locks,
    )
    assert list(found) == ["reference"]
    assert found["reference"].artifact_sha256 == artifacts["wide"].sha256


def test_nothing_to_measure_takes_no_lease(device: Device, artifacts: dict[str, Artifact], locks: Path) -> None:
    rng = np.random.default_rng(0)
    assert measure_many(device, {}, reference=artifacts["small"], rng=rng, lock_directory=locks) == {}
    assert not locks.exists()


def test_a_module_without_example_is_refused(device: Device, locks: Path) -> None:
    with pytest.raises(MeasurementError, match="Sequential needs an example") as caught:
        measure(device, example_network(), lock_directory=locks)
    assert "example=" in caught.value.hint


def test_an_example_of_another_batch_than_the_device_is_refused(device: Device, locks: Path) -> None:
    with pytest.raises(MeasurementError, match="batch 3, the device is set to batch 1"):
        measure(device, example_network(), example=torch.zeros(3, *INPUT_SHAPE), lock_directory=locks)


def test_an_unknown_protocol_is_refused_before_anything_runs(
    device: Device, artifacts: dict[str, Artifact], locks: Path
) -> None:
    with pytest.raises(MeasurementError, match="sloppy"):
        measure(device, artifacts["small"], protocol="sloppy", lock_directory=locks)
    assert not locks.exists()


def test_a_changed_artifact_is_named_and_the_unit_is_free_again(
    device: Device, artifacts: dict[str, Artifact], locks: Path
) -> None:
    artifacts["wide"].path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"wide\.onnx"):
        measure(device, artifacts["wide"], protocol=FAST, lock_directory=locks)
    assert measure(device, artifacts["small"], protocol=FAST, lock_directory=locks, timeout_s=0).p50 > 0


def test_a_device_that_fails_in_the_middle_names_the_network_and_works_again_later(
    device: Device, flaky: FlakyBackend, artifacts: dict[str, Artifact], locks: Path
) -> None:
    device = dataclasses.replace(device, backend=flaky)
    flaky.failing, flaky.fail_after_runs = {"run"}, 100
    with pytest.raises(MeasurementError, match=r"'(network|reference)' failed .*: the flaky device lost power"):
        measure(device, artifacts["small"], protocol=FAST, lock_directory=locks)
    flaky.failing.clear()
    assert measure(device, artifacts["small"], protocol=FAST, lock_directory=locks, timeout_s=0).p50 > 0


def test_measuring_waits_for_those_who_compute_and_names_them(
    device: Device, artifacts: dict[str, Artifact], locks: Path
) -> None:
    lock = UnitLock(device.spec.physical_unit(), directory=locks)
    errors: list[DeviceError] = []

    def attempt() -> None:
        try:
            measure(device, artifacts["small"], protocol=FAST, lock_directory=locks, timeout_s=0)
        except DeviceError as e:
            errors.append(e)

    with lock.computing(owner="training"):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert f"training (pid {os.getpid()})" in str(errors[0])


def test_measuring_inside_computing_is_told_instead_of_hanging(
    device: Device, artifacts: dict[str, Artifact], locks: Path
) -> None:
    lock = UnitLock(device.spec.physical_unit(), directory=locks)
    with lock.computing(owner="training"), pytest.raises(DeviceError, match="wait for itself"):
        measure(device, artifacts["small"], protocol=FAST, lock_directory=locks)


def test_numbers_of_a_lost_lease_are_not_returned(device: Device, artifacts: dict[str, Artifact], locks: Path) -> None:
    def lose_it(done: int, total: int) -> None:
        if done == 5:
            for path in locks.iterdir():
                path.unlink()

    with pytest.raises(DeviceError, match="taken over"):
        measure_many(
            device,
            artifacts,
            reference=artifacts["small"],
            protocol=FAST,
            rng=np.random.default_rng(0),
            on_progress=lose_it,
            lock_directory=locks,
        )


def times_of(reference: str, *, late_slowdown: float) -> InterleavedTimes:
    """A session of twenty rounds of a network that takes 1 ms, on a host that is slower in the last quarter."""
    speed_R = np.where(np.arange(20) < 15, 1.0, late_slowdown)
    raw_ns = np.repeat((1e6 * speed_R)[:, None], 3, axis=1).astype(np.int64)
    times = RunnerTimes(raw_ns=raw_ns, slowdown=speed_R, warmup_runs=10, involuntary_switches=0)
    return InterleavedTimes(times={"network": times, reference: times}, reference=reference, probes_ns=1e6 * speed_R)


@pytest.mark.parametrize("slow_sessions", [1, 2])
def test_what_fails_its_checks_is_measured_again_and_marked_if_it_fails_again(
    device: Device,
    artifacts: dict[str, Artifact],
    locks: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    slow_sessions: int,
) -> None:
    num_sessions = 0

    def session(runners: object, *, reference: str, **_: object) -> InterleavedTimes:
        nonlocal num_sessions
        num_sessions += 1
        return times_of(reference, late_slowdown=10.0 if num_sessions <= slow_sessions else 1.0)

    monkeypatch.setattr(onsite, "time_interleaved", session)
    with caplog.at_level(logging.WARNING):
        found = measure(device, artifacts["small"], protocol=FAST, lock_directory=locks)
    assert "measuring once more" in caplog.text
    assert num_sessions == 2
    assert found.lease_token == 2
    assert found.suspect == (slow_sessions == 2)
    assert bool(found.suspect_reason) == found.suspect
    assert found.p50 == 1.0
    if found.suspect:
        assert found.drift > 0.5


def test_only_suspects_are_measured_again_where_networks_need_not_stay_together(
    device: Device, artifacts: dict[str, Artifact], locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[MeasureJob] = []
    references_ms: list[float | None] = []
    real = measuring.to_measurements

    def doubtful(
        found: OnsiteResult, *, job: MeasureJob, rng: np.random.Generator, reference_ms: float | None
    ) -> dict[str, CostMeasurement]:
        jobs.append(job)
        records = real(found, job=job, rng=rng, reference_ms=reference_ms)
        references_ms.append(records["wide"].comparable_reference_ms)
        return {
            name: dataclasses.replace(record, suspect=name == "wide" and len(jobs) == 1)
            for name, record in records.items()
        }

    monkeypatch.setattr(measuring, "to_measurements", doubtful)
    found = measure_many(
        device,
        artifacts,
        reference=artifacts["small"],
        protocol=FAST,
        rng=np.random.default_rng(0),
        together=False,
        lock_directory=locks,
    )
    assert [list(job.artifacts) for job in jobs] == [["small", "wide"], ["wide"]]
    assert found["small"].session_id != found["wide"].session_id
    # both at the host's speed in the first session
    assert references_ms[1] == pytest.approx(references_ms[0])
    assert found["wide"].comparable_reference_ms == references_ms[1]


def test_a_record_says_what_else_the_host_did(device: Device, artifacts: dict[str, Artifact], locks: Path) -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        # Long enough for the system's clock ticks of 10 ms.
        protocol = dataclasses.replace(FAST, max_rounds=150, interval_width=1e-6)
        found = measure(device, artifacts["wide"], protocol=protocol, lock_directory=locks)
    finally:
        burner.kill()
        burner.wait()
    assert found.foreign_cores is not None
    assert found.foreign_cores > 0.3
    assert found.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert found.unit_name == device.spec.physical_unit()
    assert found.stolen >= 0
    assert found.waited_s < 60


@pytest.mark.parametrize(
    ("foreign_cores", "threads", "suspect"),
    [(1.0, 1, False), (1.4, 1, False), (1.6, 1, True), (0.1, 2, False), (1.0, 2, True), (None, 2, False)],
)
def test_a_network_that_had_to_share_its_cores_is_suspect(
    device: Device,
    artifacts: dict[str, Artifact],
    locks: Path,
    foreign_cores: float | None,
    threads: int,
    suspect: bool,
) -> None:
    spec = dataclasses.replace(device.spec, threads=threads)
    job = MeasureJob(
        spec=device.spec, artifacts=artifacts, reference=artifacts["wide"], protocol=FAST, seed=0, owner="test"
    )
    found = measure_onsite(device.backend, job, lock_directory=locks)
    host = dataclasses.replace(found.host, num_cores=2)
    busy = dataclasses.replace(found, foreign_cores=foreign_cores, host=host)
    records = to_measurements(busy, job=dataclasses.replace(job, spec=spec), rng=np.random.default_rng(0))
    for record in records.values():
        assert ("other processes used" in record.suspect_reason) == suspect
        assert record.suspect or not suspect


def test_a_network_that_is_measured_alone_has_another_one_as_its_reference(
    device: Device, artifacts: dict[str, Artifact], locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[MeasureJob] = []

    def watched(backend: FlakyBackend, job: MeasureJob, **rest: Any) -> OnsiteResult:
        jobs.append(job)
        return measure_onsite(backend, job, **rest)

    monkeypatch.setattr(measuring, "measure_onsite", watched)
    for _ in range(2):
        measure(device, artifacts["small"], protocol=FAST, lock_directory=locks)
    references = [job.reference.sha256 for job in jobs]
    assert artifacts["small"].sha256 not in references
    assert len(set(references)) == 1


class CountingBackend(FlakyBackend):
    """A backend that claims to estimate: its sessions count."""

    @property
    def provenance(self) -> Provenance:
        return "estimated"

    def load(self, artifact: Artifact, *, spec: DeviceSpec) -> "CountedSession":
        return CountedSession(self._inner.load(artifact, spec=spec), backend=self)


class CountedSession(FlakySession):
    def count(self) -> Count:
        return Count(quantity="cycles", unit="cycles", value=1234.0, also={"sram_bytes": 5.0})


def test_a_device_that_estimates_gives_exact_counts_of_the_network_and_no_times(
    device: Device, artifacts: dict[str, Artifact], locks: Path
) -> None:
    device = dataclasses.replace(device, backend=CountingBackend(device.backend))
    found = measure(device, artifacts["small"], protocol=FAST, lock_directory=locks)
    assert (found.provenance, found.quantity, found.unit) == ("estimated", "cycles", "cycles")
    assert (found.low, found.p50, found.high) == (1234.0, 1234.0, 1234.0)
    assert found.also == {"sram_bytes": 5.0}
    assert found.raw_ms == ()
    assert not found.suspect
    assert CostMeasurement.from_row(found.to_row()) == found


def test_a_session_can_be_brought_to_the_speed_that_the_host_had_in_another(
    device: Device, artifacts: dict[str, Artifact], locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_slower = 1.0

    def session(runners: object, *, reference: str, **_: object) -> InterleavedTimes:
        found = times_of(reference, late_slowdown=1.0)
        times = dataclasses.replace(
            found.times[reference], raw_ns=(found.times[reference].raw_ns * now_slower).astype(np.int64)
        )
        return dataclasses.replace(found, times={reference: times}, probes_ns=found.probes_ns * now_slower)

    monkeypatch.setattr(onsite, "time_interleaved", session)

    def measured(reference_ms: float | None) -> CostMeasurement:
        return measure_many(
            device,
            {"small": artifacts["small"]},
            reference=artifacts["small"],
            protocol=FAST,
            rng=np.random.default_rng(0),
            lock_directory=locks,
            reference_ms=reference_ms,
        )["small"]

    first = measured(None)
    assert (first.p50, first.reference_ms, first.host_slowdown, first.corrected) == (1.0, 1.0, 1.0, False)
    now_slower = 1.25
    assert measured(None).p50 == 1.25
    again = measured(first.comparable_reference_ms)
    assert (again.p50, again.reference_ms, again.host_slowdown, again.corrected) == (1.0, 1.25, 1.25, True)
    assert again.raw_ms[0][0] == 1.25
    # a third session may be compared with either
    assert again.comparable_reference_ms == first.comparable_reference_ms
    assert not again.suspect
    now_slower = 1.75
    far = measured(first.comparable_reference_ms)
    assert far.suspect
    assert "1.75 times the times" in far.suspect_reason
