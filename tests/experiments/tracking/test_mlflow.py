"""The mirror in MLflow: complete, idempotent, rebuilt after losses; models registered; failures explained."""

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from experiments.errors import TrackingError
from experiments.recipe import load_recipe
from experiments.tracking.connection import connect, find_place
from experiments.tracking.mlflow import CANDIDATE_TAG, RUN_TAG, MlflowTracker
from hardware.artifacts.onnx import export_onnx
from hardware.files import write_manifest
from nas.tracking import MemoryTracker, RegisteredModel, RunView, Tracker
from searchspaces import get_space
from tests.fakes.trackers import FlakyTracker

QUICKSTART = Path(__file__).parents[3] / "experiments" / "recipes" / "quickstart.yaml"
NUM_CANDIDATES = 5


def make_view(folder: Path, *, run_id: str = "run-1", num_candidates: int = NUM_CANDIDATES) -> RunView:
    """A run with every kind of row: inherited, fine-tuned, verified, failed (NaN)."""
    rng = np.random.default_rng(0)
    space = get_space("mbconv-small")
    rows = []
    for number in range(num_candidates):
        arch = space.sample(rng)
        rows.append(
            {
                "candidate_id": f"candidate-{number}",
                "arch_id": arch.arch_id,
                "architecture": arch.to_json(),
                "weights": "a" * 64,
                "weights_kind": "fine-tuned" if number == 1 else "inherited",
                "precision": "fp32",
                "split": "search",
                "accuracy": 0.8 + number / 100,
                "accuracy_low": 0.7,
                "accuracy_high": 0.95,
                "num_correct": 240,
                "num_images": 300,
                "device_id": "onnxruntime-cpu",
                "latency_predicted_ms": 0.1 * (number + 1),
                "latency_predicted_low_ms": 0.09 * (number + 1),
                "latency_predicted_high_ms": float("nan"),
                "in_range": True,
                "macs": 1_000_000 * (number + 1),
                "params": 10_000,
                "trial_number": number,
                "seconds": 0.5,
                "utc_time": f"2026-01-02T03:04:{number:02d}.500+00:00",
            }
        )
    evaluations = pd.DataFrame(rows)
    verifications = evaluations.head(2).assign(
        split="verify",
        accuracy=[0.81, 0.85],
        accuracy_search=[0.8, 0.81],
        accuracy_inherited=[0.8, 0.79],
        latency_ms=[0.11, 0.21],
        latency_low_ms=[0.1, 0.2],
        latency_high_ms=[0.12, 0.22],
        provenance="measured",
        suspect=[False, True],
        measurement_id="m",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pareto.html").write_text("<html></html>")
    (folder / "pareto.json").write_text("{}")
    front = [
        {
            "arch_id": row["arch_id"],
            "candidate": row["candidate_id"],
            "accuracy": 0.81,
            "accuracy_interval": [0.77, 0.84],
            "latency_ms": 0.11,
            "latency_interval_ms": [0.1, 0.12],
            "latency_predicted_ms": 0.1,
            "provenance": "measured",
            "macs": 1_000_000,
            "params": 10_000,
        }
        for row in rows[:2]
    ]
    return RunView(
        run_id=run_id,
        name="quickstart",
        recipe_yaml=load_recipe(QUICKSTART).to_yaml(),
        history=[{"step": epoch, "loss": 2.0 / epoch, "accuracy": 0.5} for epoch in range(1, 4)],
        evaluations=evaluations,
        verifications=verifications,
        front=front,
        predictor_scores={"mape_percent": 3.2, "spearman": 0.99, "kendall": float("nan")},
        hypervolume=[0.1, 0.2, 0.3],
        artifacts=(folder / "pareto.html", folder / "pareto.json"),
        tags={"space": "mbconv-small"},
        status="finished",
    )


@pytest.fixture
def view(tmp_path: Path) -> RunView:
    return make_view(tmp_path / "report")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: creating MLflow's tables takes seconds."""
    place = find_place(None, directory=tmp_path_factory.mktemp("template"))
    connect(place)
    assert place.database_file is not None
    return place.database_file


@pytest.fixture
def tracker(tmp_path: Path, empty_database: Path) -> MlflowTracker:
    (tmp_path / "mlflow").mkdir()
    shutil.copy(empty_database, tmp_path / "mlflow" / "mlflow.db")
    return MlflowTracker(tmp_path / "mlflow")


def client_of(tracker: MlflowTracker) -> MlflowClient:
    return MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


def all_runs(client: MlflowClient, experiment: str = "archsmith") -> tuple[list[Run], list[Run]]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = list(client.search_runs([found.experiment_id], max_results=1000))
    return [run for run in runs if RUN_TAG in run.data.tags], [run for run in runs if CANDIDATE_TAG in run.data.tags]


def state(client: MlflowClient) -> dict[str, object]:
    """Everything that MLflow knows, by run id: equal before and after means nothing was done twice."""
    parents, children = all_runs(client)
    return {
        run.info.run_id: (
            run.info.status,
            run.info.run_name,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {key: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, key)]
             for key in run.data.metrics},
        )
        for run in parents + children
    }  # fmt: skip


def test_a_run_is_shown_with_one_child_for_each_candidate(tracker: MlflowTracker, view: RunView) -> None:
    tracker.sync(view)
    client = client_of(tracker)
    (parent,), children = all_runs(client)
    assert parent.info.run_name == "quickstart"
    assert parent.info.status == "FINISHED"
    assert parent.data.params["train.epochs"] == "40"
    assert parent.data.params["space.settings.resolutions"] == "[16, 20, 24]"
    assert parent.data.metrics["predictor_mape_percent"] == 3.2
    assert "predictor_kendall" not in parent.data.metrics
    assert parent.data.tags["space"] == "mbconv-small"
    assert str(view.front[0]["arch_id"]) in parent.data.tags["mlflow.note.content"]
    losses = client.get_metric_history(parent.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in losses] == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
    volumes = client.get_metric_history(parent.info.run_id, "hypervolume")
    assert [(m.step, m.value) for m in volumes] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert names == {"pareto.html", "pareto.json", "recipe.yaml"}

    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    by_id = {child.data.tags[CANDIDATE_TAG]: child for child in children}
    assert sorted(by_id) == [f"candidate-{n}" for n in range(NUM_CANDIDATES)]
    verified = by_id["candidate-1"]
    assert verified.info.status == "FINISHED"
    assert verified.info.start_time == 1767323041500
    assert verified.data.params["weights_kind"] == "fine-tuned"
    assert verified.data.params["stage1.depth"] in {"1", "2", "3"}
    assert verified.data.metrics["accuracy"] == 0.81
    assert verified.data.metrics["verify_accuracy"] == 0.85
    assert verified.data.metrics["latency_ms"] == 0.21
    assert verified.data.metrics["suspect"] == 1.0
    assert verified.data.tags["archsmith.verified"] == "yes"
    only_evaluated = by_id["candidate-4"]
    assert "latency_ms" not in only_evaluated.data.metrics
    assert "latency_predicted_high_ms" not in only_evaluated.data.metrics
    assert only_evaluated.data.tags["archsmith.verified"] == "no"


def test_a_second_sync_changes_nothing(tracker: MlflowTracker, view: RunView, tmp_path: Path) -> None:
    tracker.sync(view)
    before = state(client_of(tracker))
    tracker.sync(view)
    MlflowTracker(tmp_path / "mlflow").sync(view)
    assert state(client_of(tracker)) == before


def test_a_growing_run_is_completed_and_nothing_is_repeated(tracker: MlflowTracker, view: RunView) -> None:
    early = replace(
        view,
        evaluations=view.evaluations.head(2),
        verifications=view.verifications.head(0),
        front=(),
        predictor_scores={},
        hypervolume=view.hypervolume[:1],
        history=view.history[:1],
        artifacts=(),
        status="running",
    )
    tracker.sync(early)
    client = client_of(tracker)
    (parent,), children = all_runs(client)
    assert parent.info.status == "RUNNING"
    assert len(children) == 2
    assert "Nothing is verified yet" in parent.data.tags["mlflow.note.content"]
    tracker.sync(view)
    (parent,), children = all_runs(client)
    assert parent.info.status == "FINISHED"
    assert len(children) == NUM_CANDIDATES
    assert [m.step for m in client.get_metric_history(parent.info.run_id, "train_loss")] == [1, 2, 3]
    (verified,) = [child for child in children if child.data.tags[CANDIDATE_TAG] == "candidate-0"]
    assert verified.data.metrics["verify_accuracy"] == 0.81
    assert len(client.get_metric_history(verified.info.run_id, "accuracy")) == 1
    tracker.sync(early)
    assert all_runs(client)[0][0].info.status == "RUNNING"


def test_a_run_that_failed_says_why_until_it_goes_on(tracker: MlflowTracker, view: RunView) -> None:
    def shown() -> tuple[str, str | None]:
        (parent,), _ = all_runs(client_of(tracker))
        return parent.info.status, parent.data.tags.get("archsmith.error")

    tracker.sync(replace(view, status="failed", error="the loss is nan"))
    assert shown() == ("FAILED", "the loss is nan")
    tracker.sync(replace(view, status="running"))
    assert shown() == ("RUNNING", None)
    tracker.sync(replace(view, status="killed"))
    assert shown() == ("KILLED", None)
    tracker.sync(view)
    assert shown() == ("FINISHED", None)


def test_a_training_that_grows_is_not_read_back_at_every_sync(
    tracker: MlflowTracker, view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = MlflowClient.get_metric_history

    def counted(client: MlflowClient, run_id: str, key: str) -> object:
        asked.append(key)
        return original(client, run_id, key)

    rows = [{"step": step, "loss": 1.0 / step} for step in range(1, 5)]
    MlflowTracker(Path(tracker.uri.removeprefix("sqlite:///")).parent).sync(replace(view, history=rows[:1]))
    monkeypatch.setattr(MlflowClient, "get_metric_history", counted)
    for num in (2, 3, 3, 4):
        tracker.sync(replace(view, history=rows[:num]))
    assert sorted(asked) == ["hypervolume", "train_loss"]
    (parent,), _ = all_runs(client_of(tracker))
    curve = original(client_of(tracker), parent.info.run_id, "train_loss")
    assert [point.step for point in curve] == [1, 2, 3, 4]


def test_an_empty_run_can_be_shown(tracker: MlflowTracker, view: RunView) -> None:
    tracker.sync(
        replace(
            view,
            evaluations=pd.DataFrame(columns=view.evaluations.columns),
            verifications=pd.DataFrame(columns=view.verifications.columns),
            front=(),
            history=(),
            hypervolume=(),
            predictor_scores={},
            artifacts=(),
        )
    )
    parents, children = all_runs(client_of(tracker))
    assert len(parents) == 1
    assert not children


def test_a_value_that_was_found_anew_replaces_the_old_one(tracker: MlflowTracker, view: RunView) -> None:
    tracker.sync(view)
    again = view.verifications.assign(latency_ms=[0.09, 0.19])
    newer = replace(view, verifications=pd.concat([view.verifications, again], ignore_index=True))
    tracker.sync(newer)
    before = state(client_of(tracker))
    tracker.sync(newer)
    assert state(client_of(tracker)) == before
    _, children = all_runs(client_of(tracker))
    shown = {child.data.tags[CANDIDATE_TAG]: child.data.metrics.get("latency_ms") for child in children}
    assert shown["candidate-0"] == 0.09
    assert shown["candidate-1"] == 0.19


def test_a_changed_artifact_is_replaced(tracker: MlflowTracker, view: RunView, tmp_path: Path) -> None:
    tracker.sync(view)
    view.artifacts[0].write_text("<html>new</html>")
    tracker.sync(view)
    client = client_of(tracker)
    (parent,), _ = all_runs(client)
    assert Path(client.download_artifacts(parent.info.run_id, "pareto.html")).read_text() == "<html>new</html>"
    recipe = client.download_artifacts(parent.info.run_id, "recipe.yaml")
    assert load_recipe(recipe) == load_recipe(QUICKSTART)


def test_an_operational_change_of_the_recipe_does_not_stop_the_mirror(tracker: MlflowTracker, view: RunView) -> None:
    tracker.sync(view)
    changed = load_recipe(QUICKSTART, overrides=["search.workers=1"]).to_yaml()
    tracker.sync(replace(view, recipe_yaml=changed))
    (parent,), _ = all_runs(client_of(tracker))
    path = client_of(tracker).download_artifacts(parent.info.run_id, "recipe.yaml")
    assert load_recipe(path).search.workers == 1


def test_what_a_killed_sync_left_half_done_is_completed(tracker: MlflowTracker, view: RunView) -> None:
    tracker.sync(replace(view, evaluations=view.evaluations.head(0), verifications=view.verifications.head(0)))
    client = client_of(tracker)
    (parent,), _ = all_runs(client)
    # The state between creating a child and logging its values.
    client.create_run(
        parent.info.experiment_id,
        tags={"mlflow.parentRunId": parent.info.run_id, CANDIDATE_TAG: "candidate-0", "archsmith.kind": "candidate"},
    )
    tracker.sync(view)
    _, children = all_runs(client)
    assert len(children) == NUM_CANDIDATES
    assert {child.info.status for child in children} == {"FINISHED"}
    assert all("accuracy" in child.data.metrics for child in children)


def test_runs_deleted_by_hand_come_back(tracker: MlflowTracker, view: RunView) -> None:
    tracker.sync(view)
    client = client_of(tracker)
    (parent,), children = all_runs(client)
    client.delete_run(children[0].info.run_id)
    tracker.sync(view)
    assert len(all_runs(client)[1]) == NUM_CANDIDATES
    client.delete_run(parent.info.run_id)
    tracker.sync(view)
    (new,), children = all_runs(client)
    assert new.info.run_id != parent.info.run_id
    assert len([c for c in children if c.data.tags["mlflow.parentRunId"] == new.info.run_id]) == NUM_CANDIDATES


def test_two_runs_at_one_address_do_not_mix(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path}/shared.db"
    for run_id in ("one", "two"):
        MlflowTracker(tmp_path / run_id, uri=uri).sync(make_view(tmp_path / "report", run_id=run_id))
    client = MlflowClient(tracking_uri=uri)
    parents, children = all_runs(client)
    assert {run.data.tags[RUN_TAG] for run in parents} == {"one", "two"}
    assert len(children) == 2 * NUM_CANDIDATES
    assert (tmp_path / "shared-artifacts").is_dir()


@pytest.mark.parametrize("name", ["with space #1", "plus+accent-\u00e9"])
def test_unusual_folder_names_work(tmp_path: Path, empty_database: Path, name: str) -> None:
    (tmp_path / name / "mlflow").mkdir(parents=True)
    shutil.copy(empty_database, tmp_path / name / "mlflow" / "mlflow.db")
    tracker = MlflowTracker(tmp_path / name / "mlflow")
    tracker.sync(make_view(tmp_path / "report", num_candidates=2))
    (parent,), _ = all_runs(client_of(tracker))
    assert (tmp_path / name / "mlflow" / "mlflow.db").is_file()
    assert len(list((tmp_path / name / "mlflow" / "artifacts").rglob("pareto.html"))) == 1
    assert Path(client_of(tracker).download_artifacts(parent.info.run_id, "pareto.json")).read_text() == "{}"


@pytest.mark.parametrize("name", ["percent%20", "question?"])
def test_a_folder_that_no_database_address_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrackingError, match="cannot keep its database") as caught:
        MlflowTracker(tmp_path / name)
    assert "run directory" in caught.value.hint


def test_a_moved_run_directory_is_mirrored_where_it_is_now(tmp_path: Path, view: RunView) -> None:
    MlflowTracker(tmp_path / "old" / "mlflow").sync(view)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    before = sorted((tmp_path / "old").rglob("*"))
    tracker = MlflowTracker(tmp_path / "new" / "mlflow")
    tracker.sync(view)
    (parent,), children = all_runs(client_of(tracker))
    assert len(children) == NUM_CANDIDATES
    assert str(tmp_path / "new") in str(parent.info.artifact_uri)
    assert sorted((tmp_path / "old").rglob("*")) == before


def test_a_damaged_database_is_named_and_rebuilt_after_it_was_deleted(
    tmp_path: Path, tracker: MlflowTracker, view: RunView
) -> None:
    tracker.sync(view)
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"this is not a database" * 100)
    again = MlflowTracker(tmp_path / "mlflow")
    with pytest.raises(TrackingError, match="not a database") as caught:
        again.sync(view)
    assert f"Delete {tmp_path / 'mlflow' / 'mlflow.db'}" in caught.value.hint
    assert "nas sync" in caught.value.hint
    (tmp_path / "mlflow" / "mlflow.db").unlink()
    # MLflow remembers for the life of a process that it has made the tables: a new one, as after the message above.
    script = (
        "import sys; from pathlib import Path; from experiments.tracking.mlflow import MlflowTracker;"
        "print(MlflowTracker(Path(sys.argv[1])).page('run-1'))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "mlflow")], capture_output=True, text=True)
    assert done.stdout.strip() == "None", done.stderr


def test_the_page_of_a_run_is_named(tracker: MlflowTracker, view: RunView) -> None:
    assert tracker.page("run-1") is None
    tracker.sync(view)
    (parent,), _ = all_runs(client_of(tracker))
    assert tracker.page("run-1") == f"/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"


# --- models


def export(folder: Path, *, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    export_onnx(network, example=torch.zeros(1, 1, 8, 8), path=folder / "network.onnx")
    (folder / "card.json").write_text(json.dumps({"accuracy": 0.9}))
    write_manifest(folder, files=["network.onnx", "card.json"], details={})
    return folder


def register(tracker: Tracker, model_dir: Path, *, alias: str = "knee", run_id: str = "run-1") -> RegisteredModel:
    return tracker.register(model_dir, run_id=run_id, name="archsmith-quickstart", alias=alias, tags={"arch_id": "abc"})


def test_a_registered_model_is_the_exported_file_and_runs(
    tracker: MlflowTracker, view: RunView, tmp_path: Path
) -> None:
    tracker.sync(view)
    model_dir = export(tmp_path / "export")
    found = register(tracker, model_dir)
    assert found == RegisteredModel(name="archsmith-quickstart", version="1", alias="knee")
    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_registry_uri(tracker.uri)
    try:
        local = Path(mlflow.artifacts.download_artifacts("models:/archsmith-quickstart@knee"))
        image = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
        loaded = mlflow.pyfunc.load_model("models:/archsmith-quickstart@knee")
        output = loaded.predict(image)
        graph = mlflow.onnx.load_model("models:/archsmith-quickstart/1").graph
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
    assert (local / "model.onnx").read_bytes() == (model_dir / "network.onnx").read_bytes()
    assert json.loads((local / "export" / "card.json").read_text()) == {"accuracy": 0.9}
    assert not [path for path in local.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
    logits = next(iter(output.values())) if isinstance(output, dict) else output
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (1, 1, 8, 8)
    assert [node.name for node in graph.input] == ["image"]
    version = client_of(tracker).get_model_version_by_alias("archsmith-quickstart", "knee")
    assert version.tags["archsmith.onnx_sha256"] == hashlib.sha256((local / "model.onnx").read_bytes()).hexdigest()
    assert version.tags["arch_id"] == "abc"


def aliased(client: MlflowClient, alias: str) -> str:
    return str(client.get_model_version_by_alias("archsmith-quickstart", alias).version)


def test_the_same_model_registered_again_keeps_its_version_and_another_gets_the_next(
    tracker: MlflowTracker, view: RunView, tmp_path: Path
) -> None:
    tracker.sync(view)
    first, other = export(tmp_path / "first"), export(tmp_path / "other", seed=1)
    assert register(tracker, first).version == "1"
    assert register(tracker, first, alias="best").version == "1"
    assert register(tracker, other).version == "2"
    client = client_of(tracker)
    assert aliased(client, "knee") == "2"
    assert aliased(client, "best") == "1"
    assert register(tracker, first).version == "1"
    assert aliased(client, "knee") == "1"
    assert len(client.search_model_versions("name = 'archsmith-quickstart'")) == 2


def test_a_model_of_an_unknown_run_or_without_one_onnx_file_is_refused(
    tracker: MlflowTracker, view: RunView, tmp_path: Path
) -> None:
    model_dir = export(tmp_path / "export")
    with pytest.raises(TrackingError, match="does not know run run-1") as caught:
        register(tracker, model_dir)
    assert "nas sync" in caught.value.hint
    tracker.sync(view)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrackingError, match=r"exactly one \.onnx file, found: none"):
        register(tracker, tmp_path / "empty")
    shutil.copy(model_dir / "network.onnx", model_dir / "second.onnx")
    with pytest.raises(TrackingError, match=r"found: network\.onnx, second\.onnx"):
        register(tracker, model_dir)
    with pytest.raises(TrackingError, match="cannot register"):
        register(tracker, export(tmp_path / "good"), alias="v1")


# --- failures


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_server_that_does_not_answer_is_told_at_once_and_without_its_password(tmp_path: Path, view: RunView) -> None:
    for scheme in ("http", "https", "postgresql", "mysql+pymysql"):
        tracker = MlflowTracker(tmp_path, uri=f"{scheme}://me:secret@127.0.0.1:{free_port()}/mlflow")
        with pytest.raises(TrackingError, match=r"cannot open it: .*refused") as caught:
            tracker.sync(view)
        assert "nas sync RUN" in caught.value.hint
        assert "secret" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/x", "databricks", ""])
def test_an_unsupported_address_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(TrackingError, match=r"tracking\.uri: got") as caught:
        MlflowTracker(tmp_path, uri=uri)
    assert caught.value.hint


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, view: RunView) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrackingError, match="cannot open it") as caught:
        MlflowTracker(tmp_path / "file" / "mlflow").sync(view)
    assert caught.value.hint


def test_a_database_that_another_process_holds_is_told(
    tmp_path: Path, tracker: MlflowTracker, view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.tracking.connection._BUSY_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "mlflow" / "mlflow.db")) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(TrackingError, match="locked") as caught:
            tracker.sync(view)
        assert "Another process" in caught.value.hint
        holder.rollback()
    tracker.sync(view)


def test_a_deleted_experiment_is_explained(tracker: MlflowTracker, view: RunView, tmp_path: Path) -> None:
    tracker.sync(view)
    client = client_of(tracker)
    found = client.get_experiment_by_name("archsmith")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    with pytest.raises(TrackingError, match="was deleted") as caught:
        MlflowTracker(tmp_path / "mlflow").sync(view)
    assert "tracking.experiment" in caught.value.hint


def test_a_missing_artifact_is_an_error_not_a_gap(tracker: MlflowTracker, view: RunView, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"absent\.html"):
        tracker.sync(replace(view, artifacts=(tmp_path / "absent.html",)))


def test_the_flaky_tracker_fails_and_recovers_at_its_switch(tmp_path: Path, view: RunView) -> None:
    inner = MemoryTracker()
    flaky = FlakyTracker(inner, broken=True)
    for call in (lambda: flaky.sync(view), lambda: register(flaky, tmp_path)):
        with pytest.raises(TrackingError, match="switched off"):
            call()
    assert not inner.views
    flaky.broken = False
    flaky.sync(view)
    assert inner.views["run-1"] is view
    assert register(flaky, tmp_path).version == "1"
    assert register(flaky, tmp_path / "other").version == "2"
    assert register(flaky, tmp_path).version == "1"
    assert flaky.calls == ["sync", "register", "sync", "register", "register", "register"]


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[str]:
    shutil.copy(empty_database, tmp_path / "server.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "server-artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            # listening is not enough: on a busy machine its first answer takes longer than a tracker waits
            with urllib.request.urlopen(f"{uri}/health", timeout=30):
                break
        except OSError:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
    yield uri
    os.killpg(process.pid, 15)
    process.wait(timeout=30)


@pytest.mark.slow
def test_a_real_server_shows_the_same_and_serves_the_artifacts(server: str, tmp_path: Path) -> None:
    view = make_view(tmp_path / "report", num_candidates=2)
    tracker = MlflowTracker(tmp_path / "mlflow", uri=server)
    tracker.sync(view)
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    before = state(client)
    tracker.sync(view)
    assert state(client) == before
    (parent,), children = all_runs(client)
    assert len(children) == 2
    assert str(parent.info.artifact_uri).startswith("mlflow-artifacts:")
    assert Path(client.download_artifacts(parent.info.run_id, "pareto.json")).read_text() == "{}"
    assert register(tracker, export(tmp_path / "export")).version == "1"
    assert aliased(client, "knee") == "1"
