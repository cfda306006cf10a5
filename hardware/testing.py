"""The contract of a device backend, as a test class: inherit it, name the device, and pytest does the rest.

class TestMyDevice(DeviceBackendContract):
    device_id = "my-device"
    tolerance = 0.1

A backend that makes no device of this machine gives the fixtures `backend` and `spec` itself.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import PROVENANCES, CountingSession, DeviceBackend
from hardware.device import DeviceSpec, get_device
from hardware.errors import DeviceError, MeasurementError, StorageError
from hardware.files import sha256_file

INPUT_SHAPE = (1, 12, 12)


def example_network() -> nn.Module:
    """Return a small network with the layers that matter: strided, depthwise, batch norm, pooling, linear."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    with torch.no_grad():
        network(torch.randn(32, *INPUT_SHAPE))
    return network.eval()


def calibration_inputs() -> torch.Tensor:
    """Inputs (64, ...) of the example network that int8 builds take the ranges from."""
    return torch.from_numpy(np.random.default_rng(1).standard_normal((64, *INPUT_SHAPE)).astype(np.float32))


class DeviceBackendContract:
    """What every device backend must do.

    Attributes:
        device_id: of the device under test, usable on this machine.
        tolerance: largest difference to torch, relative to the largest output; a device of low precision allows more.
    """

    device_id: str
    tolerance = 1e-4

    @pytest.fixture
    def backend(self) -> DeviceBackend:
        """The backend under test."""
        return get_device(self.device_id).backend

    @pytest.fixture
    def spec(self) -> DeviceSpec:
        """A device of this backend with batch 1."""
        return get_device(self.device_id).spec

    @pytest.fixture
    def artifact(self, backend: DeviceBackend, spec: DeviceSpec, tmp_path: Path) -> Artifact:
        """The example network, built."""
        return backend.build(
            example_network(),
            example=torch.zeros(spec.batch, *INPUT_SHAPE),
            path=tmp_path / f"network.{backend.artifact_format}",
            precision=spec.precision,
            calibration=calibration_inputs(),
        )

    @pytest.fixture
    def x(self, spec: DeviceSpec) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        """An input of the example network."""
        values = np.random.default_rng(0).standard_normal((spec.batch, *INPUT_SHAPE))
        return values.astype(np.float32)

    def test_the_backend_is_usable_and_tells_its_versions(self, backend: DeviceBackend) -> None:
        """Names, requirement and versions are there."""
        assert backend.missing() is None
        assert backend.name
        assert backend.requirement
        assert backend.precisions
        assert backend.versions()
        assert all(backend.versions().values())
        assert backend.provenance in PROVENANCES

    def test_an_artifact_describes_the_file_that_was_written(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact
    ) -> None:
        """Checksum, size, format and shapes are those of the file."""
        assert artifact.format == backend.artifact_format
        assert artifact.sha256 == sha256_file(artifact.path)
        assert artifact.size_bytes == artifact.path.stat().st_size
        assert artifact.input_shape == (1, *INPUT_SHAPE)
        assert artifact.input_dtype == "float32"
        assert artifact.output_shape == (1, 10)
        assert artifact.precision == spec.precision

    def test_predictions_agree_with_torch(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact, x: np.ndarray
    ) -> None:
        """The artifact computes what the module computes."""
        with torch.no_grad():
            expected = example_network()(torch.from_numpy(x)).numpy()
        session = backend.load(artifact, spec=spec)
        found = session.predict(x)
        session.close()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= self.tolerance * np.abs(expected).max()

    def test_running_leaves_the_prediction_as_it_is(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact, x: np.ndarray
    ) -> None:
        """Two predictions around timed runs on another input are the same, bit by bit."""
        session = backend.load(artifact, spec=spec)
        first = session.predict(x).copy()
        session.set_input(-x)
        session.run()
        session.run()
        assert np.array_equal(session.predict(x), first)
        assert not np.array_equal(session.predict(-x), first)
        session.close()
        session.close()

    def test_a_failed_build_leaves_the_old_file(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact
    ) -> None:
        """A module that cannot run on the example changes nothing on the disk."""
        with pytest.raises(MeasurementError) as caught:
            backend.build(
                nn.Linear(3, 2),
                example=torch.zeros(1, *INPUT_SHAPE),
                path=artifact.path,
                precision=spec.precision,
                calibration=calibration_inputs(),
            )
        assert caught.value.hint
        assert sha256_file(artifact.path) == artifact.sha256
        assert list(artifact.path.parent.iterdir()) == [artifact.path]

    def test_a_changed_file_is_refused(self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact) -> None:
        """A file of another content is not run."""
        artifact.path.write_bytes(artifact.path.read_bytes() + b"\0")
        with pytest.raises(StorageError, match=artifact.path.name) as caught:
            backend.load(artifact, spec=spec)
        assert caught.value.hint

    def test_a_missing_file_is_refused(self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact) -> None:
        """The message names the file."""
        artifact.path.unlink()
        with pytest.raises(StorageError, match=artifact.path.name):
            backend.load(artifact, spec=spec)

    def test_a_file_that_is_no_network_is_refused(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact
    ) -> None:
        """Even if its checksum is right."""
        artifact.path.write_bytes(b"no network at all")
        forged = dataclasses.replace(artifact, sha256=sha256_file(artifact.path))
        with pytest.raises(MeasurementError, match=artifact.path.name):
            backend.load(forged, spec=spec)

    def test_another_format_is_refused(self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact) -> None:
        """The message names both formats."""
        with pytest.raises(DeviceError, match=r"punched-cards") as caught:
            backend.load(dataclasses.replace(artifact, format="punched-cards"), spec=spec)
        assert backend.artifact_format in str(caught.value)

    def test_another_precision_is_refused(self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact) -> None:
        """A number of another precision would go by the wrong name."""
        with pytest.raises(DeviceError, match="fp1"):
            backend.load(artifact, spec=dataclasses.replace(spec, precision="fp1"))
        for other in backend.precisions:
            if other != spec.precision:
                with pytest.raises(DeviceError, match=other):
                    backend.load(artifact, spec=dataclasses.replace(spec, precision=other))

    def test_int8_without_calibration_is_refused(self, backend: DeviceBackend, tmp_path: Path) -> None:
        """Ranges of activations cannot be guessed."""
        for precision in backend.precisions:
            if precision == "int8":
                with pytest.raises(MeasurementError, match="calibration"):
                    backend.build(
                        example_network(),
                        example=torch.zeros(1, *INPUT_SHAPE),
                        path=tmp_path / "m",
                        precision=precision,
                    )
        assert not list(tmp_path.iterdir())

    def test_what_is_not_measured_is_counted_alike_every_time(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact
    ) -> None:
        """Simulated and estimated costs are exact, and never times."""
        if backend.provenance == "measured":
            return
        counts = []
        for _ in range(2):
            session: CountingSession = backend.load(artifact, spec=spec)  # type: ignore[assignment]
            counts.append(session.count())
            session.close()
        assert counts[0] == counts[1]
        assert counts[0].value > 0
        assert counts[0].unit not in ("s", "ms", "us", "ns")
        assert all(value >= 0 for value in counts[0].also.values())

    def test_another_batch_is_refused(self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact) -> None:
        """A device of batch 7 does not run a network of batch 1."""
        with pytest.raises(MeasurementError, match="batch 7"):
            backend.load(artifact, spec=dataclasses.replace(spec, batch=7))

    def test_an_input_that_does_not_fit_is_refused(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact, x: np.ndarray
    ) -> None:
        """Shape and element type are those of the artifact, nothing is converted silently."""
        session = backend.load(artifact, spec=spec)
        for wrong in (x[:, :, 1:], x[0], x.astype(np.float64)):
            with pytest.raises(MeasurementError) as caught:
                session.set_input(wrong)
            assert str(wrong.shape) in str(caught.value)
            with pytest.raises(MeasurementError):
                session.predict(wrong)
        session.close()
