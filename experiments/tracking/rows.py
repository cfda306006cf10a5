"""Rows of a run's tables as MLflow's params, metrics and tags, within its limits. Pure functions, no MLflow here."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pandas as pd
import yaml

from nas.baselines import BASELINE
from nas.tables import PREDICTED, UNMEASURED

LARGEST_PARAM = 6_000
LARGEST_TAG = 5_000
LARGEST_KEY = 250
LARGEST_GENES = 90  # a call takes 100 params, and the labels need some

# Column of the table -> name of the metric. MLflow sorts by name, so what belongs together starts alike.
_EVALUATION_METRICS = {
    "accuracy": "accuracy",
    "accuracy_low": "accuracy_low",
    "accuracy_high": "accuracy_high",
    "latency_predicted_ms": "latency_predicted_ms",
    "latency_predicted_low_ms": "latency_predicted_low_ms",
    "latency_predicted_high_ms": "latency_predicted_high_ms",
    "macs": "macs",
    "params": "params",
    "seconds": "seconds",
}
_VERIFICATION_METRICS = {
    "accuracy": "verify_accuracy",
    "accuracy_low": "verify_accuracy_low",
    "accuracy_high": "verify_accuracy_high",
    "accuracy_inherited": "accuracy_inherited",
    "latency_ms": "latency_ms",
    "latency_low_ms": "latency_low_ms",
    "latency_high_ms": "latency_high_ms",
    "suspect": "suspect",
    "macs": "macs",
    "params": "params",
}
_FURTHER_METRICS = {
    column: name for column, name in _VERIFICATION_METRICS.items() if column.startswith(("latency", "suspect"))
}
_LABELS = ("arch_id", "weights_kind", "weights", "precision", "device_id", "metric")


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """What is shown of one candidate.

    Attributes:
        candidate_id: its key.
        name: short name for the list of runs.
        params: genes and labels; they never change.
        metrics: finite numbers only.
        tags: labels that may change, such as "verified".
        timestamp_ms: when it was evaluated first.
    """

    candidate_id: str
    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    timestamp_ms: int


def candidate_records(evaluations: pd.DataFrame, verifications: pd.DataFrame) -> list[CandidateRecord]:
    """One record a candidate, in the order in which they were evaluated; the newest row of a candidate counts.

    What was verified on another device than the one that it was evaluated for is shown as "metric/device".
    """
    records: dict[str, CandidateRecord] = {}
    verified: dict[str, dict[object, dict[str, object]]] = {}
    for row in _rows(verifications):
        verified.setdefault(str(row["candidate_id"]), {})[row.get("device_id")] = row
    evaluated = {str(row["candidate_id"]): row for row in _rows(evaluations)}
    for candidate_id in dict.fromkeys([*evaluated, *verified]):
        evaluation, on_devices = evaluated.get(candidate_id, {}), verified.get(candidate_id, {})
        own = evaluation.get("device_id", next(iter(on_devices), None))
        verification = on_devices.get(own, {})
        row = evaluation or verification
        genes = _genes(row.get("architecture"))
        # NaN where nothing was measured: a predicted latency has its own name and never this one.
        metrics = _metrics(evaluation, names=_EVALUATION_METRICS) | _metrics(verification, names=_VERIFICATION_METRICS)
        for device_id, further in on_devices.items():
            if device_id != own:
                found = _metrics(further, names=_FURTHER_METRICS)
                metrics |= {metric_name(f"{name}/{device_id}"): value for name, value in found.items()}
        provenance = str(verification.get("provenance", ""))
        # Without its latency a candidate is no point of the verified front.
        measured = verification and provenance not in (UNMEASURED, PREDICTED)
        tags = {"archsmith.verified": "yes" if measured else "no"}
        if verification:
            tags["archsmith.provenance"] = provenance
        records[candidate_id] = CandidateRecord(
            candidate_id=candidate_id,
            name=f"{_name(row, genes=genes) or candidate_id} {row.get('weights_kind', '')}".strip(),
            params=genes | {key: str(row[key]) for key in _LABELS if key in row},
            metrics=metrics,
            tags=tags,
            timestamp_ms=_timestamp_ms(row.get("utc_time")),
        )
    return list(records.values())


def recipe_params(recipe_yaml: str) -> dict[str, str]:
    """The recipe as dotted key -> text."""
    return {key: _short(value, limit=LARGEST_PARAM) for key, value in _flat(yaml.safe_load(recipe_yaml)).items()}


def finite(values: Mapping[str, object], *, prefix: str = "") -> dict[str, float]:
    """The finite numbers among `values`, under names that MLflow accepts. A missing or failed value shows nothing."""
    metrics: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, bool | int | float) and math.isfinite(value):
            metrics[metric_name(prefix + key)] = float(value)
    return metrics


def metric_name(name: str) -> str:
    """`name` with everything that MLflow refuses in a key replaced by an underscore."""
    # MLflow treats a key as a path, which must be relative and in normal form: no empty, "." or ".." part.
    cleaned = re.sub(r"[^\w .:/-]", "_", name)
    parts = [part for part in cleaned[:LARGEST_KEY].split("/") if part.strip(". ")]
    return "/".join(parts) or "_"


def short_tag(value: object) -> str:
    """`value` as text within the length of a tag."""
    return _short(value, limit=LARGEST_TAG)


def _rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _metrics(row: Mapping[str, object], *, names: Mapping[str, str]) -> dict[str, float]:
    return finite({name: _plain(row[column]) for column, name in names.items() if column in row})


def _plain(value: object) -> object:
    """A numpy scalar as the Python number it is; pandas' NA as None."""
    if value is None or value is pd.NA:
        return None
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def _name(row: Mapping[str, object], *, genes: Mapping[str, str]) -> object:
    """An architecture's id, a baseline's own name; None if the row has neither."""
    return genes.get("name") if row.get("weights_kind") == BASELINE else row.get("arch_id")


def _genes(architecture: object) -> dict[str, str]:
    if not isinstance(architecture, str):
        return {}
    content = json.loads(architecture)
    params = {"space": str(content["space"])}
    params |= {metric_name(str(gene)): str(value) for gene, value in content["genes"].items()}
    if len(params) > LARGEST_GENES:
        # A space with very many genes: one text says them all, and no call grows beyond its limits.
        return {"space": params["space"], "architecture": _short(architecture, limit=LARGEST_PARAM)}
    return params


def _flat(value: object, *, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= _flat(inner, prefix=f"{prefix}.{key}" if prefix else str(key))
    return flat


def _short(value: object, *, limit: int) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _timestamp_ms(utc_time: object) -> int:
    if not isinstance(utc_time, str):
        return 0
    return int(datetime.fromisoformat(utc_time).timestamp() * 1000)
