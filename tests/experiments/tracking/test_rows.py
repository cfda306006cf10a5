"""Rows of the tables as MLflow takes them: names, lengths, missing values."""

import json
import math
import posixpath

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from experiments.tracking.connection import connect, find_place
from experiments.tracking.rows import (
    LARGEST_GENES,
    LARGEST_KEY,
    LARGEST_PARAM,
    LARGEST_TAG,
    candidate_records,
    finite,
    metric_name,
    recipe_params,
    short_tag,
)

COLUMNS = ["candidate_id", "arch_id", "architecture", "accuracy", "latency_ms", "suspect", "utc_time"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return connect(find_place(None, directory=tmp_path_factory.mktemp("mlflow")))


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return str(client.create_run("0").info.run_id)


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=COLUMNS)


def row(candidate_id: str, **changes: object) -> dict[str, object]:
    genes = {"resolution": 16, "stage1.depth": 2}
    return {
        "candidate_id": candidate_id,
        "arch_id": "abc",
        "architecture": json.dumps({"genes": genes, "space": "tiny"}),
        "accuracy": 0.5,
        "utc_time": "2026-01-02T03:04:05+00:00",
    } | changes


@given(st.text(max_size=400))
def test_every_text_becomes_a_short_relative_path(text: str) -> None:
    name = metric_name(text)
    assert 0 < len(name) <= LARGEST_KEY
    assert name == posixpath.normpath(name)
    assert not name.startswith(("/", ".."))


@pytest.mark.parametrize(
    "text", ["", ".", "..", "/", "a//b", "a/./b", "./a", "a/..", "x" * 300, "\u00e9 $%[0]", "a/", "\n"]
)
def test_every_name_is_one_that_mlflow_takes(text: str, client: MlflowClient, run_id: str) -> None:
    client.log_metric(run_id, metric_name(text), 1.0)
    client.log_param(run_id, metric_name(text), "1")
    assert metric_name(text) in client.get_run(run_id).data.metrics


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("latency_ms", "stage1.block2.kernel", "train/loss", "a b-c"):
        assert metric_name(name) == name


def test_only_finite_numbers_are_shown() -> None:
    values = {"a": 1, "b": True, "c": math.nan, "d": math.inf, "e": None, "f": "text", "g": 0.5}
    assert finite(values, prefix="x_") == {"x_a": 1.0, "x_b": 1.0, "x_g": 0.5}


def test_the_newest_row_of_a_candidate_counts_and_order_is_that_of_evaluation() -> None:
    evaluated = frame(row("b", accuracy=0.1), row("a"), row("b", accuracy=0.2))
    records = candidate_records(evaluated, frame(row("c"), row("a", accuracy=0.7, latency_ms=0.1, suspect=np.True_)))
    assert [record.candidate_id for record in records] == ["b", "a", "c"]
    assert records[0].metrics == {"accuracy": 0.2}
    assert records[0].params == {"space": "tiny", "resolution": "16", "stage1.depth": "2", "arch_id": "abc"}
    assert records[0].timestamp_ms == 1767323045000
    assert records[1].metrics == {"accuracy": 0.5, "verify_accuracy": 0.7, "latency_ms": 0.1, "suspect": 1.0}
    assert records[2].metrics == {"verify_accuracy": 0.5}
    assert records[2].tags["archsmith.verified"] == "yes"


def test_a_further_device_has_metrics_of_its_own() -> None:
    evaluated = pd.DataFrame([row("a", device_id="pi", latency_predicted_ms=2.0)])
    verified = pd.DataFrame(
        [
            row("a", device_id="pi", accuracy=0.7, latency_ms=2.1),
            row("a", device_id="watch", accuracy=0.6, latency_ms=9.0),
            row("b", device_id="watch", latency_ms=8.0),
        ]
    )
    first, second = candidate_records(evaluated, verified)
    assert first.metrics["latency_ms"] == 2.1
    assert first.metrics["verify_accuracy"] == 0.7
    assert first.metrics["latency_ms/watch"] == 9.0
    # Verified elsewhere only, for example in another precision: that device is its own.
    assert (second.candidate_id, second.metrics["latency_ms"]) == ("b", 8.0)


def test_a_latency_that_was_not_measured_is_never_shown_as_one() -> None:
    evaluated = frame(row("a")).assign(latency_predicted_ms=3.0)
    verified = frame(row("a", accuracy=0.7, latency_ms=float("nan"))).assign(provenance="predicted")
    (record,) = candidate_records(evaluated, verified)
    assert record.tags == {"archsmith.verified": "no", "archsmith.provenance": "predicted"}
    assert record.metrics["verify_accuracy"] == 0.7
    assert record.metrics["latency_predicted_ms"] == 3.0
    assert "latency_ms" not in record.metrics


def test_a_baseline_goes_by_its_own_name() -> None:
    architecture = json.dumps({"genes": {"name": "resnet", "sha256": "0a"}, "space": "onnx"})
    baseline = row("x", architecture=architecture, weights_kind="baseline", macs=math.nan, params=7)
    (record,) = candidate_records(frame(), pd.DataFrame([baseline]))
    assert record.name == "resnet baseline"
    assert (record.params["space"], record.params["weights_kind"]) == ("onnx", "baseline")
    assert record.metrics == {"verify_accuracy": 0.5, "params": 7}


def test_a_space_with_very_many_genes_is_shown_as_one_text() -> None:
    genes = {f"gene{n}": n for n in range(LARGEST_GENES + 1)}
    architecture = json.dumps({"genes": genes, "space": "huge"})
    (record,) = candidate_records(frame(row("a", architecture=architecture)), frame())
    assert record.params == {"space": "huge", "architecture": architecture, "arch_id": "abc"}


def test_missing_columns_and_values_show_nothing() -> None:
    bare = pd.DataFrame([{"candidate_id": "a", "architecture": None, "utc_time": None, "accuracy": pd.NA}])
    (record,) = candidate_records(bare, frame())
    assert record.params == {}
    assert record.metrics == {}
    assert record.timestamp_ms == 0


def test_a_recipe_is_flattened_and_long_texts_are_shortened() -> None:
    params = recipe_params("a: {b: {c: 1}, d: null, e: [1, 2], f: {}}\ng: " + "x" * 7000)
    assert params["a.b.c"] == "1"
    assert params["a.d"] == "null"
    assert params["a.e"] == "[1, 2]"
    assert params["a.f"] == "{}"
    assert len(params["g"]) == LARGEST_PARAM
    assert params["g"].endswith("...")
    assert len(short_tag("y" * 9000)) == LARGEST_TAG
