"""Deployment: files for any device, compared with PyTorch and judged in their own runtime."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.device import Device, DeviceSpec, get_device
from nas.data import DataSplits
from nas.deployment import Deployment
from nas.errors import ExportError
from tests.fakes.devices import FlakyBackend, FlakySession
from tests.nas.tiny_run import SPACE, TinyRun, make_judge

LARGEST = SPACE.input_shape(SPACE.largest)


class BrokenBackend(FlakyBackend):
    """A runtime that does something to all outputs."""

    def __init__(self, device: Device, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        super().__init__(device.backend)
        self.change = change

    def load(self, artifact: Artifact, *, spec: DeviceSpec) -> "BrokenSession":
        return BrokenSession(super().load(artifact, spec=spec), backend=self)


class BrokenSession(FlakySession):
    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        assert isinstance(self._backend, BrokenBackend)
        return self._backend.change(super().predict(x))


@pytest.fixture(scope="module")
def network(trained: TinyRun, data: DataSplits) -> nn.Module:
    """The largest subnet, trained for an epoch and recalibrated."""
    return make_judge(trained.supernet(), data).network(SPACE.largest)


def deployment_on(device_id: str, *, data: DataSplits, batch: int = 1) -> Deployment:
    runtime = {"openvino-cpu": "openvino", "executorch-cpu": "executorch"}.get(device_id)
    if runtime is not None:
        pytest.importorskip(runtime)
    return Deployment(get_device(device_id, batch=batch), data=data)


def build(deployment: Deployment, network: nn.Module, *, folder: Path) -> Artifact:
    path = folder / f"network.{deployment.device.backend.artifact_format}"
    return deployment.build(network, shape=LARGEST, path=path)


@pytest.mark.parametrize("device_id", ["onnxruntime-cpu", "openvino-cpu", "executorch-cpu"])
def test_an_fp32_file_does_what_the_network_does(
    tmp_path: Path, data: DataSplits, network: nn.Module, device_id: str
) -> None:
    deployment = deployment_on(device_id, data=data)
    artifact = build(deployment, network, folder=tmp_path)
    found = deployment.compare(artifact, network, shape=LARGEST, images=data.report)
    assert found.num_images == 256
    assert found.max_difference > 0  # another runtime rounds in another way: something was compared
    assert found.max_relative_difference <= 1e-4
    assert found.same_answers == 1.0


def test_an_int8_file_is_judged_by_its_answers_and_has_an_accuracy_of_its_own(
    tmp_path: Path, data: DataSplits, network: nn.Module
) -> None:
    deployment = deployment_on("onnxruntime-cpu-int8", data=data)
    artifact = build(deployment, network, folder=tmp_path)
    found = deployment.compare(artifact, network, shape=LARGEST, images=data.report)
    assert found.max_relative_difference > 1e-4
    assert 0.8 <= found.same_answers <= 1.0
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    answers = [session.run(None, {"image": x[None].float().numpy()})[0].argmax() for x in data.report.inputs]
    correct = int((np.array(answers) == data.report.labels_N.numpy()).sum())
    accuracy = deployment.accuracy(artifact, data.report)
    assert (accuracy.num_correct, accuracy.num_images) == (correct, len(data.report))
    with torch.no_grad():
        expected = deployment.deployable(network, shape=LARGEST)(data.report.inputs[:256]).argmax(dim=1).numpy()
    assert found.same_answers == pytest.approx(float((np.array(answers[:256]) == expected).mean()))


@pytest.mark.parametrize("batch", [7, 300])
def test_a_batch_that_does_not_divide_the_inputs_is_filled_up(
    tmp_path: Path, data: DataSplits, network: nn.Module, batch: int
) -> None:
    deployment = deployment_on("onnxruntime-cpu", data=data, batch=batch)
    artifact = build(deployment, network, folder=tmp_path)
    found = deployment.compare(artifact, network, shape=LARGEST, images=data.report.first(50))
    assert (found.num_images, found.same_answers) == (50, 1.0)


@pytest.mark.parametrize(
    ("device_id", "words"),
    [("onnxruntime-cpu", "allowed 0.0001"), ("onnxruntime-cpu-int8", "at least 80% are asked for")],
)
def test_the_file_of_another_network_is_refused(
    tmp_path: Path, data: DataSplits, network: nn.Module, device_id: str, words: str
) -> None:
    deployment = deployment_on(device_id, data=data)
    torch.manual_seed(1)
    other = SPACE.build_supernet(num_classes=data.num_classes).extract(SPACE.largest).eval()
    artifact = build(deployment, other, folder=tmp_path)
    with pytest.raises(ExportError, match=words) as caught:
        deployment.compare(artifact, network, shape=LARGEST, images=data.report)
    assert str(artifact.path) in str(caught.value)
    assert "deploy" in caught.value.hint


def not_a_number(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # The answers stay: argmax takes the first of the largest, and the other classes are as they were.
    return np.where(logits == logits.min(), np.float32("-inf"), logits)


@pytest.mark.parametrize("device_id", ["onnxruntime-cpu", "onnxruntime-cpu-int8"])
def test_outputs_that_are_no_numbers_are_refused_even_where_the_answers_agree(
    tmp_path: Path, data: DataSplits, network: nn.Module, device_id: str
) -> None:
    good = deployment_on(device_id, data=data)
    artifact = build(good, network, folder=tmp_path)
    bad = Deployment(replace(good.device, backend=BrokenBackend(good.device, not_a_number)), data=data)
    assert bad.accuracy(artifact, data.report) == good.accuracy(artifact, data.report)
    with pytest.raises(ExportError, match="relative inf"):
        bad.compare(artifact, network, shape=LARGEST, images=data.report)


def test_one_wrong_answer_in_five_is_not_too_many_and_more_are(
    tmp_path: Path, data: DataSplits, network: nn.Module
) -> None:
    good = deployment_on("onnxruntime-cpu-int8", data=data)
    artifact = build(good, network, folder=tmp_path)
    with torch.no_grad():
        classes_N = good.deployable(network, shape=LARGEST)(data.report.inputs[:100]).argmax(dim=1).tolist()

    def share_of(num_right: int) -> float:
        turn = iter(range(100))

        def change(logits: NDArray[np.float32]) -> NDArray[np.float32]:
            n = next(turn)
            shift = 0 if n < num_right else 1
            return np.eye(logits.shape[1], dtype=np.float32)[[(classes_N[n] + shift) % logits.shape[1]]]

        bad = Deployment(replace(good.device, backend=BrokenBackend(good.device, change)), data=data)
        return bad.compare(artifact, network, shape=LARGEST, images=data.report.first(100)).same_answers

    assert share_of(80) == pytest.approx(0.8)
    with pytest.raises(ExportError, match=r"79\.0% of 100 inputs"):
        share_of(79)
