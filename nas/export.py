"""Export: a candidate becomes files that anybody can run, with a card whose numbers were found with those files."""

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardware.artifacts.artifact import Artifact
from hardware.errors import StorageError
from hardware.files import (
    JSON,
    MANIFEST_NAME,
    has_manifest,
    read_json,
    read_manifest,
    sha256_file,
    write_json,
    write_manifest,
    write_text,
)
from hardware.measurement import CostMeasurement
from nas.accuracy import Accuracy
from nas.candidate import Candidate
from nas.card import CARD_SCHEMA, accuracy_entry, card_text, latency_entry
from nas.deployment import Comparison
from nas.errors import InfeasibleError, RunError
from nas.formats import EXPORT, further_formats, write_format
from nas.materialise import Workbench
from nas.measure import host_slowdown, measure_artifacts
from nas.objectives import Limit
from nas.pareto import FrontPoint, ParetoFront
from nas.run import utc_now
from nas.tables import PREDICTED
from nas.training.checkpoints import save_tensors
from nas.training.finished import WEIGHTS_FILE

CARD_FILE, CARD_TEXT_FILE, SPLIT_FILE = "card.json", "card.md", "report_split.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A finished export.

    Attributes:
        directory: holds the model files, weights, card and manifest.
        model_path: the file to deploy on the run's own device.
        format_paths: further files by format and precision, "onnx-int8" for example.
        candidate_id: what was exported.
        card: content of card.json.
    """

    directory: Path
    model_path: Path
    format_paths: Mapping[str, Path]
    candidate_id: str
    card: Mapping[str, JSON]


def choose_point(
    front: ParetoFront, *, verified: Sequence[FrontPoint], arch_id: str | None, limits: Sequence[Limit] = ()
) -> FrontPoint:
    """The front's knee, or the most accurate verified candidate of an architecture.

    Args:
        front: the verified front.
        verified: every verified candidate, on the front or behind it.
        arch_id: which architecture, whatever the limits are; None for the knee.
        limits: that the front keeps to.

    Raises:
        RunError: nothing is verified yet, or the architecture is not (those that are, are listed).
        InfeasibleError: no verified candidate is within the limits.
    """
    if front.split != "verify" and verified and limits and arch_id is None:
        fastest = verified[0]
        raise InfeasibleError(
            f"no verified candidate is within {', '.join(str(limit) for limit in limits)}; the fastest, "
            f"{fastest.arch_id}, has {fastest.latency_ms:.4g} ms ({fastest.provenance}), {fastest.macs:,} MACs and "
            f"{fastest.params:,} parameters",
            hint="raise search.limits, or search again: `nas run RECIPE` evaluates and verifies what is missing",
        )
    if front.split != "verify" and (arch_id is None or not verified):
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
    formats: Sequence[str] = (),
) -> Exported:
    """Write model, weights and card; reopen the model, compare, evaluate on `report` and measure before it counts.

    The manifest lands last, so a directory without one is no export. A second call makes what is missing: formats that
    were not asked for before. Each joins the card as soon as everything is known about it.

    Args:
        bench: makes and runs artifacts.
        point: the candidate's row of the verified front.
        candidate: what to export.
        protocol: measurement protocol.
        seed: order of measuring.
        on_progress: called with (rounds done, most rounds) of each measurement.
        formats: files beside that of the run's own device, see `nas.formats.FileFormat.parse`.

    Raises:
        ExportError: a file's outputs differ from the network's.
        DeviceError: a device is unavailable or busy, or nothing writes one of the formats. What can be told at once is
            told before anything is written.
        MeasurementError: a format does not know an operator of the network, or a device refuses it.
        StorageError: a file of the finished export is missing or damaged.
    """
    directory = bench.run.export_dir / candidate.candidate_id
    card = _known_card(directory)
    known = _formats(card)
    missing = [one for one in further_formats(formats, device=bench.device) if one.key not in known]
    devices = [one.device(like=bench.device) for one in missing]
    if card is None:
        card = _export_own(
            bench,
            point=point,
            candidate=candidate,
            directory=directory,
            protocol=protocol,
            seed=seed,
            on_progress=on_progress,
        )
    if not has_manifest(directory):
        _finish(bench, candidate, directory=directory, card=card)
    for one, device in zip(missing, devices, strict=True):
        entry = write_format(
            bench.on(device), candidate, directory=directory, protocol=protocol, seed=seed, on_progress=on_progress
        )
        card = {**card, "formats": {**_formats(card), one.key: entry}}
        _finish(bench, candidate, directory=directory, card=card)
    return Exported(
        directory=directory,
        model_path=directory / f"model.{bench.device.backend.artifact_format}",
        format_paths={key: directory / str(entry["file"]) for key, entry in _formats(card).items()},
        candidate_id=candidate.candidate_id,
        card=card,
    )


def _export_own(
    bench: Workbench,
    *,
    point: FrontPoint,
    candidate: Candidate,
    directory: Path,
    protocol: str,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, JSON]:
    """Write the model file of the run's own device, find out everything about it, and return the card."""
    if directory.exists():
        shutil.rmtree(directory)  # an export that was broken off
    with bench.computing():
        artifact = bench.build(candidate, directory / f"model.{bench.device.backend.artifact_format}")
        comparison = bench.compare(candidate, artifact, bench.data.report)
        accuracy = bench.accuracy(artifact, bench.data.report)
    measured = measure_artifacts(
        bench,
        {candidate: artifact},
        purposes={candidate: EXPORT},
        protocol=protocol,
        seed=seed,
        on_round=on_progress,
    )[candidate.candidate_id]
    return _card(
        bench,
        point=point,
        artifact=artifact,
        comparison=comparison,
        accuracy=accuracy,
        measured=measured,
        slowdown=host_slowdown(bench, measured, earlier_id=_verified_by(bench, candidate)),
    )


def _finish(bench: Workbench, candidate: Candidate, *, directory: Path, card: Mapping[str, JSON]) -> None:
    """Write everything around the model files, and the manifest.

    An old manifest goes first. The weights and the split, which are written next, are the same as before, and writing
    them flushes the directory: when the card changes, the old manifest is gone for good. From then on the card knows
    all that was found out, so whatever happens before the new manifest is there, nothing has to be done again.
    """
    (directory / MANIFEST_NAME).unlink(missing_ok=True)
    models, report = _model_files(card), bench.data.report
    for path in directory.glob("model.*"):
        if path.name not in models:
            path.unlink()  # left by a call that was broken off before the card knew the file
    save_tensors(directory / WEIGHTS_FILE, bench.network(candidate).state_dict())
    split: dict[str, JSON] = {
        "dataset": bench.data.name,
        "part": report.part,
        "indices": report.indices_N.tolist(),
    }
    write_json(directory / SPLIT_FILE, split)
    write_json(directory / CARD_FILE, card)
    write_text(directory / CARD_TEXT_FILE, card_text(card))
    files = [*models, WEIGHTS_FILE, SPLIT_FILE, CARD_FILE, CARD_TEXT_FILE]
    write_manifest(directory, files=files, details=card)


def _known_card(directory: Path) -> dict[str, JSON] | None:
    """The card of an export that is finished, or was broken off when only the manifest was missing; else None.

    Raises:
        StorageError: a file of a finished export is missing or damaged.
    """
    if has_manifest(directory):
        return dict(read_manifest(directory).details)
    try:
        card = read_json(directory / CARD_FILE)
        whole = isinstance(card, dict) and all(
            sha256_file(directory / name) == sha256 for name, sha256 in _model_files(card).items()
        )
    # No card, or a file of it is missing: an export that was broken off earlier.
    except (StorageError, KeyError):
        return None
    return dict(card) if whole and isinstance(card, dict) else None


def _model_files(card: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 by name of every model file that a card describes."""
    entries = [card["model"], *_formats(card).values()]
    return {entry["file"]: entry["sha256"] for entry in entries}


def _formats(card: Mapping[str, Any] | None) -> Mapping[str, Mapping[str, JSON]]:
    """What a card says about files beside that of the run's own device, by "<format>-<precision>"."""
    formats: Mapping[str, Mapping[str, JSON]] = {} if card is None else card.get("formats", {})
    return formats


def _own_version() -> str:
    try:
        return version("archsmith")
    except PackageNotFoundError:
        return "not installed, run from its source tree"


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
            # What was not measured is promised, and nothing else.
            "verified": None
            if point.provenance == PREDICTED
            else {
                "p50_ms": point.latency_ms,
                "interval_ms": list(point.latency_interval_ms),
                "provenance": point.provenance,
                "suspect": point.suspect,
            },
            "exported": latency_entry(measured),
            # the same reference network in both sessions: 1.5 means that the host was 1.5 times slower at export
            "host_slowdown_since_verified": slowdown if np.isfinite(slowdown) else None,
        },
        "comparison": asdict(comparison),
        "formats": {},
        "versions": {
            "archsmith": _own_version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "utc_time": utc_now(),
    }
