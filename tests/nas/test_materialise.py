"""The workbench: candidates become networks and artifacts whose accuracy is found in the device's runtime."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardware.device import Device
from hardware.errors import DeviceError
from hardware.files import sha256_file
from hardware.lease import UnitLock
from nas.accuracy import predict_classes
from nas.candidate import Candidate
from nas.data import DataSplits
from nas.errors import CheckpointError, RunError
from nas.materialise import Workbench
from tests.nas.tiny_run import SPACE, TinyRun, create_tiny_run, fresh_supernet, make_bench, make_judge


@pytest.fixture
def bench(run_copy: TinyRun, data: DataSplits, device: Device) -> Workbench:
    return make_bench(run_copy, data=data, device=device)


def test_an_untrained_run_has_no_workbench(tmp_path: Path, data: DataSplits, device: Device) -> None:
    run = create_tiny_run(tmp_path / "run")
    with pytest.raises(RunError, match="no trained supernet"):
        Workbench(run, device=device, data=data, judge=make_judge(fresh_supernet(), data), recalibration="none")


def test_inherited_weights_are_recalibrated_and_stored_at_first_use(bench: Workbench) -> None:
    candidate = bench.inherit(SPACE.largest)
    assert not bench.run.candidates.has(candidate)
    network = bench.network(candidate)
    assert bench.run.candidates.has(candidate)
    expected = bench.judge.network(SPACE.largest).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_stored_weights_are_used_again(bench: Workbench) -> None:
    candidate = bench.inherit(SPACE.smallest)
    bench.network(candidate)
    weights = bench.run.candidates.path(candidate) / "weights.safetensors"
    before = weights.stat().st_mtime_ns, weights.stat().st_ino
    bench.network(candidate)
    assert (weights.stat().st_mtime_ns, weights.stat().st_ino) == before


def test_fine_tuned_weights_cannot_be_made_up(bench: Workbench) -> None:
    candidate = Candidate(architecture=SPACE.smallest, weights="f" * 16, weights_kind="fine-tuned")
    with pytest.raises(CheckpointError, match=candidate.candidate_id):
        bench.network(candidate)


def test_a_deployable_network_takes_raw_images(bench: Workbench, data: DataSplits) -> None:
    candidate = bench.inherit(SPACE.largest)
    raw_NCHW = data.search.inputs[:16]
    assert float(raw_NCHW.max()) > 10  # raw pixels, not normalised ones
    prepared_NCHW = data.preprocessing.prepare(raw_NCHW, shape=SPACE.input_shape(SPACE.largest))
    with torch.no_grad():
        assert torch.equal(bench.deployable(candidate)(raw_NCHW), bench.network(candidate)(prepared_NCHW))


def test_an_artifact_is_built_once_a_workbench_and_named_after_its_candidate(bench: Workbench) -> None:
    candidate = bench.inherit(SPACE.smallest)
    artifact = bench.artifact(candidate)
    assert artifact.path.parent == bench.run.artifacts_dir
    assert artifact.path.name.startswith(candidate.candidate_id)
    assert artifact.sha256 == sha256_file(artifact.path)
    artifact.path.unlink()
    assert bench.artifact(candidate) is artifact
    assert not artifact.path.exists()


@pytest.mark.parametrize("batch", [1, 9])
def test_the_accuracy_in_the_runtime_is_the_networks(
    run_copy: TinyRun, data: DataSplits, device: Device, batch: int
) -> None:
    # 400 images are no multiple of 9: the last batch is filled up, and the filling not counted
    in_batches = Device(spec=replace(device.spec, batch=batch), backend=device.backend)
    bench = make_bench(run_copy, data=data, device=in_batches)
    candidate = bench.inherit(SPACE.largest)
    network = bench.deployable(candidate)
    with torch.no_grad():
        expected = int((predict_classes(network, data.verify) == data.verify.labels_N.numpy()).sum())
    accuracy = bench.accuracy(bench.artifact(candidate), data.verify)
    assert (accuracy.num_correct, accuracy.num_images) == (expected, len(data.verify))
    assert bench.judge.score_network(
        bench.network(candidate), shape=SPACE.input_shape(SPACE.largest)
    ) == bench.accuracy(bench.artifact(candidate), data.search)


def test_nobody_measures_while_the_workbench_computes(bench: Workbench) -> None:
    lock = UnitLock(bench.device.spec.physical_unit())
    with bench.computing():
        with (
            pytest.raises(DeviceError, match="nas tiny"),
            lock.measuring(owner="somebody else", ttl_s=10, timeout_s=0.01),
        ):
            pass
        with lock.computing(owner="somebody else", timeout_s=1):
            pass
    with lock.measuring(owner="somebody else", ttl_s=10, timeout_s=1):
        pass
