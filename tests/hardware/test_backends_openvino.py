import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.artifacts.openvino import open_openvino, read_openvino, switch_off_telemetry
from hardware.backends.backend import DeviceBackend
from hardware.backends.openvino_cpu import BACKEND, compile_openvino
from hardware.device import DeviceSpec
from hardware.errors import MeasurementError, StorageError
from hardware.testing import INPUT_SHAPE, DeviceBackendContract, calibration_inputs, example_network
from tests.hardware.networks import elaborate_network, outputs, raw_images, real_subnet, relative_difference

pytestmark = pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing()))
EXAMPLE = torch.zeros(1, *INPUT_SHAPE)


class TestOpenVinoCpu(DeviceBackendContract):
    @pytest.fixture
    def backend(self) -> DeviceBackend:
        return BACKEND

    @pytest.fixture
    def spec(self) -> DeviceSpec:
        return get_device("openvino-cpu").spec


class TestOpenVinoCpuInt8(DeviceBackendContract):
    # 7 bits a weight, 8 bits an activation, five layers.
    tolerance = 0.1

    @pytest.fixture
    def backend(self) -> DeviceBackend:
        return BACKEND

    @pytest.fixture
    def spec(self) -> DeviceSpec:
        return get_device("openvino-cpu-int8").spec


def build(network: nn.Module, path: Path, *, example: torch.Tensor = EXAMPLE, precision: str = "fp32") -> Artifact:
    calibration = raw_images(64, seed=1) if example.shape[-1] == 28 else calibration_inputs()
    return BACKEND.build(network, example=example, path=path, precision=precision, calibration=calibration)


def predictions(artifact: Artifact, images: torch.Tensor) -> np.ndarray:
    spec = dataclasses.replace(get_device("openvino-cpu").spec, precision=artifact.precision)
    session = BACKEND.load(artifact, spec=spec)
    return np.concatenate([session.predict(image[None].numpy()) for image in images])


@pytest.mark.parametrize("precision", BACKEND.precisions)
def test_two_threads_compute_the_same_as_one(precision: str, tmp_path: Path) -> None:
    artifact = build(example_network(), tmp_path / "m", precision=precision)
    x = np.ones((1, *INPUT_SHAPE), dtype=np.float32)
    spec = dataclasses.replace(get_device("openvino-cpu").spec, precision=precision)
    one = BACKEND.load(artifact, spec=spec).predict(x)
    two = BACKEND.load(artifact, spec=dataclasses.replace(spec, threads=2)).predict(x)
    assert np.allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_plugin_is_set_to_fp32_one_stream_and_the_threads_of_the_device(threads: int, tmp_path: Path) -> None:
    artifact = build(example_network(), tmp_path / "m")
    spec = dataclasses.replace(get_device("openvino-cpu").spec, threads=threads)
    network = compile_openvino(
        read_openvino(artifact.read_checked(), path=artifact.path), spec=spec, path=artifact.path
    )
    assert network.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert network.get_property("INFERENCE_NUM_THREADS") == threads
    assert network.get_property("NUM_STREAMS") == 1
    assert str(network.get_property("PERFORMANCE_HINT")).endswith("LATENCY")


@pytest.mark.parametrize("make", [elaborate_network, real_subnet])
def test_a_network_with_everything_in_it_computes_what_torch_computes(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    network, images = make(), raw_images(20)
    artifact = build(network, tmp_path / "m", example=images[:1])
    assert relative_difference(predictions(artifact, images), outputs(network, images)) < 1e-4


@pytest.mark.parametrize("make", [elaborate_network, real_subnet])
def test_a_network_with_everything_in_it_is_close_in_int8(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    network, images = make(), raw_images(20)
    artifact = build(network, tmp_path / "m", example=images[:1], precision="int8")
    difference = relative_difference(predictions(artifact, images), outputs(network, images))
    # Not too close either: the file would be in fp32.
    assert 1e-3 < difference < 0.15


def test_the_archive_holds_a_network_as_openvino_writes_it(tmp_path: Path) -> None:
    artifact = build(example_network(), tmp_path / "m")
    with zipfile.ZipFile(artifact.path) as archive:
        assert archive.namelist() == ["model.xml", "model.bin"]
        archive.extractall(tmp_path / "unpacked")
    switch_off_telemetry()
    import openvino

    network = openvino.Core().compile_model(tmp_path / "unpacked" / "model.xml", "CPU")
    x = np.random.default_rng(0).standard_normal((1, *INPUT_SHAPE)).astype(np.float32)
    expected = outputs(example_network(), torch.from_numpy(x))
    assert relative_difference(network([x])[0], expected) < 1e-2
    weights = {node.get_element_type().get_type_name() for node in network.get_runtime_model().get_ops()}
    assert "f16" not in weights


@pytest.mark.parametrize("precision", BACKEND.precisions)
def test_the_same_network_is_the_same_file(precision: str, tmp_path: Path) -> None:
    first, second = (build(example_network(), tmp_path / name, precision=precision) for name in "ab")
    assert first.sha256 == second.sha256
    assert open_openvino(first.path) == first


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    class Transforming(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = torch.linalg.svdvals(x)
            return values

    with pytest.raises(MeasurementError, match="svdvals") as caught:
        build(Transforming(), tmp_path / "m")
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "letters.zip", "w") as archive:
        archive.writestr("a.txt", "no network")
    with pytest.raises(MeasurementError, match=r"letters\.zip"):
        open_openvino(tmp_path / "letters.zip")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model.xml", "<net")
        archive.writestr("model.bin", b"")
    with pytest.raises(MeasurementError, match="some file"):
        read_openvino(packed.getvalue(), path=Path("some file"))
    with pytest.raises(StorageError, match="nothing"):
        open_openvino(tmp_path / "nothing")


def test_quantising_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(example_network(), tmp_path / "m", precision="int8")
    assert capfd.readouterr().out == ""


# A process of its own: NNCF sends nothing where pytest is loaded, so here it must not be.
PROBE = """
import json, sys
from pathlib import Path
touched = []
sys.addaudithook(lambda name, args: touched.append(name) if name.startswith(("socket.", "urllib.")) else None)
from hardware import get_device
from hardware.testing import INPUT_SHAPE, calibration_inputs, example_network
sys.modules.pop("pytest", None)
import torch
device = get_device("openvino-cpu-int8")
artifact = device.backend.build(
    example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=Path(sys.argv[1]), precision="int8",
    calibration=calibration_inputs(),
)
device.backend.load(artifact, spec=device.spec).run()
senders = [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name] is not None]
print(json.dumps([sorted(set(touched)), senders]))
"""


def test_nothing_is_sent_anywhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # What would forbid sending is taken away, so that only the backend itself can.
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "m")], env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    touched, senders = json.loads(done.stdout.splitlines()[-1])
    assert senders == []
    assert not [name for name in touched if name not in ("socket.__new__", "socket.gethostname")]
    assert not (home / "intel").exists()
