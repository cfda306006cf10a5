import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import DeviceBackend
from hardware.backends.executorch_cpu import BACKEND
from hardware.device import DeviceSpec
from hardware.errors import MeasurementError
from hardware.testing import INPUT_SHAPE, DeviceBackendContract, calibration_inputs
from tests.hardware.built_once import BuiltOnce, built_once  # noqa: F401
from tests.hardware.networks import elaborate_network, outputs, raw_images, real_subnet, relative_difference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing())),
]
EXAMPLE = torch.zeros(1, *INPUT_SHAPE)


class TestExecuTorchCpu(DeviceBackendContract):
    @pytest.fixture
    def backend(self) -> DeviceBackend:
        return BACKEND

    @pytest.fixture
    def spec(self) -> DeviceSpec:
        return get_device("executorch-cpu").spec

    @pytest.fixture
    def artifact(self, built_once: BuiltOnce, tmp_path: Path) -> Artifact:  # noqa: F811
        return built_once.copy("example", BACKEND, precision="fp32", folder=tmp_path)


class TestExecuTorchCpuInt8(DeviceBackendContract):
    tolerance = 0.1

    @pytest.fixture
    def backend(self) -> DeviceBackend:
        return BACKEND

    @pytest.fixture
    def spec(self) -> DeviceSpec:
        return get_device("executorch-cpu-int8").spec

    @pytest.fixture
    def artifact(self, built_once: BuiltOnce, tmp_path: Path) -> Artifact:  # noqa: F811
        return built_once.copy("example", BACKEND, precision="int8", folder=tmp_path)


def predictions(artifact: Artifact, images: torch.Tensor, *, threads: int = 1) -> np.ndarray:
    spec = dataclasses.replace(get_device("executorch-cpu").spec, precision=artifact.precision, threads=threads)
    session = BACKEND.load(artifact, spec=spec)
    return np.concatenate([session.predict(image[None].numpy()) for image in images])


def test_the_pool_has_the_threads_of_the_device(built_once: BuiltOnce, tmp_path: Path) -> None:  # noqa: F811
    from executorch.extension.pybindings import portable_lib

    artifact = built_once.copy("example", BACKEND, precision="fp32", folder=tmp_path)
    images = calibration_inputs()[:3]
    found = []
    for threads in (2, 1):
        found.append(predictions(artifact, images, threads=threads))
        assert portable_lib._threadpool_get_thread_count() == threads
    assert np.allclose(found[0], found[1], rtol=1e-5)


def test_an_earlier_prediction_is_not_written_over(built_once: BuiltOnce, tmp_path: Path) -> None:  # noqa: F811
    artifact = built_once.copy("example", BACKEND, precision="fp32", folder=tmp_path)
    session = BACKEND.load(artifact, spec=get_device("executorch-cpu").spec)
    x = calibration_inputs()[:1].numpy()
    first = session.predict(x)
    kept = first.copy()
    session.predict(-x)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("name", ["real", "elaborate"])
def test_fp32_agrees_with_torch_in_the_networks_of_our_spaces(
    name: str,
    built_once: BuiltOnce,  # noqa: F811
    tmp_path: Path,
) -> None:
    network = real_subnet() if name == "real" else elaborate_network()
    artifact = built_once.copy(name, BACKEND, precision="fp32", folder=tmp_path)
    images = raw_images(20)
    assert relative_difference(predictions(artifact, images), outputs(network, images)) < 1e-4


def test_int8_decides_as_torch_does_and_is_smaller(built_once: BuiltOnce, tmp_path: Path) -> None:  # noqa: F811
    artifact = built_once.copy("real", BACKEND, precision="int8", folder=tmp_path)
    images = raw_images(200)
    found, expected = predictions(artifact, images), outputs(real_subnet(), images)
    assert relative_difference(found, expected) < 0.1
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    plain = built_once.copy("real", BACKEND, precision="fp32", folder=tmp_path / "..")
    assert artifact.size_bytes < 0.6 * plain.size_bytes


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.svdvals(x)
        return values


def test_an_operator_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="svd"):
        BACKEND.build(Spectrum(), example=EXAMPLE, path=tmp_path / "m.pte")
    assert not list(tmp_path.iterdir())


SILENT = """
import sys
from pathlib import Path
import torch
from hardware.backends.executorch_cpu import BACKEND
from hardware.device import get_device
from hardware.testing import INPUT_SHAPE, calibration_inputs, example_network
artifact = BACKEND.build(
    example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=Path(sys.argv[1]), precision="int8",
    calibration=calibration_inputs(),
)
BACKEND.load(artifact, spec=get_device("executorch-cpu-int8").spec).run()
print("done")
"""


def test_converting_quantising_and_running_print_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT, str(tmp_path / "m.pte")],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "done\n"
    assert done.stderr == ""
    assert done.returncode == 0
