import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hardware import get_device
from hardware.artifacts.openvino import open_openvino, read_openvino, switch_off_telemetry
from hardware.backends.openvino_cpu import BACKEND, compile_openvino
from hardware.errors import MeasurementError, StorageError
from hardware.testing import INPUT_SHAPE, example_network
from tests.hardware.cpu_cases import CpuBackendCases, build
from tests.hardware.networks import outputs, relative_difference

pytestmark = pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing()))


class TestOpenVinoCpu(CpuBackendCases):
    device_id = "openvino-cpu"


class TestOpenVinoCpuInt8(CpuBackendCases):
    device_id = "openvino-cpu-int8"
    # 7 bits a weight, 8 bits an activation, five layers.
    tolerance = 0.1
    int8_tolerance = 0.15


@pytest.mark.parametrize("threads", [1, 2])
def test_the_plugin_is_set_to_fp32_one_stream_and_the_threads_of_the_device(threads: int, tmp_path: Path) -> None:
    artifact = build(BACKEND, example_network(), tmp_path / "m")
    spec = dataclasses.replace(get_device("openvino-cpu").spec, threads=threads)
    network = compile_openvino(
        read_openvino(artifact.read_checked(), path=artifact.path), spec=spec, path=artifact.path
    )
    assert network.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert network.get_property("INFERENCE_NUM_THREADS") == threads
    assert network.get_property("NUM_STREAMS") == 1
    assert str(network.get_property("PERFORMANCE_HINT")).endswith("LATENCY")


def test_the_archive_holds_a_network_as_openvino_writes_it(tmp_path: Path) -> None:
    artifact = build(BACKEND, example_network(), tmp_path / "m")
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
    first, second = (build(BACKEND, example_network(), tmp_path / name, precision=precision) for name in "ab")
    assert first.sha256 == second.sha256
    assert open_openvino(first.path) == first


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
    build(BACKEND, example_network(), tmp_path / "m", precision="int8")
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
