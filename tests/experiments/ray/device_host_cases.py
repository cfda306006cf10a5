"""Devices on nodes of a Ray cluster of several nodes: found by resource, measured there, under the unit's lock."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from experiments.ray.device_host import RayDeviceHost, ray_connectors
from experiments.ray.environment import temporary_environment
from hardware.connections import check_device
from hardware.device import Device, get_device
from hardware.errors import DeviceError, MeasurementError, UnreachableError
from hardware.lease import UnitLock
from hardware.measuring import measure, measure_many
from hardware.protocol import MeasurementProtocol
from hardware.testing import INPUT_SHAPE, example_network

ROOT = Path(__file__).resolve().parents[3]
FAST = MeasurementProtocol(
    name="fast", max_rounds=12, runs_per_round=3, warmup_runs=1, interval_width=0.9, max_seconds=60.0
)
FLEET = """
devices:
  - {id: far, backend: onnxruntime-cpu, where: {ray: {resource: "device:far"}}, timeouts: {connect_s: 60, call_s: 60}}
  - {id: nowhere, backend: onnxruntime-cpu, where: {ray: {resource: "device:nowhere"}}}
"""


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks")


@pytest.fixture(scope="module")
def nodes(locks: Path) -> Iterator[Cluster]:
    """Two nodes on this machine, one of them a device host. Ray's own embedded instance must not be running."""
    if ray.is_initialized():
        pytest.skip("this process has an embedded Ray instance already")
    with temporary_environment({"PYTHONPATH": str(ROOT), "ARCHSMITH_LOCK_DIRECTORY": str(locks)}):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1, resources={"device:far": 1})
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(FLEET, encoding="utf-8")
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(path))
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path / "home"))


@pytest.fixture
def device() -> Device:
    return get_device("far", connectors=ray_connectors())


def test_without_a_connection_the_device_says_what_to_type(device: Device) -> None:
    if ray.is_initialized():
        pytest.skip("this process has an embedded Ray instance already")
    assert device.host is not None
    with pytest.raises(DeviceError, match="no connection") as caught:
        check_device("far", connectors=ray_connectors())
    assert "--address" in caught.value.hint


@pytest.mark.slow
def test_networks_are_measured_where_the_device_is(nodes: Cluster, device: Device) -> None:
    example = torch.zeros(1, *INPUT_SHAPE)
    found = measure(device, example_network(), protocol=FAST, example=example)
    assert found.device_id == "far"
    assert found.provenance == "measured"
    assert 0 < found.low <= found.p50 <= found.high
    assert found.lease_token >= 1
    assert len(found.raw_ms) == found.num_rounds >= 10
    assert all(item.ok for item in check_device("far", connectors=ray_connectors()))


@pytest.mark.slow
def test_the_driver_hears_of_progress_while_the_device_measures(nodes: Cluster, device: Device, tmp_path: Path) -> None:
    artifact = device.backend.build(
        example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=tmp_path / "network.onnx"
    )
    heard: list[tuple[int, int]] = []
    measure_many(
        device,
        {"network": artifact},
        reference=artifact,
        protocol=dataclasses.replace(FAST, max_rounds=1_000_000, min_seconds=4.0),
        rng=np.random.default_rng(0),
        on_progress=lambda done, total: heard.append((done, total)),
    )
    assert len(heard) >= 3
    # a suspect begins again, so not every number is larger than the one before
    assert all(0 < done <= total for done, total in heard)
    assert heard[0][0] < heard[0][1]
    assert heard[-1][0] == heard[-1][1]


@pytest.mark.slow
def test_the_job_waits_for_the_units_own_lock(nodes: Cluster, device: Device, locks: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    artifact = device.backend.build(example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=path)
    lock = UnitLock(device.spec.physical_unit(), directory=locks)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.computing(owner="training elsewhere"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    try:
        with pytest.raises(DeviceError, match="training elsewhere"):
            measure_many(
                device,
                {"network": artifact},
                reference=artifact,
                protocol=FAST,
                rng=np.random.default_rng(0),
                timeout_s=0.5,
            )
    finally:
        leave.set()
        thread.join()


@pytest.mark.slow
def test_refusals_come_back_as_what_they_are(nodes: Cluster, device: Device, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    artifact = device.backend.build(example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=path)
    other_batch = dataclasses.replace(device, spec=dataclasses.replace(device.spec, batch=4))
    with pytest.raises(MeasurementError, match="batch 1, the device is set to batch 4"):
        measure(other_batch, artifact, protocol=FAST)


@pytest.mark.slow
def test_a_device_that_no_node_has_is_told_with_those_that_there_are(nodes: Cluster) -> None:
    device = get_device("nowhere", connectors=ray_connectors())
    assert device.host is not None
    with pytest.raises(UnreachableError, match=r"'device:nowhere', there are \['device:far'\]") as caught:
        check_device("nowhere", connectors=ray_connectors())
    assert "ray start" in caught.value.hint


def test_a_host_is_made_without_any_connection() -> None:
    assert ray_connectors()["ray"] is RayDeviceHost
