"""Exports: the contract on ONNX Runtime, the choice of the point, and files that do not do what they should."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.device import Device, DeviceSpec
from hardware.errors import DeviceError
from nas.accuracy import predict_classes
from nas.candidate import Candidate
from nas.data import DataSplits
from nas.errors import ExportError, RunError
from nas.export import choose_point, export_candidate
from nas.pareto import FrontPoint
from nas.testing import ExportCase, ExporterContract
from tests.fakes.devices import FlakyBackend, FlakySession
from tests.nas.tiny_run import TinyRun, candidate_of, copy_run, ignore, make_bench, make_front, make_point


class LyingBackend(FlakyBackend):
    """A runtime whose outputs are off by a little."""

    def load(self, artifact: Artifact, *, spec: DeviceSpec) -> "LyingSession":
        return LyingSession(super().load(artifact, spec=spec), backend=self)


class LyingSession(FlakySession):
    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return super().predict(x) * np.float32(1.001)


def make_case(run: TinyRun, *, data: DataSplits, device: Device, fine_tuned: bool) -> ExportCase:
    """A case for a candidate of that kind; a fine-tuned one's weights exist nowhere else."""
    kind = "fine-tuned" if fine_tuned else "inherited"
    rows = run.verifications()
    row = rows[rows["weights_kind"] == kind].iloc[0]
    candidate = Candidate.from_row({str(key): str(value) for key, value in row.items()})
    point = make_point(
        arch_id=candidate.architecture.arch_id,
        candidate=candidate.candidate_id,
        architecture=candidate.architecture.to_json(),
        weights_kind=kind,
        latency_ms=float(row["latency_ms"]),
    )
    return ExportCase(bench=make_bench(run, data=data, device=device), point=point, candidate=candidate)


class TestExportToOnnx(ExporterContract):
    """Fine-tuned weights: they exist nowhere but in their candidate's directory."""

    @pytest.fixture
    def case(self, tmp_path: Path, verified: TinyRun, data: DataSplits, device: Device) -> ExportCase:
        run = copy_run(verified, tmp_path / "run")
        return make_case(run, data=data, device=device, fine_tuned=True)


def test_a_batch_may_be_larger_than_the_number_of_compared_images(
    tmp_path: Path, verified: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(verified, tmp_path / "run")
    # what was measured with batch 1 cannot be continued with another one
    shutil.rmtree(run.measurements_table.directory)
    in_batches = Device(spec=replace(device.spec, batch=170), backend=device.backend)
    case = make_case(run, data=data, device=in_batches, fine_tuned=False)
    exported = TestExportToOnnx().export(case)
    card: Any = exported.card
    assert card["model"]["input"]["shape"] == [170, 1, 8, 8]
    assert card["latency"]["exported"]["batch"] == 170
    with torch.no_grad():
        correct = int(
            (predict_classes(case.bench.deployable(case.candidate), data.report) == data.report.labels_N.numpy()).sum()
        )
    assert card["accuracy"]["report"]["num_correct"] == correct
    assert card["comparison"]["max_relative_difference"] <= 1e-4


def front() -> list[FrontPoint]:
    return [
        make_point(1, latency_ms=1.0, accuracy=0.5),
        make_point(2, latency_ms=2.0, accuracy=0.9),
        make_point(2, latency_ms=2.1, accuracy=0.91, candidate="fine-tuned twin"),
        make_point(3, latency_ms=9.0, accuracy=1.0),
    ]


def test_the_knee_is_exported_unless_an_architecture_is_named() -> None:
    points = front()
    assert choose_point(make_front(points), verified=points, arch_id=None) is make_front(points).knee()
    assert choose_point(make_front(points), verified=points, arch_id=points[3].arch_id) is points[3]


def test_of_an_architectures_candidates_the_most_accurate_is_exported() -> None:
    points = front()
    assert choose_point(make_front(points[:2]), verified=points, arch_id=points[1].arch_id) is points[2]


def test_an_architecture_that_is_not_verified_is_refused_with_those_that_are() -> None:
    points = front()
    with pytest.raises(RunError, match="'beefbeefbeef' is not among the verified ones") as caught:
        choose_point(make_front(points), verified=points, arch_id="beefbeefbeef")
    assert caught.value.hint.count(points[1].arch_id) == 1
    assert all(point.arch_id in caught.value.hint for point in points)


@pytest.mark.parametrize("provenance", ["predicted", "none"])
def test_nothing_is_exported_before_verification(provenance: str) -> None:
    points = front() if provenance == "predicted" else []
    with pytest.raises(RunError, match="no verified front") as caught:
        choose_point(make_front(points, provenance=provenance, split="search"), verified=points, arch_id=None)
    assert "nas verify" in caught.value.hint


def test_a_file_whose_outputs_differ_is_no_export(
    tmp_path: Path, verified: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(verified, tmp_path / "run")
    lying = Device(spec=device.spec, backend=LyingBackend(device.backend))
    point = run.front().knee()
    candidate = candidate_of(run, point)
    with pytest.raises(ExportError, match=r"differ from PyTorch's by .* \(relative 0\.001") as caught:
        export_candidate(
            make_bench(run, data=data, device=lying),
            point=point,
            candidate=candidate,
            protocol="quick",
            seed=0,
            on_progress=ignore,
        )
    assert caught.value.hint
    assert not (run.export_dir / candidate.candidate_id / "manifest.json").exists()
    assert not len(run.measurements().query("purpose == 'export'"))


def test_twenty_lines_that_use_nothing_of_ours_find_the_cards_accuracy(
    tmp_path: Path, verified: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(verified, tmp_path / "run")
    point = run.front().knee()
    exported = export_candidate(
        make_bench(run, data=data, device=device),
        point=point,
        candidate=candidate_of(run, point),
        protocol="quick",
        seed=0,
        on_progress=ignore,
    )
    import onnxruntime
    from sklearn.datasets import load_digits

    digits = load_digits()
    split = json.loads((exported.directory / "report_split.json").read_text())
    card = json.loads((exported.directory / "card.json").read_text())
    assert (split["dataset"], split["part"]) == ("digits", "digits")
    session = onnxruntime.InferenceSession(exported.model_path, providers=["CPUExecutionProvider"])
    correct = 0
    for index in split["indices"]:
        image = digits.images[index].astype(np.float32)[None, None]
        correct += int(session.run(["logits"], {"image": image})[0].argmax() == digits.target[index])
    assert correct / len(split["indices"]) == pytest.approx(card["accuracy"]["report"]["value"])
    assert card["accuracy"]["report"]["num_images"] == len(split["indices"]) == len(data.report)
    assert torch.equal(data.report.indices_N, torch.tensor(split["indices"]))


def test_the_card_says_how_much_slower_the_host_was_than_while_verifying(
    tmp_path: Path, verified: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(verified, tmp_path / "run")
    rows = run.measurements()
    rows = rows[rows["purpose"].isin(["verify", "reference"])]
    sessions = rows[rows["purpose"] == "verify"]["session_id"].unique()
    bench = make_bench(run, data=data, device=device)
    point = run.front().points[0]
    exported = export_candidate(
        bench, point=point, candidate=candidate_of(run, point), protocol="quick", seed=0, on_progress=ignore
    )
    latency = exported.card["latency"]
    assert isinstance(latency, dict)
    after = run.measurements()
    largest = after[after["candidate_id"] == bench.inherit(run.space.largest).candidate_id]
    reference_ms = largest.set_index("session_id")["p50"]
    ratio = reference_ms[after["session_id"].iloc[-1]] / reference_ms[sessions[-1]]
    assert latency["host_slowdown_since_verified"] == pytest.approx(ratio)
    assert f"ran {ratio:.2f} times" in (exported.directory / "card.md").read_text(encoding="utf-8")


def test_measurements_of_another_machine_or_setting_are_not_continued(
    tmp_path: Path, verified: TinyRun, data: DataSplits, device: Device
) -> None:
    run = copy_run(verified, tmp_path / "run")
    bench = make_bench(run, data=data, device=Device(spec=replace(device.spec, batch=2), backend=device.backend))
    point = run.front().points[0]
    before = len(run.measurements())
    with pytest.raises(DeviceError, match="were made with") as caught:
        export_candidate(
            bench, point=point, candidate=candidate_of(run, point), protocol="quick", seed=0, on_progress=ignore
        )
    assert "--run-dir" in caught.value.hint
    assert len(run.measurements()) == before
