import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware import get_device
from hardware.backends.executorch_cpu import BACKEND
from hardware.errors import MeasurementError
from hardware.testing import calibration_inputs
from tests.hardware.built_once import BuiltOnce
from tests.hardware.cpu_cases import EXAMPLE, CpuBackendCases, assert_silent, predictions
from tests.hardware.networks import outputs, relative_difference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing())),
]


class TestExecuTorchCpu(CpuBackendCases):
    device_id = "executorch-cpu"


class TestExecuTorchCpuInt8(CpuBackendCases):
    device_id = "executorch-cpu-int8"
    tolerance = 0.1


def test_the_pool_has_the_threads_of_the_device(built_once: BuiltOnce, tmp_path: Path) -> None:
    from executorch.extension.pybindings import portable_lib

    artifact = built_once.copy("example", BACKEND, precision="fp32", folder=tmp_path)
    images = calibration_inputs()[:3]
    found = []
    for threads in (2, 1):
        found.append(predictions(BACKEND, artifact, images, threads=threads))
        assert portable_lib._threadpool_get_thread_count() == threads
    assert np.allclose(found[0], found[1], rtol=1e-5)


def test_int8_is_smaller(built_once: BuiltOnce, tmp_path: Path) -> None:
    int8 = built_once.copy("real", BACKEND, precision="int8", folder=tmp_path)
    assert int8.size_bytes < 0.6 * built_once.copy("real", BACKEND, precision="fp32", folder=tmp_path).size_bytes


def test_an_example_of_another_order_in_memory_makes_the_same_program(tmp_path: Path) -> None:
    network, image = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval(), calibration_inputs()[:1]
    # One channel: torch calls such a tensor contiguous in both orders, ExecuTorch goes by its strides.
    example = torch.zeros(1, 12, 12, 1).permute(0, 3, 1, 2)
    assert example.shape == EXAMPLE.shape
    artifact = BACKEND.build(network, example=example, path=tmp_path / "m.pte")
    assert relative_difference(predictions(BACKEND, artifact, image), outputs(network, image)) < 1e-4


def test_a_program_that_fails_names_the_file_and_the_input(built_once: BuiltOnce, tmp_path: Path) -> None:
    artifact = built_once.copy("example", BACKEND, precision="fp32", folder=tmp_path)
    forged = dataclasses.replace(artifact, input_shape=(1, 2, 12, 12))
    session = BACKEND.load(forged, spec=get_device("executorch-cpu").spec)
    with pytest.raises(
        MeasurementError, match=r"network\.pte fails in ExecuTorch on float32 of shape \(1, 2, 12, 12\)"
    ):
        session.predict(np.zeros(forged.input_shape, dtype=np.float32))


def test_converting_quantising_and_running_print_nothing(tmp_path: Path) -> None:
    assert_silent("executorch-cpu-int8", tmp_path / "m.pte")
