"""The comparison of device backends in small, on a subnet that has learnt something."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmarks import device_backends
from experiments.benchmarks.device_backends import available_devices, logits, main
from experiments.benchmarks.harness import benchmark_parser, start
from experiments.workload import load_workload
from hardware.device import Device, DeviceStatus, get_device
from hardware.errors import DeviceError
from nas.deployment import Deployment
from tests.experiments.benchmarks.conftest import QUICKSTART
from tests.fakes.devices import FlakyBackend

DEVICES = ("onnxruntime-cpu", "onnxruntime-cpu-int8", "torch-cpu")


def test_every_device_has_its_figures_and_a_broken_one_its_reason(
    tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes_flaky(device_id: str) -> Device:
        device = get_device(device_id)
        if device_id != "torch-cpu":
            return device
        backend = FlakyBackend(device.backend)
        backend.failing.add("load")
        return Device(spec=device.spec, backend=backend)

    monkeypatch.setattr(device_backends, "get_device", sometimes_flaky)
    out = tmp_path / "devices.json"
    assert main(["--quick", "--supernet", str(trained_run), "--devices", ",".join(DEVICES), "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    figures = content["figures"]
    assert 0.1 < figures["pytorch/accuracy"] < 1.0
    for device_id in DEVICES[:2]:
        assert figures[f"{device_id}/size_bytes"] > 1000
        assert min(figures[f"{device_id}/{name}"] for name in ("first_build_s", "build_s")) > 0
        low, value, high = (figures[f"{device_id}/cost/{name}"] for name in ("low", "latency", "high"))
        assert 0 < low <= value <= high
        assert (figures[f"{device_id}/cost/unit"], figures[f"{device_id}/cost/provenance"]) == ("ms", "measured")
    assert figures["onnxruntime-cpu/same_answers"] == 1.0
    assert figures["onnxruntime-cpu/accuracy"] == figures["pytorch/accuracy"]
    assert figures["onnxruntime-cpu/relative_difference"] < figures["onnxruntime-cpu-int8/relative_difference"]
    targets = content["targets"]
    assert targets["onnxruntime-cpu/relative_difference"]["at_most"] == 1e-4
    assert targets["onnxruntime-cpu/relative_difference"]["met"]
    assert targets["onnxruntime-cpu-int8/same_answers"]["at_least"] == 0.8
    assert "onnxruntime-cpu-int8/relative_difference" not in targets
    assert "cannot load" in content["environment"]["skipped"]["torch-cpu"]


def test_without_a_run_a_supernet_is_trained_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_backends, "_TRAIN_IMAGES", 256)
    out = tmp_path / "devices.json"
    assert main(["--quick", "--recipe", str(QUICKSTART), "--devices", "torch-cpu", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["environment"]["supernet"] == "trained a little"
    assert content["figures"]["torch-cpu/same_answers"] == 1.0


def test_a_short_last_batch_is_filled_up(tmp_path: Path, trained_run: Path) -> None:
    workload = load_workload(trained_run)
    arch = workload.run.space.smallest
    network, shape = workload.subnet_judge.network(arch), workload.run.space.input_shape(arch)
    inputs = workload.data.report.inputs[:6]
    found = []
    for batch in (1, 4):
        device = get_device("onnxruntime-cpu", batch=batch)
        deployment = Deployment(device, data=workload.data)
        artifact = deployment.build(network, shape=shape, path=tmp_path / f"{batch}.onnx")
        found.append(logits(device, artifact, inputs))
    assert found[0].shape == (6, workload.data.num_classes)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(found[0].numpy(), axis=0).max() > 0  # the images differ


def test_devices_that_are_not_available_are_skipped_with_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = [
        DeviceStatus(device_id=name, backend=name, available=not reason, reason=reason, hint="buy one", versions={})
        for name, reason in (("onnxruntime-cpu", ""), ("torch-cuda", "no GPU"))
    ]
    monkeypatch.setattr(device_backends, "list_devices", lambda: statuses)
    out = tmp_path / "devices.json"
    _, report = start(benchmark_parser("example", description=None), ["--out", str(out)])
    default = ("torch-cuda", "onnxruntime-cpu")
    found = available_devices(None, default=default, report=report)
    assert [device.spec.device_id for device in found] == ["onnxruntime-cpu"]
    assert available_devices("torch-cuda", default=default, report=report) == []
    with pytest.raises(DeviceError, match="unknown device 'abacus', known are onnxruntime-cpu, torch-cuda"):
        available_devices("onnxruntime-cpu,abacus", default=default, report=report)
    report.finish()
    assert json.loads(out.read_text())["environment"]["skipped"] == {"torch-cuda": "no GPU: buy one"}
