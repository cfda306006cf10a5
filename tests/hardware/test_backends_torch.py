import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.artifacts.torch_program import open_program, parse_program
from hardware.artifacts.torch_runner import TorchRunner
from hardware.backends.torch_cpu import BACKEND
from hardware.errors import MeasurementError, StorageError
from hardware.files import sha256_file
from hardware.testing import INPUT_SHAPE, example_network
from tests.hardware.built_once import BuiltOnce
from tests.hardware.cpu_cases import CpuBackendCases, build, predictions
from tests.hardware.networks import outputs, relative_difference

EXAMPLE = torch.zeros(1, *INPUT_SHAPE)


class TestTorchCpu(CpuBackendCases):
    device_id = "torch-cpu"


class TestTorchCpuInt8(CpuBackendCases):
    device_id = "torch-cpu-int8"
    # 7 bits a weight, 8 bits an activation, five layers.
    tolerance = 0.1
    int8_tolerance = 0.15


def functions(artifact: Artifact) -> list[str]:
    return [call.function for call in parse_program(artifact.path.read_bytes(), path=artifact.path).calls]


def test_a_run_lends_the_number_of_threads_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = build(BACKEND, example_network(), tmp_path / "m")
    session = BACKEND.load(artifact, spec=dataclasses.replace(get_device("torch-cpu").spec, threads=2))
    before = torch.get_num_threads()
    seen: list[int] = []
    real = TorchRunner.__call__

    def spying(runner: TorchRunner, x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return real(runner, x)

    monkeypatch.setattr(TorchRunner, "__call__", spying)
    session.run()
    assert seen == [2]
    assert torch.get_num_threads() == before == 1

    def failing(runner: TorchRunner, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"no luck with {torch.get_num_threads()}")

    monkeypatch.setattr(TorchRunner, "__call__", failing)
    with pytest.raises(RuntimeError, match="no luck with 2"):
        session.run()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", ["real", "elaborate"])
def test_all_convolutions_and_linear_layers_are_int8(name: str, built_once: BuiltOnce, tmp_path: Path) -> None:
    called = functions(built_once.copy(name, BACKEND, precision="int8", folder=tmp_path))
    assert called.count("int8.conv2d") >= 7
    assert not {"functional.conv2d", "functional.linear", "functional.batch_norm"} & set(called)


def test_int8_really_runs_int8_kernels(tmp_path: Path) -> None:
    artifact = build(BACKEND, example_network(), tmp_path / "m", precision="int8")
    session = BACKEND.load(artifact, spec=get_device("torch-cpu-int8").spec)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        session.run()
    kernels = {event.key for event in seen.key_averages()}
    assert {"quantized::conv2d_relu", "quantized::conv2d", "quantized::linear"} <= kernels
    assert not kernels & {"aten::conv2d", "aten::convolution", "aten::linear", "aten::addmm"}


def test_series_are_computed_in_both_precisions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3, dilation=2)
    ).eval()
    series = torch.randn(40, 3, 32, generator=torch.Generator().manual_seed(1))
    for precision, tolerance in (("fp32", 1e-4), ("int8", 0.1)):
        artifact = BACKEND.build(
            network, example=series[:1], path=tmp_path / precision, precision=precision, calibration=series
        )
        assert relative_difference(predictions(BACKEND, artifact, series), outputs(network, series)) < tolerance
    assert functions(artifact).count("int8.conv1d") == 2


def test_a_view_of_an_image_falls_back_to_the_standard_layout(tmp_path: Path) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(1, 4, 3)
            self.linear = nn.Linear(400, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            images = self.convolution(x)
            logits: torch.Tensor = self.linear(images.view(images.size(0), -1))
            return logits

    artifact = build(BACKEND, Viewing(), tmp_path / "m")
    assert not parse_program(artifact.path.read_bytes(), path=artifact.path).channels_last
    viewless = build(BACKEND, example_network(), tmp_path / "other")
    assert parse_program(viewless.path.read_bytes(), path=viewless.path).channels_last


def test_running_does_not_change_an_input_that_the_network_computes_in_place(tmp_path: Path) -> None:
    artifact = build(BACKEND, nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 2, 3)), tmp_path / "m")
    x = -np.ones((1, *INPUT_SHAPE), dtype=np.float32)
    BACKEND.load(artifact, spec=get_device("torch-cpu").spec).predict(x)
    assert (x == -1).all()


@pytest.mark.parametrize("precision", BACKEND.precisions)
def test_the_same_network_is_the_same_file(precision: str, tmp_path: Path) -> None:
    first, second = (build(BACKEND, example_network(), tmp_path / name, precision=precision) for name in "ab")
    assert first.sha256 == second.sha256
    assert open_program(first.path) == first


class Broken(nn.Module):
    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.forward = forward


GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (torch.fft.rfft, "torch.fft.rfft"),
        (lambda x: x + 1 if x.sum() > 0 else x, "Tensor.__bool__"),
        (lambda x: x * float(x.max()), "Tensor.__float__"),
        (lambda x: torch.from_numpy(x.numpy() + 1), "Tensor.numpy"),
        (lambda x: x + torch.rand(x.shape, generator=GENERATOR), "outside of torch"),
        (lambda x: torch.ones(2), "does not depend on its input"),
        (lambda x: (x, x), "returns a tuple"),
    ],
)
def test_what_cannot_be_written_down_is_named(
    forward: Callable[[torch.Tensor], torch.Tensor], named: str, tmp_path: Path
) -> None:
    with pytest.raises(MeasurementError) as caught:
        build(BACKEND, Broken(forward), tmp_path / "m")
    assert named in str(caught.value)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_network_that_counts_its_runs_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Module):
        total: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(INPUT_SHAPE))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.total.add_(x[0]) + x

    with pytest.raises(MeasurementError, match=r"changes one of its own tensors with Tensor\.add_"):
        build(BACKEND, Counting(), tmp_path / "m")


def test_a_network_without_layers_cannot_be_quantised(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no convolution and no linear layer"):
        build(BACKEND, nn.Sequential(nn.ReLU(), nn.Flatten()), tmp_path / "m", precision="int8")


def test_calibration_inputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"\(8, 3, 12, 12\)") as caught:
        BACKEND.build(
            example_network(),
            example=EXAMPLE,
            path=tmp_path / "m",
            precision="int8",
            calibration=torch.zeros(8, 3, 12, 12),
        )
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda body: body["calls"][0].update(function="os.system"), "os.system"),
        (lambda body: body["calls"][0].update(function="torch.load"), "torch.load"),
        (lambda body: body["calls"][0].update(args=[{"value": 5}]), "not there"),
        (lambda body: body["calls"][0].update(args=[{"constant": "nobody"}]), "not there"),
        (lambda body: body["calls"][0].update(args=[{"dtype": "load"}]), "no dtype"),
        (lambda body: body["calls"][0].update(args=[{"eval": "1"}]), "eval"),
        (lambda body: body["calls"][0].update(results=[10**12]), "not there"),
        (lambda body: body.update(output=99), "no output"),
        (lambda body: body.update(schema=99), "schema 99"),
        (lambda body: body.pop("calls"), "calls"),
    ],
)
def test_a_forged_file_is_refused(change: Callable[[dict[str, object]], object], named: str, tmp_path: Path) -> None:
    artifact = build(BACKEND, example_network(), tmp_path / "m")
    tensors = load(artifact.path.read_bytes())
    body = json.loads(bytes(tensors["/program"].tolist()))
    change(body)
    tensors["/program"] = torch.tensor(list(json.dumps(body).encode()), dtype=torch.uint8)
    artifact.path.write_bytes(save(tensors))
    forged = dataclasses.replace(artifact, sha256=sha256_file(artifact.path))
    with pytest.raises(MeasurementError, match=named) as caught:
        BACKEND.load(forged, spec=get_device("torch-cpu").spec)
    assert caught.value.hint


def test_a_missing_file_cannot_be_described(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing"):
        open_program(tmp_path / "nothing")
