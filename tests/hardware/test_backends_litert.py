import dataclasses
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.artifacts.litert import open_litert
from hardware.backends.backend import DeviceBackend
from hardware.backends.litert_cpu import BACKEND
from hardware.device import DeviceSpec
from hardware.errors import MeasurementError, StorageError
from hardware.testing import INPUT_SHAPE, DeviceBackendContract, calibration_inputs, example_network
from tests.hardware.built_once import BuiltOnce, built_once  # noqa: F401
from tests.hardware.networks import elaborate_network, outputs, raw_images, real_subnet, relative_difference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing())),
]
EXAMPLE = torch.zeros(1, *INPUT_SHAPE)
FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


class TestLiteRtCpu(DeviceBackendContract):
    @pytest.fixture
    def backend(self) -> DeviceBackend:
        return BACKEND

    @pytest.fixture
    def spec(self) -> DeviceSpec:
        return get_device("litert-cpu").spec

    @pytest.fixture
    def artifact(self, built_once: BuiltOnce, tmp_path: Path) -> Artifact:  # noqa: F811
        return built_once.copy("example", BACKEND, precision="fp32", folder=tmp_path)


class TestLiteRtCpuInt8(DeviceBackendContract):
    tolerance = 0.1

    @pytest.fixture
    def backend(self) -> DeviceBackend:
        return BACKEND

    @pytest.fixture
    def spec(self) -> DeviceSpec:
        return get_device("litert-cpu-int8").spec

    @pytest.fixture
    def artifact(self, built_once: BuiltOnce, tmp_path: Path) -> Artifact:  # noqa: F811
        return built_once.copy("example", BACKEND, precision="int8", folder=tmp_path)


def predictions(artifact: Artifact, images: torch.Tensor, *, threads: int = 1) -> np.ndarray:
    spec = dataclasses.replace(get_device("litert-cpu").spec, precision=artifact.precision, threads=threads)
    session = BACKEND.load(artifact, spec=spec)
    return np.concatenate([session.predict(image[None].numpy()) for image in images])


def fashion_images(num: int) -> torch.Tensor:
    with gzip.open(FASHION) as file:
        raw = np.frombuffer(file.read(16 + num * 784), np.uint8, offset=16)
    return torch.from_numpy(raw.reshape(num, 1, 28, 28).astype(np.float32))


@pytest.mark.parametrize("precision", BACKEND.precisions)
def test_two_threads_compute_the_same_as_one(precision: str, built_once: BuiltOnce, tmp_path: Path) -> None:  # noqa: F811
    artifact = built_once.copy("example", BACKEND, precision=precision, folder=tmp_path)
    images = calibration_inputs()[:3]
    assert np.allclose(predictions(artifact, images), predictions(artifact, images, threads=2), rtol=1e-5)


@pytest.mark.parametrize("precision", BACKEND.precisions)
def test_a_file_is_float32_and_channels_last_outside_and_of_its_precision_inside(
    precision: str,
    built_once: BuiltOnce,  # noqa: F811
    tmp_path: Path,
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    artifact = built_once.copy("elaborate", BACKEND, precision=precision, folder=tmp_path)
    interpreter = Interpreter(str(artifact.path))
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert [tuple(tensor["shape"]) for tensor in ends] == [(1, 28, 28, 1), (1, 10)]
    assert [tensor["dtype"] for tensor in ends] == [np.float32, np.float32]
    outside = {tensor["index"] for tensor in ends}
    inside = {t["dtype"] for t in interpreter.get_tensor_details() if t["index"] not in outside}
    assert (np.float32 in inside) == (precision == "fp32")
    assert (np.int8 in inside) == (precision == "int8")
    assert open_litert(artifact.path) == artifact


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


@pytest.mark.parametrize("name", ["real", "elaborate"])
def test_int8_decides_as_torch_does(name: str, built_once: BuiltOnce, tmp_path: Path) -> None:  # noqa: F811
    network = real_subnet() if name == "real" else elaborate_network()
    artifact = built_once.copy(name, BACKEND, precision="int8", folder=tmp_path)
    images = raw_images(200)
    found, expected = predictions(artifact, images), outputs(network, images)
    assert relative_difference(found, expected) < 0.1
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


@pytest.mark.skipif(not FASHION.is_file(), reason=f"no {FASHION}")
def test_a_real_subnet_agrees_on_pictures(built_once: BuiltOnce, tmp_path: Path) -> None:  # noqa: F811
    images = fashion_images(200)
    expected = outputs(real_subnet(), images)
    artifact = built_once.copy("real", BACKEND, precision="fp32", folder=tmp_path)
    assert relative_difference(predictions(artifact, images), expected) < 1e-4


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv1d(3, 4, 5, stride=2), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten()), (2, 3, 20)),
        (nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), (2, 7)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (2, 3, 6, 8)),
    ],
)
def test_series_vectors_and_colour_images_in_batches(
    network: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    network.eval()
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    artifact = BACKEND.build(network, example=example, path=tmp_path / "m.tflite")
    assert artifact.input_shape == shape
    session = BACKEND.load(artifact, spec=dataclasses.replace(get_device("litert-cpu").spec, batch=2))
    assert relative_difference(session.predict(example.numpy()), outputs(network, example)) < 1e-4


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.svdvals(x)
        return values


def test_an_operator_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="svd") as caught:
        BACKEND.build(Spectrum(), example=EXAMPLE, path=tmp_path / "m.tflite")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_module_is_left_as_it_was(tmp_path: Path) -> None:
    network = example_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    artifact = BACKEND.build(network, example=EXAMPLE, path=tmp_path / "m.tflite")
    assert network.training
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    # In evaluation mode all the same.
    assert relative_difference(predictions(artifact, EXAMPLE + 1), outputs(network.eval(), EXAMPLE + 1)) < 1e-4


SILENT = """
import sys
from pathlib import Path
import torch
from hardware.backends.litert_cpu import BACKEND
from hardware.device import get_device
from hardware.testing import INPUT_SHAPE, calibration_inputs, example_network
artifact = BACKEND.build(
    example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=Path(sys.argv[1]), precision="int8",
    calibration=calibration_inputs(),
)
BACKEND.load(artifact, spec=get_device("litert-cpu-int8").spec).run()
print("done")
"""


def test_converting_quantising_and_running_print_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT, str(tmp_path / "m.tflite")],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "done\n"
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_missing_file_and_a_file_of_something_else_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.tflite"):
        open_litert(tmp_path / "absent.tflite")
    (tmp_path / "other.tflite").write_bytes(b"something else")
    with pytest.raises(MeasurementError, match=r"other\.tflite"):
        open_litert(tmp_path / "other.tflite")
