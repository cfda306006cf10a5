"""The contract of an exporter for a device, as a test class: inherit it, give the fixture, and pytest does the rest.

class TestMyExport(ExporterContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> ExportCase: ...
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import Session
from hardware.errors import StorageError
from hardware.files import read_json, read_manifest, sha256_file
from nas.candidate import Candidate
from nas.data import DataSplits
from nas.export import CARD_FILE, CARD_TEXT_FILE, SPLIT_FILE, Exported, export_candidate
from nas.materialise import Workbench
from nas.pareto import FrontPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCase:
    """What a test of the contract needs.

    Attributes:
        bench: of a run that the test may change, with a verified front; nothing is exported yet.
        point: a point of that front.
        candidate: the candidate behind it.
    """

    bench: Workbench
    point: FrontPoint
    candidate: Candidate


class ExporterContract(ABC):
    """What an export must be, whatever the device and its format."""

    # Largest difference to PyTorch, relative to the largest output; a format of low precision allows more.
    tolerance = 1e-4
    protocol = "quick"

    @pytest.fixture
    @abstractmethod
    def case(self) -> ExportCase:
        """A verified candidate in a run of this test's own."""

    @pytest.fixture
    def exported(self, case: ExportCase) -> Exported:
        """The candidate, exported."""
        return self.export(case)

    def export(self, case: ExportCase, *, steps: list[tuple[int, int]] | None = None) -> Exported:
        """Export the case's candidate; `steps` collects the progress."""
        return export_candidate(
            case.bench,
            point=case.point,
            candidate=case.candidate,
            protocol=self.protocol,
            seed=0,
            on_progress=lambda done, total: None if steps is None else steps.append((done, total)),
        )

    def test_every_file_of_the_export_is_in_its_manifest(self, exported: Exported) -> None:
        manifest = read_manifest(exported.directory)
        found = {path.name for path in exported.directory.iterdir()} - {"manifest.json"}
        assert set(manifest.files) == found
        assert {exported.model_path.name, CARD_FILE, CARD_TEXT_FILE, SPLIT_FILE} <= found
        assert any(name.endswith(".safetensors") for name in found)

    def test_the_card_says_what_was_exported(self, case: ExportCase, exported: Exported) -> None:
        card = exported.card
        assert read_json(exported.directory / CARD_FILE) == card
        assert card["candidate"] == exported.candidate_id == case.candidate.candidate_id
        assert card["arch_id"] == case.point.arch_id
        assert card["architecture"] == case.candidate.architecture.to_json()
        assert card["device_id"] == case.bench.device.spec.device_id
        assert model_entry(card)["sha256"] == sha256_file(exported.model_path)
        assert case.point.arch_id in (exported.directory / CARD_TEXT_FILE).read_text(encoding="utf-8")

    def test_the_model_reopens_in_its_runtime_and_equals_pytorch(self, case: ExportCase, exported: Exported) -> None:
        images_NCHW = whole_batches(case.bench.data.verify.inputs[:64], case=case)
        with torch.no_grad():
            expected_NC = case.bench.deployable(case.candidate)(images_NCHW).numpy()
        found_NC = predict(case, exported, images_NCHW)
        assert found_NC.shape == (len(images_NCHW), case.bench.data.num_classes)
        assert np.abs(found_NC - expected_NC).max() <= self.tolerance * np.abs(expected_NC).max()

    def test_the_card_tells_how_far_the_outputs_are_from_pytorch(self, exported: Exported) -> None:
        comparison: Any = exported.card["comparison"]
        assert 0 <= comparison["max_relative_difference"] <= self.tolerance
        assert comparison["max_difference"] >= 0
        assert comparison["num_images"] > 0

    def test_the_report_accuracy_follows_from_the_file_and_the_split_alone(
        self, case: ExportCase, exported: Exported
    ) -> None:
        split: Any = read_json(exported.directory / SPLIT_FILE)
        images_NCHW, labels_N = source_images(case.bench.data, part=split["part"], indices=split["indices"])
        report: Any = exported.card["accuracy"]
        predicted_N = predict(case, exported, whole_batches(images_NCHW, case=case))[: len(labels_N)].argmax(axis=1)
        correct = int((predicted_N == labels_N.numpy()).sum())
        assert (correct, len(labels_N)) == (report["report"]["num_correct"], report["report"]["num_images"])
        assert report["report"]["value"] == pytest.approx(correct / len(labels_N))
        low, high = report["report"]["interval"]
        assert low <= report["report"]["value"] <= high

    def test_the_report_split_was_seen_by_no_other_stage(self, case: ExportCase, exported: Exported) -> None:
        split: Any = read_json(exported.directory / SPLIT_FILE)
        data = case.bench.data
        for other in (data.train, data.search, data.verify):
            if other.part == split["part"]:
                assert not set(other.indices_N.tolist()) & set(split["indices"])
        assert len(split["indices"]) == len(set(split["indices"])) > 0

    def test_the_latency_is_measured_from_the_exported_file(self, case: ExportCase, exported: Exported) -> None:
        latency: Any = exported.card["latency"]
        found = latency["exported"]
        assert found["provenance"] == "measured"
        assert 0 < found["interval_ms"][0] <= found["p50_ms"] <= found["interval_ms"][1]
        assert latency["verified"]["p50_ms"] == case.point.latency_ms
        rows = case.bench.run.measurements()
        row = rows[rows["purpose"] == "export"].iloc[-1]
        assert (row["p50"], row["provenance"]) == (found["p50_ms"], "measured")
        assert row["artifact_sha256"] == sha256_file(exported.model_path)
        assert row["candidate_id"] == case.candidate.candidate_id

    def test_a_second_call_does_nothing_anew(self, case: ExportCase, exported: Exported) -> None:
        before = fingerprint(exported.directory)
        num_measured = len(case.bench.run.measurements())
        steps: list[tuple[int, int]] = []
        again = self.export(case, steps=steps)
        assert (again.directory, again.model_path, again.card) == (
            exported.directory,
            exported.model_path,
            exported.card,
        )
        assert fingerprint(exported.directory) == before
        assert len(case.bench.run.measurements()) == num_measured
        assert steps == []

    def test_an_interrupted_export_is_redone(self, case: ExportCase, exported: Exported) -> None:
        (exported.directory / "manifest.json").unlink()
        exported.model_path.write_bytes(b"half of a mod")
        (exported.directory / CARD_FILE).unlink()
        steps: list[tuple[int, int]] = []
        again = self.export(case, steps=steps)
        assert steps[-1][0] == steps[-1][1]
        assert read_manifest(again.directory).details == again.card
        assert model_entry(again.card)["sha256"] == sha256_file(again.model_path)

    def test_a_damaged_export_is_refused_with_the_name_of_the_file(self, case: ExportCase, exported: Exported) -> None:
        exported.model_path.write_bytes(exported.model_path.read_bytes()[:-1])
        with pytest.raises(StorageError, match=exported.model_path.name) as caught:
            self.export(case)
        assert caught.value.hint


def model_entry(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the card says about the model file."""
    entry: Mapping[str, Any] = card["model"]
    return entry


def predict(case: ExportCase, exported: Exported, images_NCHW: torch.Tensor) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Logits (N, C) of the file, opened as its card describes it."""
    model = model_entry(exported.card)
    artifact = Artifact(
        path=exported.directory / model["file"],
        format=model["format"],
        sha256=model["sha256"],
        size_bytes=model["size_bytes"],
        input_shape=tuple(model["input"]["shape"]),
        input_dtype=model["input"]["dtype"],
        output_shape=tuple(model["output"]["shape"]),
    )
    spec = case.bench.device.spec
    session: Session = case.bench.device.backend.load(artifact, spec=spec)
    try:
        batches = images_NCHW.float().numpy().reshape(-1, spec.batch, *images_NCHW.shape[1:])
        return np.concatenate([session.predict(np.ascontiguousarray(x_NCHW)) for x_NCHW in batches])
    finally:
        session.close()


def whole_batches(images_NCHW: torch.Tensor, *, case: ExportCase) -> torch.Tensor:
    """The images, the last one repeated until the device's batches are full."""
    missing = -len(images_NCHW) % case.bench.device.spec.batch
    return torch.cat([images_NCHW, images_NCHW[-1:].expand(missing, -1, -1, -1)])


def source_images(data: DataSplits, *, part: str, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a data set by their place in its source, whatever split they are in."""
    place = {
        (split.part, int(index)): (split.inputs[n], split.labels_N[n])
        for split in (data.train, data.search, data.verify, data.report)
        for n, index in enumerate(split.indices_N.tolist())
    }
    found = [place[part, index] for index in indices]
    return torch.stack([image for image, _ in found]), torch.stack([label for _, label in found])


def fingerprint(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Identity, time and content of every file."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, sha256_file(path))
        for path in sorted(directory.iterdir())
    }
