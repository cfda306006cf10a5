import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware import get_device
from hardware.artifacts.litert import open_litert
from hardware.backends.litert_cpu import BACKEND
from hardware.errors import MeasurementError, StorageError
from tests.hardware.built_once import BuiltOnce
from tests.hardware.cpu_cases import CpuBackendCases, assert_silent, predictions
from tests.hardware.networks import outputs, real_subnet, relative_difference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing())),
]
FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


class TestLiteRtCpu(CpuBackendCases):
    device_id = "litert-cpu"


class TestLiteRtCpuInt8(CpuBackendCases):
    device_id = "litert-cpu-int8"
    tolerance = 0.1


def fashion_images(num: int) -> torch.Tensor:
    with gzip.open(FASHION) as file:
        raw = np.frombuffer(file.read(16 + num * 784), np.uint8, offset=16)
    return torch.from_numpy(raw.reshape(num, 1, 28, 28).astype(np.float32))


@pytest.mark.parametrize("precision", BACKEND.precisions)
def test_a_file_is_float32_and_channels_last_outside_and_of_its_precision_inside(
    precision: str,
    built_once: BuiltOnce,
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


@pytest.mark.skipif(not FASHION.is_file(), reason=f"no {FASHION}")
def test_a_real_subnet_agrees_on_pictures(built_once: BuiltOnce, tmp_path: Path) -> None:
    images = fashion_images(200)
    expected = outputs(real_subnet(), images)
    artifact = built_once.copy("real", BACKEND, precision="fp32", folder=tmp_path)
    assert relative_difference(predictions(BACKEND, artifact, images), expected) < 1e-4


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


def test_converting_quantising_and_running_print_nothing(tmp_path: Path) -> None:
    assert_silent("litert-cpu-int8", tmp_path / "m.tflite")


def test_a_missing_file_and_a_file_of_something_else_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.tflite"):
        open_litert(tmp_path / "absent.tflite")
    (tmp_path / "other.tflite").write_bytes(b"something else")
    with pytest.raises(MeasurementError, match=r"other\.tflite"):
        open_litert(tmp_path / "other.tflite")
