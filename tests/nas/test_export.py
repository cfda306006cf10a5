"""Exports: the contract on ONNX Runtime, the choice of the point, and files that do not do what they should."""

import importlib.util
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hardware.artifacts.artifact import Artifact
from hardware.device import Device, DeviceSpec, get_device
from hardware.errors import DeviceError, StorageError
from hardware.files import has_manifest, read_json, read_manifest, sha256_file
from nas.accuracy import predict_classes
from nas.candidate import Candidate
from nas.data import DataSplits
from nas.errors import ExportError, InfeasibleError, RunError
from nas.export import Exported, choose_point, export_candidate
from nas.objectives import Limit
from nas.pareto import FrontPoint
from nas.testing import ExportCase, ExporterContract, fingerprint
from tests.fakes.devices import FlakyBackend, FlakySession
from tests.nas.tiny_run import (
    TinyRun,
    candidate_of,
    copy_run,
    ignore,
    make_bench,
    make_front,
    make_point,
    open_tiny_run,
)


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
    shutil.rmtree(run.measurements_table("onnxruntime-cpu").directory)
    data = replace(data, report=data.report.first(40))
    in_batches = Device(spec=replace(device.spec, batch=48), backend=device.backend)
    case = make_case(run, data=data, device=in_batches, fine_tuned=False)
    exported = TestExportToOnnx().export(case)
    card: Any = exported.card
    assert card["model"]["input"]["shape"] == [48, 1, 8, 8]
    assert card["comparison"]["num_images"] == 40
    assert card["latency"]["exported"]["batch"] == 48
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


def test_limits_that_nothing_verified_meets_are_answered_with_what_is_reached() -> None:
    points, limits = front(), [Limit(name="latency_ms", value=0.5, unit="ms")]
    empty = make_front([], provenance="none", split="search")
    with pytest.raises(InfeasibleError, match=r"within latency_ms <= 0.5 ms; the fastest, .* has 1 ms \(measured\)"):
        choose_point(empty, verified=points, arch_id=None, limits=limits)
    # A name is a decision.
    assert choose_point(empty, verified=points, arch_id=points[3].arch_id, limits=limits) is points[3]


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


def export_to(case: ExportCase, *formats: str, steps: list[tuple[int, int]] | None = None) -> Exported:
    """Export the case's candidate in further formats; `steps` collects the progress of measuring."""
    return export_candidate(
        case.bench,
        point=case.point,
        candidate=case.candidate,
        protocol="quick",
        seed=0,
        on_progress=lambda done, total: None if steps is None else steps.append((done, total)),
        formats=formats,
    )


@dataclass(frozen=True)
class InFormats:
    """A run whose fine-tuned candidate was exported for its own device and in two further formats."""

    case: ExportCase
    exported: Exported

    @property
    def card(self) -> Any:
        return self.exported.card

    def copy(self, path: Path, *, data: DataSplits, device: Device) -> "InFormats":
        """A copy that a test may change, and its export."""
        shutil.copytree(self.case.bench.run.path, path)
        run = open_tiny_run(path)
        case = replace(self.case, bench=make_bench(run, data=data, device=device))
        directory = run.export_dir / self.exported.candidate_id
        return InFormats(case=case, exported=replace(self.exported, directory=directory))


@pytest.fixture(scope="module")
def in_formats(
    tmp_path_factory: pytest.TempPathFactory, verified: TinyRun, data: DataSplits, device: Device
) -> InFormats:
    pytest.importorskip("openvino")
    run = copy_run(verified, tmp_path_factory.mktemp("formats") / "run")
    case = make_case(run, data=data, device=device, fine_tuned=True)
    # "onnx" is what the run's own device writes anyway
    return InFormats(case=case, exported=export_to(case, "onnx", "onnx-int8", "openvino", "onnx-int8"))


def test_further_formats_lie_beside_the_run_devices_file(in_formats: InFormats) -> None:
    directory = in_formats.exported.directory
    models = {"model.onnx", "model.int8.onnx", "model.fp32.openvino.zip"}
    assert {path.name for path in directory.glob("model.*")} == models
    assert set(read_manifest(directory).files) == {path.name for path in directory.iterdir()} - {"manifest.json"}
    assert read_json(directory / "card.json") == in_formats.card == read_manifest(directory).details
    assert in_formats.exported.model_path == directory / "model.onnx"
    assert in_formats.exported.format_paths == {
        "onnx-int8": directory / "model.int8.onnx",
        "openvino-fp32": directory / "model.fp32.openvino.zip",
    }


def answers_of_onnx(path: Path, data: DataSplits) -> NDArray[np.int64]:
    """Classes of the report split, by a runtime that knows nothing of us."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.array([session.run(None, {"image": x[None].float().numpy()})[0].argmax() for x in data.report.inputs])


def answers_of_openvino(path: Path, data: DataSplits) -> NDArray[np.int64]:
    import openvino

    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        model = openvino.Core().read_model(archive.read("model.xml"), archive.read("model.bin"))
    network = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array([network([x[None].float().numpy()])[0].argmax() for x in data.report.inputs])


@pytest.mark.parametrize(("key", "answers"), [("onnx-int8", answers_of_onnx), ("openvino-fp32", answers_of_openvino)])
def test_a_format_has_the_accuracy_that_its_own_file_has_in_its_own_runtime(
    in_formats: InFormats, data: DataSplits, key: str, answers: Callable[[Path, DataSplits], NDArray[np.int64]]
) -> None:
    entry = in_formats.card["formats"][key]
    correct = int((answers(in_formats.exported.format_paths[key], data) == data.report.labels_N.numpy()).sum())
    found = entry["accuracy"]
    assert (found["num_correct"], found["num_images"]) == (correct, len(data.report))
    assert found["value"] == pytest.approx(correct / len(data.report))
    assert found["interval"][0] <= found["value"] <= found["interval"][1]


def test_a_format_is_described_and_compared_by_its_precision(in_formats: InFormats) -> None:
    for key, precision, device_id in (
        ("onnx-int8", "int8", "onnxruntime-cpu-int8"),
        ("openvino-fp32", "fp32", "openvino-cpu"),
    ):
        entry, path = in_formats.card["formats"][key], in_formats.exported.format_paths[key]
        assert (entry["file"], entry["sha256"], entry["size_bytes"]) == (
            path.name,
            sha256_file(path),
            path.stat().st_size,
        )
        assert (entry["precision"], entry["device"]) == (precision, device_id)
        assert entry["candidate"] == f"{in_formats.exported.candidate_id.removesuffix('-fp32')}-{precision}"
        assert entry["versions"] == get_device(device_id).backend.versions()
    int8, fp32 = (in_formats.card["formats"][key]["comparison"] for key in ("onnx-int8", "openvino-fp32"))
    assert fp32["max_relative_difference"] <= 1e-4 < int8["max_relative_difference"]
    assert 0.8 <= int8["same_answers"] <= fp32["same_answers"] == 1.0
    assert in_formats.card["precision"] == "fp32"
    assert in_formats.card["comparison"]["max_relative_difference"] <= 1e-4


def test_every_file_is_measured_in_its_own_runtime_and_recorded(in_formats: InFormats) -> None:
    rows = in_formats.case.bench.run.measurements().query("purpose == 'export'")
    assert rows["device_id"].tolist() == ["onnxruntime-cpu", "onnxruntime-cpu-int8", "openvino-cpu"]
    for key in ("onnx-int8", "openvino-fp32"):
        entry = in_formats.card["formats"][key]
        (row,) = rows[rows["device_id"] == entry["device"]].to_dict("records")
        cost = entry["cost"]
        assert (row["artifact_sha256"], row["candidate_id"]) == (entry["sha256"], entry["candidate"])
        assert (row["p50"], row["unit"], row["provenance"]) == (cost["p50"], cost["unit"], cost["provenance"])
        assert (cost["quantity"], cost["unit"], cost["provenance"]) == ("latency", "ms", "measured")
        assert 0 < cost["interval"][0] <= cost["p50"] <= cost["interval"][1]


def test_the_card_for_people_has_a_section_for_each_format(in_formats: InFormats) -> None:
    text = (in_formats.exported.directory / "card.md").read_text(encoding="utf-8")
    first, *sections = text.split("\n## ")
    assert "**this file, measured again**" in first
    for section, (key, entry) in zip(sections, in_formats.card["formats"].items(), strict=True):
        assert section.startswith(f"{key}: `{entry['file']}`\n")
        assert f"{entry['accuracy']['value']:.2%}" in section
        assert f"latency on {entry['device']}" in section
        assert f"{entry['cost']['p50']:.4f} ms" in section
        assert f"{entry['comparison']['same_answers']:.1%} equal answers" in section


def test_a_second_call_for_formats_that_are_there_does_nothing(in_formats: InFormats) -> None:
    before = fingerprint(in_formats.exported.directory)
    num_measured = len(in_formats.case.bench.run.measurements())
    steps: list[tuple[int, int]] = []
    for formats in ((), ("openvino",), ("onnx-int8", "openvino-fp32", "onnx-fp32")):
        assert export_to(in_formats.case, *formats, steps=steps) == in_formats.exported
    assert fingerprint(in_formats.exported.directory) == before
    assert len(in_formats.case.bench.run.measurements()) == num_measured
    assert steps == []


def test_formats_that_are_there_need_no_runtime_any_more(
    in_formats: InFormats, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package("openvino", monkeypatch)
    assert export_to(in_formats.case, "openvino") == in_formats.exported


def test_a_later_call_adds_what_is_missing_and_leaves_the_rest(
    in_formats: InFormats, tmp_path: Path, data: DataSplits, device: Device
) -> None:
    later = in_formats.copy(tmp_path / "run", data=data, device=device)
    before = fingerprint(later.exported.directory)
    num_measured = len(later.case.bench.run.measurements())
    exported = export_to(later.case, "openvino-int8", "onnx-int8")
    card: Any = exported.card
    assert list(card["formats"]) == ["onnx-int8", "openvino-fp32", "openvino-int8"]
    assert {key: card["formats"][key] for key in in_formats.card["formats"]} == in_formats.card["formats"]
    assert {**card, "formats": {}} == {**in_formats.card, "formats": {}}
    assert len(later.case.bench.run.measurements()) == num_measured + 1
    after = fingerprint(exported.directory)
    models = ["model.onnx", "model.int8.onnx", "model.fp32.openvino.zip"]
    assert [after[name] for name in models] == [before[name] for name in models]
    assert set(read_manifest(exported.directory).files) == {*before, "model.int8.openvino.zip"} - {"manifest.json"}


@pytest.mark.parametrize(
    ("writer", "is_known"),
    [("save_tensors", False), ("write_json", False), ("write_text", True), ("write_manifest", True)],
)
def test_an_export_that_is_broken_off_while_a_format_joins_loses_nothing_that_was_there(
    in_formats: InFormats,
    tmp_path: Path,
    data: DataSplits,
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    is_known: bool,
) -> None:
    later = in_formats.copy(tmp_path / "run", data=data, device=device)
    directory = later.exported.directory
    models = {name: value for name, value in fingerprint(directory).items() if name.startswith("model.")}

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"nas.export.{writer}", killed)
        with pytest.raises(KeyboardInterrupt):
            export_to(later.case, "openvino-int8")
    assert not has_manifest(directory)
    num_measured = len(later.case.bench.run.measurements())
    steps: list[tuple[int, int]] = []
    exported = export_to(later.case, steps=steps)
    card: Any = exported.card
    assert steps == []
    assert len(later.case.bench.run.measurements()) == num_measured
    assert ("openvino-int8" in card["formats"]) == is_known
    assert set(in_formats.card["formats"]) <= set(card["formats"])
    assert read_manifest(directory).details == card == read_json(directory / "card.json")
    after = fingerprint(directory)
    assert {name: value for name, value in after.items() if name in models} == models
    assert set(read_manifest(directory).files) == set(after) - {"manifest.json"}


def test_a_model_file_that_is_not_the_cards_makes_a_broken_off_export_begin_anew(
    in_formats: InFormats, tmp_path: Path, data: DataSplits, device: Device
) -> None:
    later = in_formats.copy(tmp_path / "run", data=data, device=device)
    (later.exported.directory / "manifest.json").unlink()
    (later.exported.directory / "model.int8.onnx").write_bytes(b"half of a mod")
    steps: list[tuple[int, int]] = []
    exported = export_to(later.case, steps=steps)
    assert exported.card["formats"] == {}
    assert steps
    assert "model.int8.onnx" not in {path.name for path in exported.directory.iterdir()}


def test_a_damaged_format_is_refused_with_the_name_of_its_file(
    in_formats: InFormats, tmp_path: Path, data: DataSplits, device: Device
) -> None:
    later = in_formats.copy(tmp_path / "run", data=data, device=device)
    path = later.exported.directory / "model.int8.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"model\.int8\.onnx is damaged") as caught:
        export_to(later.case, "openvino-int8")
    assert caught.value.hint


class ConfusedBackend(FlakyBackend):
    """A runtime that answers with the least likely class."""

    def load(self, artifact: Artifact, *, spec: DeviceSpec) -> "ConfusedSession":
        return ConfusedSession(super().load(artifact, spec=spec), backend=self)


class ConfusedSession(FlakySession):
    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return -super().predict(x)


def test_an_int8_file_with_other_answers_joins_no_export(
    in_formats: InFormats, tmp_path: Path, data: DataSplits, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = in_formats.copy(tmp_path / "run", data=data, device=device)
    before = fingerprint(later.exported.directory)
    num_measured = len(later.case.bench.run.measurements())

    def confused(device_id: str, *, threads: int, batch: int) -> Device:
        found = get_device(device_id, threads=threads, batch=batch)
        return replace(found, backend=ConfusedBackend(found.backend))

    monkeypatch.setattr("nas.formats.get_device", confused)
    with pytest.raises(ExportError, match="gives PyTorch's answer for") as caught:
        export_to(later.case, "openvino-int8")
    assert caught.value.hint
    assert fingerprint(later.exported.directory) == before
    assert len(later.case.bench.run.measurements()) == num_measured


def without_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find(name: str, parent: str | None = None) -> object:
        return None if name == package else real(name, parent)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.parametrize(
    ("wanted", "words", "hint"),
    [
        ("abacus", "no backend writes 'abacus' files in 'fp32'", "--format onnx"),
        ("cmsis", "no backend writes 'cmsis' files in 'fp32'.*cmsis in int8", "--precision int8"),
        ("openvino-int8", "'openvino' files cannot be written in 'int8' here", "pip install"),
    ],
)
def test_a_format_that_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path,
    verified: TinyRun,
    data: DataSplits,
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    words: str,
    hint: str,
) -> None:
    without_package("openvino", monkeypatch)
    run = copy_run(verified, tmp_path / "run")
    case = make_case(run, data=data, device=device, fine_tuned=False)
    num_measured = len(run.measurements())
    with pytest.raises(DeviceError, match=words) as caught:
        export_to(case, "onnx-int8", wanted)
    assert hint in caught.value.hint
    assert not run.export_dir.exists()
    assert len(run.measurements()) == num_measured


def test_a_device_that_counts_gives_a_count_with_its_unit(
    in_formats: InFormats, tmp_path: Path, data: DataSplits, device: Device
) -> None:
    later = in_formats.copy(tmp_path / "run", data=data, device=device)
    try:
        exported = export_to(later.case, "cmsis-int8")
    except DeviceError as e:
        pytest.skip(str(e))
    card: Any = exported.card
    entry = card["formats"]["cmsis-int8"]
    assert (entry["cost"]["quantity"], entry["cost"]["unit"]) == ("instructions", "instructions")
    assert entry["cost"]["provenance"] == "simulated"
    assert entry["cost"]["also"]["flash_bytes"] > 0
    # the largest subnet, which may not fit, is not counted along
    (row,) = later.case.bench.run.measurements_table(entry["device"]).read().to_dict("records")
    assert (row["device_id"], row["purpose"], row["p50"]) == (entry["device"], "export", entry["cost"]["p50"])
    assert f"{entry['cost']['p50']:,.0f}" in (exported.directory / "card.md").read_text(encoding="utf-8")


def test_a_run_on_an_int8_device_exports_its_int8_file_and_the_fp32_one_if_asked(
    tmp_path: Path, verified: TinyRun, data: DataSplits
) -> None:
    run = copy_run(verified, tmp_path / "run")
    bench = make_bench(run, data=data, device=get_device("onnxruntime-cpu-int8"))
    candidate = bench.inherit(candidate_of(run, run.front().knee()).architecture)
    point = make_point(
        arch_id=candidate.architecture.arch_id,
        candidate=candidate.candidate_id,
        architecture=candidate.architecture.to_json(),
    )
    exported = export_to(ExportCase(bench=bench, point=point, candidate=candidate), "onnx-int8", "onnx")
    card: Any = exported.card
    own, fp32 = card["accuracy"]["report"], card["formats"]["onnx-fp32"]["accuracy"]
    for name, found in (("model.onnx", own), ("model.fp32.onnx", fp32)):
        correct = int((answers_of_onnx(exported.directory / name, data) == data.report.labels_N.numpy()).sum())
        assert found["num_correct"] == correct
    assert (card["precision"], list(card["formats"])) == ("int8", ["onnx-fp32"])
    assert card["comparison"]["max_relative_difference"] > 1e-4
    assert card["formats"]["onnx-fp32"]["comparison"]["max_relative_difference"] <= 1e-4
    # no session of this device decided the front, so nothing is said about how the host was then
    assert card["latency"]["host_slowdown_since_verified"] is None
    assert "reference network ran" not in (exported.directory / "card.md").read_text(encoding="utf-8")
