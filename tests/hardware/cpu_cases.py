"""What the runtimes on this machine's CPU must do besides the contract: one class a device, in a file a runtime."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import DeviceBackend
from hardware.device import DeviceSpec, get_device
from hardware.errors import MeasurementError
from hardware.testing import INPUT_SHAPE, DeviceBackendContract, calibration_inputs, example_network
from tests.hardware.built_once import BuiltOnce
from tests.hardware.networks import elaborate_network, outputs, raw_images, real_subnet, relative_difference

EXAMPLE = torch.zeros(1, *INPUT_SHAPE)


def build(backend: DeviceBackend, network: nn.Module, path: Path, *, precision: str = "fp32") -> Artifact:
    """Build a network that takes what the example network takes."""
    return backend.build(network, example=EXAMPLE, path=path, precision=precision, calibration=calibration_inputs())


def predictions(backend: DeviceBackend, artifact: Artifact, images: torch.Tensor, *, threads: int = 1) -> np.ndarray:
    """Outputs for each image, on the device of this machine that the artifact is for."""
    spec = dataclasses.replace(get_device(backend.name).spec, precision=artifact.precision, threads=threads)
    session = backend.load(artifact, spec=spec)
    found = np.concatenate([session.predict(image[None].numpy()) for image in images])
    session.close()
    return found


class Spectrum(nn.Module):
    """Singular values: no runtime has them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.svdvals(x)
        return values


class CpuBackendCases(DeviceBackendContract):
    """Real networks, threads, and what is left as it was.

    Attributes:
        int8_tolerance: largest difference of an int8 device to torch on the networks of our spaces.
    """

    int8_tolerance = 0.1

    @pytest.fixture
    def artifact(self, backend: DeviceBackend, spec: DeviceSpec, built_once: BuiltOnce, tmp_path: Path) -> Artifact:
        return built_once.copy("example", backend, precision=spec.precision, folder=tmp_path)

    def test_two_threads_compute_the_same_as_one(self, backend: DeviceBackend, artifact: Artifact) -> None:
        images = calibration_inputs()[:3]
        one, two = (predictions(backend, artifact, images, threads=threads) for threads in (1, 2))
        assert np.allclose(one, two, rtol=1e-5)

    def test_an_earlier_prediction_is_not_written_over(
        self, backend: DeviceBackend, spec: DeviceSpec, artifact: Artifact, x: np.ndarray
    ) -> None:
        session = backend.load(artifact, spec=spec)
        first = session.predict(x)
        kept = first.copy()
        session.predict(-x)
        assert np.array_equal(first, kept)

    @pytest.mark.parametrize("name", ["real", "elaborate"])
    def test_the_networks_of_our_spaces_decide_as_in_torch(
        self, name: str, backend: DeviceBackend, spec: DeviceSpec, built_once: BuiltOnce, tmp_path: Path
    ) -> None:
        network = real_subnet() if name == "real" else elaborate_network()
        artifact = built_once.copy(name, backend, precision=spec.precision, folder=tmp_path)
        images = raw_images(200)
        found, expected = predictions(backend, artifact, images), outputs(network, images)
        difference = relative_difference(found, expected)
        if spec.precision == "fp32":
            assert difference < 1e-4
            return
        # Not too close either: the file would be in fp32.
        assert 1e-3 < difference < self.int8_tolerance
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9

    def test_an_operator_that_does_not_exist_is_named(
        self, backend: DeviceBackend, spec: DeviceSpec, tmp_path: Path
    ) -> None:
        with pytest.raises(MeasurementError, match="svd") as caught:
            build(backend, Spectrum(), tmp_path / "m", precision=spec.precision)
        assert caught.value.hint
        assert not list(tmp_path.iterdir())

    def test_a_module_is_left_as_it_was_and_written_for_evaluation(
        self, backend: DeviceBackend, spec: DeviceSpec, x: np.ndarray, tmp_path: Path
    ) -> None:
        network = example_network().train()
        parts = list(network.children())
        parts[1].eval()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        artifact = build(backend, network, tmp_path / "m", precision=spec.precision)
        assert [part.training for part in parts] == [True, False, *[True] * 7]
        after = network.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, before[name]) and tensor.is_contiguous() for name, tensor in after.items())
        image = torch.from_numpy(x)
        found, expected = predictions(backend, artifact, image), outputs(example_network(), image)
        assert relative_difference(found, expected) <= self.tolerance


SILENT = """
import sys
from pathlib import Path
import torch
from hardware.device import get_device
from hardware.testing import INPUT_SHAPE, calibration_inputs, example_network
device = get_device(sys.argv[1])
artifact = device.backend.build(
    example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=Path(sys.argv[2]), precision=device.spec.precision,
    calibration=calibration_inputs(),
)
device.backend.load(artifact, spec=device.spec).run()
print("done")
"""


def assert_silent(device_id: str, path: Path) -> None:
    """Build and run the example network in a process of its own, which prints nothing."""
    done = subprocess.run(
        [sys.executable, "-c", SILENT, device_id, str(path)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "done\n"
    assert done.stderr == ""
    assert done.returncode == 0
