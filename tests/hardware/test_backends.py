from importlib import metadata
from pathlib import Path

import pytest
import torch

from hardware import get_device
from hardware.backends.backend import DeviceBackend
from hardware.backends.onnxruntime_cpu import BACKEND
from hardware.errors import DeviceError, MeasurementError
from hardware.testing import INPUT_SHAPE, DeviceBackendContract, example_network
from tests.fakes.devices import FlakyBackend
from tests.hardware.cpu_cases import CpuBackendCases


class TestOnnxRuntimeCpu(CpuBackendCases):
    device_id = "onnxruntime-cpu"


class TestOnnxRuntimeCpuInt8(CpuBackendCases):
    device_id = "onnxruntime-cpu-int8"
    # 7 bits a weight, 8 bits an activation, five layers.
    tolerance = 0.1


class TestFlakyBackendThatIsWell(DeviceBackendContract):
    device_id = "onnxruntime-cpu"

    @pytest.fixture
    def backend(self) -> DeviceBackend:
        return FlakyBackend(BACKEND)


def test_a_flaky_backend_fails_where_it_is_told_and_recovers(tmp_path: Path) -> None:
    backend = FlakyBackend(BACKEND)
    spec = get_device("onnxruntime-cpu").spec
    example = torch.zeros(1, *INPUT_SHAPE)
    backend.failing = {"build", "load", "missing"}
    with pytest.raises(MeasurementError):
        backend.build(example_network(), example=example, path=tmp_path / "m.onnx")
    backend.failing.remove("build")
    artifact = backend.build(example_network(), example=example, path=tmp_path / "m.onnx")
    with pytest.raises(DeviceError):
        backend.load(artifact, spec=spec)
    assert backend.missing() == "it was unplugged"
    backend.failing = {"run"}
    backend.fail_after_runs = 2
    session = backend.load(artifact, spec=spec)
    session.run()
    session.run()
    with pytest.raises(RuntimeError, match="lost power"):
        session.run()
    backend.failing.clear()
    session.run()
    assert backend.num_runs == 4


def test_a_runtime_installed_under_another_name_tells_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return "1.99" if name == "onnxruntime-gpu" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    assert BACKEND.versions()["onnxruntime"] == "1.99"
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    assert BACKEND.versions()["onnxruntime"] == "unknown"
