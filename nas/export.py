"""Export: a candidate becomes files that anybody can run, with a card whose numbers were found with those files."""

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from hardware.artifacts.artifact import Artifact
from hardware.files import JSON, has_manifest, read_manifest, write_json, write_manifest, write_text
from hardware.measurement import CostMeasurement
from nas.accuracy import Accuracy
from nas.candidate import Candidate
from nas.card import CARD_SCHEMA, Comparison, accuracy_entry, card_text, latency_entry
from nas.errors import ExportError, RunError
from nas.materialise import Workbench
from nas.measure import host_slowdown, measure_artifacts
from nas.pareto import FrontPoint, ParetoFront
from nas.run import utc_now
from nas.training.checkpoints import WEIGHTS_FILE, save_tensors

CARD_FILE, CARD_TEXT_FILE, SPLIT_FILE = "card.json", "card.md", "report_split.json"

_COMPARED_IMAGES = 64
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A finished export.

    Attributes:
        directory: holds the model file, weights, card and manifest.
        model_path: the file to deploy.
        candidate_id: what was exported.
        card: content of card.json.
    """

    directory: Path
    model_path: Path
    candidate_id: str
    card: Mapping[str, JSON]


def choose_point(front: ParetoFront, *, verified: Sequence[FrontPoint], arch_id: str | None) -> FrontPoint:
    """The front's knee, or the most accurate verified candidate of an architecture.

    Args:
        front: the verified front.
        verified: every verified candidate, on the front or behind it.
        arch_id: which architecture; None for the knee.

    Raises:
        RunError: nothing is verified yet, or the architecture is not (those that are, are listed).
    """
    if front.split != "verify":
        raise RunError("there is no verified front to export from", hint="run `nas verify RUN` first")
    if arch_id is None:
        return front.knee()
    if points := [point for point in verified if point.arch_id == arch_id]:
        return max(points, key=lambda point: (point.accuracy, -point.latency_ms))
    raise RunError(
        f"architecture {arch_id!r} is not among the verified ones",
        hint=f"these are: {', '.join(dict.fromkeys(point.arch_id for point in verified))}",
    )


def export_candidate(
    bench: Workbench,
    *,
    point: FrontPoint,
    candidate: Candidate,
    protocol: str,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> Exported:
    """Write model, weights and card; reopen the model, compare, evaluate on `report` and measure before it counts.

    The manifest lands last, so a directory without one is no export. A second call returns the finished one.

    Args:
        bench: makes and runs artifacts.
        point: the candidate's row of the verified front.
        candidate: what to export.
        protocol: measurement protocol.
        seed: order of measuring.
        on_progress: called with (rounds done, most rounds) of the measurement.

    Raises:
        ExportError: the file's outputs differ from the network's.
        DeviceError: the device is unavailable or busy.
    """
    directory = bench.run.export_dir / candidate.candidate_id
    model_path = directory / f"model.{bench.device.backend.artifact_format}"
    if has_manifest(directory):
        card = read_manifest(directory).details
        return Exported(directory=directory, model_path=model_path, candidate_id=candidate.candidate_id, card=card)
    if directory.exists():
        shutil.rmtree(directory)  # an export that was broken off
    with bench.computing():
        artifact = bench.build(candidate, model_path)
        comparison = _compare(bench, candidate, artifact)
        accuracy = bench.accuracy(artifact, bench.data.report)
    measured = measure_artifacts(
        bench,
        {candidate: artifact},
        purposes={candidate: "export"},
        protocol=protocol,
        seed=seed,
        on_round=on_progress,
    )[candidate.candidate_id]
    slowdown = host_slowdown(bench, measured, earlier_id=_verified_by(bench, candidate))
    card = _card(
        bench,
        point=point,
        artifact=artifact,
        comparison=comparison,
        accuracy=accuracy,
        measured=measured,
        slowdown=slowdown,
    )
    save_tensors(directory / WEIGHTS_FILE, bench.network(candidate).state_dict())
    report, run_name = bench.data.report, bench.run.info.name
    split: dict[str, JSON] = {
        "dataset": bench.data.name,
        "part": report.part,
        "indices": report.indices_N.tolist(),
    }
    write_json(directory / SPLIT_FILE, split)
    write_json(directory / CARD_FILE, card)
    write_text(
        directory / CARD_TEXT_FILE,
        card_text(run_name, point=point, report=accuracy, exported=measured, comparison=comparison, slowdown=slowdown),
    )
    files = [model_path.name, WEIGHTS_FILE, SPLIT_FILE, CARD_FILE, CARD_TEXT_FILE]
    write_manifest(directory, files=files, details=card)
    return Exported(directory=directory, model_path=model_path, candidate_id=candidate.candidate_id, card=card)


def _own_version() -> str:
    try:
        return version("archsmith")
    except PackageNotFoundError:
        return "not installed, run from its source tree"


def _compare(bench: Workbench, candidate: Candidate, artifact: Artifact) -> Comparison:
    """Run the reopened file and the PyTorch network on the same real images."""
    images_NCHW, batch = bench.data.report.inputs, bench.device.spec.batch
    # Whole batches only; where a batch is larger than the split, images repeat.
    num = max(1, min(_COMPARED_IMAGES, len(images_NCHW)) // batch) * batch
    images_NCHW = images_NCHW[torch.arange(num) % len(images_NCHW)]
    session = bench.device.backend.load(artifact, spec=bench.device.spec)
    try:
        outputs = [session.predict(np.ascontiguousarray(x_NCHW.float().numpy())) for x_NCHW in images_NCHW.split(batch)]
    finally:
        session.close()
    with torch.no_grad():
        expected_NC = bench.deployable(candidate)(images_NCHW)
    difference = float((torch.from_numpy(np.concatenate(outputs)) - expected_NC).abs().max())
    relative = difference / float(expected_NC.abs().max())
    if not relative <= _TOLERANCE:
        raise ExportError(
            f"the outputs of {artifact.path} differ from PyTorch's by {difference:.3g} (relative {relative:.3g}, "
            f"allowed {_TOLERANCE:g})",
            hint="do not deploy the file; report the architecture and the runtime's version",
        )
    return Comparison(num_images=len(images_NCHW), max_difference=difference, max_relative_difference=relative)


def _verified_by(bench: Workbench, candidate: Candidate) -> str:
    """Id of the measurement that the candidate's place on the front rests on."""
    rows = bench.run.verifications()
    rows = rows[(rows["candidate_id"] == candidate.candidate_id) & (rows["device_id"] == bench.device.spec.device_id)]
    return str(rows["measurement_id"].iloc[-1]) if len(rows) else ""


def _card(
    bench: Workbench,
    *,
    point: FrontPoint,
    artifact: Artifact,
    comparison: Comparison,
    accuracy: Accuracy,
    measured: CostMeasurement,
    slowdown: float,
) -> dict[str, JSON]:
    run, data = bench.run, bench.data
    promised = point.to_json()
    return {
        "schema": CARD_SCHEMA,
        "name": run.info.name,
        "run_id": run.info.run_id,
        "recipe_sha256": run.info.recipe_sha256,
        "space": run.info.space,
        "space_id": run.space.space_id,
        "arch_id": point.arch_id,
        "candidate": point.candidate,
        "architecture": point.architecture,
        "weights_kind": point.weights_kind,
        "precision": measured.precision,
        "device_id": measured.device_id,
        "macs": point.macs,
        "params": point.params,
        "model": {
            "file": artifact.path.name,
            "format": artifact.format,
            "sha256": artifact.sha256,
            "size_bytes": artifact.size_bytes,
            "input": {"name": "image", "shape": list(artifact.input_shape), "dtype": artifact.input_dtype},
            "output": {"name": "logits", "shape": list(artifact.output_shape)},
            "preprocessing": {
                "mean": list(data.preprocessing.mean),
                "std": list(data.preprocessing.std),
                "inside_the_file": True,
            },
        },
        "classes": list(data.class_names),
        "data": {"name": data.name, "source_sha256": data.source_sha256, "report_split": SPLIT_FILE},
        "accuracy": {
            "metric": accuracy.metric,
            "search": promised["accuracy_search"],
            "search_inherited": promised["accuracy_inherited"],
            "verify": {"value": point.accuracy, "interval": list(point.accuracy_interval)},
            "report": accuracy_entry(accuracy),
        },
        "latency": {
            "predicted_ms": point.latency_predicted_ms,
            "verified": {"p50_ms": point.latency_ms, "interval_ms": list(point.latency_interval_ms)},
            "exported": latency_entry(measured),
            # the same reference network in both sessions: 1.5 means that the host was 1.5 times slower at export
            "host_slowdown_since_verified": slowdown if np.isfinite(slowdown) else None,
        },
        "comparison": asdict(comparison),
        "versions": {
            "archsmith": _own_version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "utc_time": utc_now(),
    }
