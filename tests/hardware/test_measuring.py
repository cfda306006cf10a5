import dataclasses
import logging
import os
import threading
from collections.abc import Container
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware import get_device, measure, measure_many
from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.errors import DeviceError, MeasurementError, StorageError
from hardware.lease import UnitLock
from hardware.measurement import MEASUREMENT_SCHEMA
from hardware.protocol import MeasurementProtocol
from hardware.table import Table
from hardware.testing import INPUT_SHAPE, example_network
from tests.fakes.devices import FlakyBackend

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
    assert found.p50 == pytest.approx(float(np.median([np.median(runs) for runs in found.raw_ms])))
    assert found.versions["onnxruntime"]
    assert found.cpu_model
    assert found.lease_token == 1
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
    assert found["wide"].lease_token == found["small"].lease_token == 1
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
    flaky.failing, flaky.fail_after_runs = {"run"}, 30
    with pytest.raises(MeasurementError, match="'network' failed in round 8: the flaky device lost power"):
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


class SlowingSession:
    """A network that does more work in some runs: a machine that throttles, without waiting for one."""

    def __init__(self, *, slow_runs: Container[int]) -> None:
        self._slow_runs = slow_runs
        self._num_runs = 0

    def set_input(self, x: np.ndarray) -> None:
        pass

    def run(self) -> None:
        self._num_runs += 1
        sum(range(40_000 if self._num_runs in self._slow_runs else 4_000))

    def predict(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.mark.parametrize("always", [True, False])
def test_a_drifting_session_is_measured_again_and_marked_if_it_drifts_again(
    device: Device,
    artifacts: dict[str, Artifact],
    locks: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    always: bool,
) -> None:
    # Ten rounds of one warm-up and three runs are one session: its second half is runs 21 to 40.
    protocol = dataclasses.replace(FAST, min_rounds=10, max_rounds=10)
    slow = SlowingSession(slow_runs=[*range(21, 41), *range(61, 81)] if always else range(21, 81))
    monkeypatch.setattr(type(device.backend), "load", lambda *_, **__: slow)
    with caplog.at_level(logging.WARNING):
        found = measure(device, artifacts["small"], protocol=protocol, lock_directory=locks)
    assert "measuring once more" in caplog.text
    assert slow._num_runs == 80
    assert found.num_rounds == 10
    if always:
        assert found.suspect
        assert found.drift > 1
        assert "drifted" in found.suspect_reason
    else:
        # Slow all the time: no drift in the second session.
        assert abs(found.drift) < 1
