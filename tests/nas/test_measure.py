"""Measuring candidates: which network runs along as the reference, and what is kept."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import Count, Provenance, Session
from hardware.device import Device, DeviceSpec
from hardware.errors import MeasurementError
from nas.data import DataSplits
from nas.device_seconds import REFERENCE
from nas.measure import host_slowdown, measure_artifacts, measure_candidates
from tests.fakes.devices import FlakyBackend
from tests.nas.tiny_run import SPACE, TinyRun, make_bench


class CountingBackend(FlakyBackend):
    """Counts instead of timing, and has no room for the largest subnet."""

    room_bytes = 0

    @property
    def provenance(self) -> Provenance:
        return "simulated"

    def load(self, artifact: Artifact, *, spec: DeviceSpec) -> Any:
        if artifact.size_bytes > self.room_bytes:
            raise MeasurementError(f"{artifact.path} does not fit", hint="choose a smaller one")
        return CountingSession(self._inner.load(artifact, spec=spec), value=artifact.size_bytes)


class CountingSession:
    def __init__(self, inner: Session, *, value: float) -> None:
        self._inner, self._value = inner, value

    def set_input(self, x: NDArray[Any]) -> None:
        self._inner.set_input(x)

    def run(self) -> None:
        raise AssertionError("a device that counts is not timed")

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return self._inner.predict(x)

    def count(self) -> Count:
        return Count(quantity="instructions", unit="instructions", value=self._value)

    def close(self) -> None:
        self._inner.close()


def test_the_largest_subnet_runs_along_on_a_device_that_is_timed(
    run_copy: TinyRun, data: DataSplits, device: Device
) -> None:
    bench = make_bench(run_copy, data=data, device=device)
    smallest = bench.inherit(SPACE.smallest)
    found = measure_candidates(bench, {smallest: "verify"}, protocol="quick", seed=0)
    assert set(found) == {smallest.candidate_id, bench.inherit(SPACE.largest).candidate_id}
    rows = run_copy.measurements().set_index("arch_id")
    assert rows["purpose"].to_dict() == {SPACE.smallest.arch_id: "verify", SPACE.largest.arch_id: REFERENCE}


def test_a_device_that_counts_needs_no_room_for_the_largest_subnet(
    run_copy: TinyRun, data: DataSplits, device: Device
) -> None:
    backend = CountingBackend(device.backend)
    bench = make_bench(run_copy, data=data, device=Device(spec=device.spec, backend=backend))
    smallest, largest = bench.inherit(SPACE.smallest), bench.inherit(SPACE.largest)
    backend.room_bytes = bench.artifact(smallest).size_bytes
    found = measure_candidates(bench, {smallest: "verify"}, protocol="quick", seed=0)
    assert {name: one.p50 for name, one in found.items()} == {smallest.candidate_id: backend.room_bytes}
    assert run_copy.measurements()["purpose"].tolist() == ["verify"]
    measured = found[smallest.candidate_id]
    assert np.isnan(host_slowdown(bench, measured, earlier_id=measured.measurement_id))
    with pytest.raises(MeasurementError, match="does not fit"):
        measure_candidates(bench, {largest: "verify"}, protocol="quick", seed=0)


def test_nothing_to_measure_measures_nothing(run_copy: TinyRun, data: DataSplits, device: Device) -> None:
    flaky = FlakyBackend(device.backend)
    bench = make_bench(run_copy, data=data, device=Device(spec=device.spec, backend=flaky))
    assert not measure_artifacts(bench, {}, purposes={}, protocol="quick", seed=0)
    assert flaky.num_runs == 0
    assert not len(run_copy.measurements())
