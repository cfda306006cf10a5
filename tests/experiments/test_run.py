"""The whole way, from a recipe to an exported model, through the command line."""

import csv
import io
import itertools
import json
import math
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from experiments.pipeline import run_stages
from experiments.reporter import STAGES
from experiments.session import resume_session
from hardware.device import Device
from hardware.errors import UnreachableError
from nas import open_run
from nas.profile import PROFILE_HELD_OUT, profiled_subnets, usable_subnets
from nas.tracking import MemoryTracker, RunView
from tests.experiments.broken_off_run import BrokenOffRun, make_broken_off_run
from tests.experiments.conftest import QUICKSTART, ROOT, InProcess, Result, nas_process
from tests.fakes.devices import DeadHost
from tests.fakes.reporters import Heard

# The first test waits for the run that all look at.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

QuickRun = tuple[Path, Result]

POINT_KEYS = {
    "arch_id",
    "candidate",
    "accuracy",
    "accuracy_interval",
    "accuracy_inherited",
    "latency_ms",
    "latency_interval_ms",
    "latency_predicted_ms",
    "provenance",
    "macs",
    "params",
}


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> BrokenOffRun:
    return make_broken_off_run(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture
def quick_run(broken_off: BrokenOffRun) -> QuickRun:
    """Directory and output of `nas run quickstart.yaml --quick`, the last time, when it finished."""
    assert broken_off.finished.code == 0, broken_off.finished.err
    return broken_off.run_dir, broken_off.finished


# --- killed and interrupted drivers: the same command again finishes what is missing, nothing is lost or done twice


@pytest.mark.faults
def test_one_process_works_on_a_run_and_ends_with_130_when_the_user_interrupts_it(broken_off: BrokenOffRun) -> None:
    assert broken_off.refused.code == 2
    assert "another process is working on run" in broken_off.refused.err
    assert broken_off.interrupted.code == 130, broken_off.interrupted.err
    assert "interrupted" in broken_off.interrupted.err
    assert broken_off.kept_checkpoint


@pytest.mark.faults
def test_killed_in_every_stage_the_same_command_finishes_the_run(broken_off: BrokenOffRun) -> None:
    for table, after_kill in broken_off.candidates.items():
        assert len(after_kill) == 5
        for (_, before), (stage, now) in itertools.pairwise(after_kill.items()):
            assert before <= now, f"{table} lost rows when killed in {stage}"
    assert broken_off.finished.code == 0, broken_off.finished.err

    run = open_run(broken_off.run_dir)
    rows = run.evaluations()
    assert rows["candidate_id"].is_unique
    for table, after_kill in broken_off.candidates.items():
        assert after_kill["exporting"] <= set(getattr(run, table)()["candidate_id"])
    assert (rows["weights_kind"] == "inherited").sum() == 24
    assert (rows["weights_kind"] == "fine-tuned").sum() == 4
    assert run.verifications()["candidate_id"].is_unique
    study = optuna.load_study(study_name=run.info.name, storage=f"sqlite:///{run.study_path}")
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert len(list((broken_off.run_dir / "export").glob("*/manifest.json"))) == 1


# --- what a finished run holds and what commands do with it


def test_run_ends_with_front_directory_model_and_page(quick_run: QuickRun) -> None:
    run_dir, result = quick_run
    assert "Verified Pareto front" in result.out
    assert f"run directory   {run_dir}" in result.out
    assert f"MLflow page     nas ui {run_dir}" in result.out
    model = next(line for line in result.out.splitlines() if line.startswith("exported model"))
    assert Path(model.split()[-1]).stat().st_size > 1000
    assert "alias knee" in result.out


def test_front_is_json_with_intervals_and_provenance(quick_run: QuickRun, nas: InProcess) -> None:
    run_dir, _ = quick_run
    result = nas("pareto", run_dir, "--format", "json")
    document = json.loads(result.out)
    assert {"run", "space", "device", "hypervolume", "reference_point", "points"} <= set(document)
    assert document["hypervolume"] > 0
    assert len(document["points"]) >= 2
    for point in document["points"]:
        assert set(point) >= POINT_KEYS
        assert point["provenance"] == "measured"
        low, high = point["latency_interval_ms"]
        assert 0 < low <= point["latency_ms"] <= high
        low, high = point["accuracy_interval"]
        assert low <= point["accuracy"] <= high
    accuracies = [point["accuracy"] for point in document["points"]]
    latencies = [point["latency_ms"] for point in document["points"]]
    assert accuracies == sorted(accuracies)
    assert latencies == sorted(latencies)


def test_front_is_csv_and_html(quick_run: QuickRun, nas: InProcess) -> None:
    run_dir, _ = quick_run
    points = json.loads(nas("pareto", run_dir, "--format", "json").out)["points"]
    rows = list(csv.DictReader(io.StringIO(nas("pareto", run_dir, "--format", "csv").out)))
    assert [row["candidate"] for row in rows] == [point["candidate"] for point in points]
    page = nas("pareto", run_dir, "--format", "html").out
    assert page.lstrip().lower().startswith(("<!doctype html", "<html"))
    assert points[0]["arch_id"] in page


def test_second_call_does_nothing_again(quick_run: QuickRun, nas: InProcess) -> None:
    run_dir, first = quick_run
    before = {
        table: len(getattr(open_run(run_dir), table)()) for table in ("evaluations", "measurements", "verifications")
    }
    result = nas("run", QUICKSTART, "--quick", "--run-dir", run_dir)
    assert result.code == 0, result.err
    after = {table: len(getattr(open_run(run_dir), table)()) for table in before}
    assert after == before
    assert result.err.count("finished before") == 5
    assert result.out == first.out


class Counting(MemoryTracker):
    """Counts how often it is told."""

    num_syncs = 0

    def sync(self, view: RunView) -> None:
        self.num_syncs += 1
        super().sync(view)


def test_stages_that_were_finished_before_are_shown_to_the_tracker_once(quick_run: QuickRun) -> None:
    tracker = Counting()
    outcome = run_stages(resume_session(quick_run[0]), names=[*STAGES[:-1]], reporter=Heard(), tracker=tracker)
    assert outcome.tracked
    assert tracker.num_syncs == 1


def test_every_architecture_was_evaluated_once_and_no_trial_is_left(quick_run: QuickRun) -> None:
    run_dir, _ = quick_run
    run = open_run(run_dir)
    rows = run.evaluations()
    inherited = rows[rows["weights_kind"] == "inherited"]
    assert len(inherited) == 24
    assert inherited["arch_id"].is_unique
    study = optuna.load_study(study_name=run.info.name, storage=f"sqlite:///{run.study_path}")
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_refined_candidates_were_evaluated_before(quick_run: QuickRun) -> None:
    rows = open_run(quick_run[0]).evaluations()
    tuned = rows[rows["weights_kind"] == "fine-tuned"]
    assert len(tuned) >= 4
    assert set(tuned["arch_id"]) <= set(rows[rows["weights_kind"] == "inherited"]["arch_id"])


def test_predictor_reports_its_held_out_error(quick_run: QuickRun, nas: InProcess) -> None:
    run_dir, _ = quick_run
    document = json.loads(nas("pareto", run_dir, "--format", "json").out)
    scores = document["predictor"]["scores"]
    assert {"mape_percent", "spearman", "kendall", "within_5_percent", "within_10_percent"} <= set(scores)
    assert math.isfinite(scores["mape_percent"])
    run = open_run(run_dir)
    used = usable_subnets(profiled_subnets(run, device_id=run.info.device_id))
    assert (used["purpose"] == PROFILE_HELD_OUT).sum() == document["predictor"]["num_held_out"]
    assert (run.measurements()["num_rounds"] >= 10).all()


def test_a_dead_device_leaves_a_front_of_unmeasured_points(tmp_path: Path, quick_run: QuickRun, nas: InProcess) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(quick_run[0], run_dir)
    shutil.rmtree(run_dir / "tables" / "verifications")
    shutil.rmtree(run_dir / "tables" / "measurements")
    shutil.rmtree(run_dir / "export")
    session = resume_session(run_dir)
    device = Device(spec=session.device.spec, backend=session.device.backend, host=DeadHost())
    heard = Heard()
    with pytest.raises(UnreachableError, match="does not answer"):
        run_stages(replace(session, device=device), names=["verify", "export"], reporter=heard, tracker=MemoryTracker())
    assert any("points are marked as unmeasured" in text for text in heard.messages)
    document = json.loads(nas("pareto", run_dir, "--format", "json").out)
    assert document["provenance"] == "predicted"
    assert len(document["unmeasured"]) >= 2
    assert all(point["latency_ms"] is None and 0 <= point["accuracy"] <= 1 for point in document["unmeasured"])
    assert any("nas devices check" in warning for warning in document["warnings"])
    # once the device lives, the same command goes on
    result = nas("verify", run_dir)
    assert result.code == 0, result.err
    assert json.loads(nas("pareto", run_dir, "--format", "json").out)["unmeasured"] == []


SCRIPT = """
import json, sys, time
import numpy as np, onnxruntime as ort
from sklearn.datasets import load_digits
folder = sys.argv[1]
card = json.load(open(folder + "/card.json"))
chosen = np.array(json.load(open(folder + "/report_split.json"))["indices"])
digits = load_digits()
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])
images = digits.images[chosen].astype(np.float32)[:, None]
correct, times = 0, []
for image, label in zip(images, digits.target[chosen]):
    for _ in range(5):
        start = time.perf_counter()
        (logits,) = session.run(None, {"image": image[None]})
        times.append(1e3 * (time.perf_counter() - start))
    correct += int(logits.argmax() == label)
accuracy, p50_ms = correct / len(chosen), float(np.median(times))
print(json.dumps({"accuracy": accuracy, "p50_ms": p50_ms, "card": card["accuracy"]["report"]}))
"""


def test_exported_file_keeps_the_cards_accuracy_in_a_script_of_nothing_of_ours(
    quick_run: QuickRun, tmp_path: Path
) -> None:
    run_dir, _ = quick_run
    (folder,) = (run_dir / "export").iterdir()
    assert len(SCRIPT.strip().splitlines()) <= 22
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    values = json.loads(found.stdout)
    assert values["accuracy"] == pytest.approx(values["card"]["value"], abs=0.001)
    assert values["p50_ms"] > 0


def test_export_of_another_point_by_its_architecture(quick_run: QuickRun, nas: InProcess) -> None:
    run_dir, _ = quick_run
    arch_id = json.loads(nas("pareto", run_dir, "--format", "json").out)["points"][0]["arch_id"]
    verified = open_run(run_dir).verifications()
    best = verified[verified["arch_id"] == arch_id].sort_values("accuracy")["candidate_id"].iloc[-1]
    result = nas("export", run_dir, "--arch", arch_id)
    assert result.code == 0, result.err
    assert str(best) in result.out
    # the alias that people deploy stays where it was
    assert "alias knee" not in result.out


def test_sync_rebuilds_mlflow_from_the_run_directory(quick_run: QuickRun, tmp_path: Path, nas: InProcess) -> None:
    run_dir, _ = quick_run
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    shutil.rmtree(copy / "mlflow")
    assert nas("sync", copy).code == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{copy / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("archsmith")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    candidates = open_run(copy).evaluations()["candidate_id"].nunique()
    assert len(children) == candidates
    (parent,) = [run for run in runs if run not in children]
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"pareto.html", "pareto.json", "recipe.yaml", "predictor.html", "hypervolume.html"} <= names


def test_a_corrupt_checkpoint_is_named_and_the_rest_stays(quick_run: QuickRun, tmp_path: Path, nas: InProcess) -> None:
    run_dir, _ = quick_run
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    weights = open_run(copy).checkpoint_dir() / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(bytes(content))
    result = nas("run", QUICKSTART, "--quick", "--run-dir", copy)
    assert result.code == 1
    assert str(weights.name) in result.err
    assert "delete" in result.err
    assert "Traceback" not in result.err
    assert len(open_run(copy).evaluations()) == len(open_run(run_dir).evaluations())


def test_lost_fine_tuned_weights_come_back_from_their_checkpoint_and_the_gain_is_shown(
    quick_run: QuickRun, tmp_path: Path, nas: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of the workers, wherever pytest was started
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_dir, _ = quick_run
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    rows = open_run(copy).evaluations()
    candidate = str(rows[rows["weights_kind"] == "fine-tuned"]["candidate_id"].iloc[0])
    weights = (copy / "candidates" / candidate / "weights.safetensors").read_bytes()
    shutil.rmtree(copy / "candidates" / candidate)
    result = nas("refine", copy)
    assert result.code == 0, result.err
    assert "gain over inherited weights" in result.err
    assert (copy / "candidates" / candidate / "weights.safetensors").read_bytes() == weights
    assert len(open_run(copy).evaluations()) == len(rows)


def test_a_loss_that_is_not_a_number_ends_with_1_and_says_what_to_change(tmp_path: Path, nas: InProcess) -> None:
    run_dir = tmp_path / "run"
    result = nas(
        *("run", QUICKSTART, "--quick", "--run-dir", run_dir),
        *("--set", "train.learning_rate=100", "--set", "train.weight_decay=1", "--set", "train.warmup_epochs=0"),
    )
    assert result.code == 1
    message = " ".join(result.err.split())
    assert "loss is nan" in message or "gradient" in message
    assert "lower train.learning_rate (now 100.0)" in message
    assert "Traceback" not in result.err


def test_mlflow_page_is_served_on_loopback_and_ends_with_ctrl_c(quick_run: QuickRun) -> None:
    run_dir, _ = quick_run
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = nas_process("ui", run_dir, "--port", str(port))
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert f"http://127.0.0.1:{port}/#/experiments/" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()


def test_readme_names_commands_that_exist(nas: InProcess) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    help_text = nas("--help").out
    named = {
        line.split()[1] for line in readme.splitlines() if line.strip().startswith("nas ") and len(line.split()) > 1
    }
    assert named
    for command in named:
        assert command in help_text, command
