"""What a run with several devices shows."""

import csv
import io
import json
import math
from pathlib import Path

import pytest

from experiments.report import joint_document, run_view, write_report
from experiments.tracking.notes import describe_run
from hardware.files import read_json
from nas.run import Run
from tests.experiments.conftest import InProcess
from tests.nas.predicted_run import add_device, predicted_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = predicted_run(tmp_path / "run")
    add_device(made, "parallel")
    return made


def test_every_device_has_its_files_and_all_have_joint_ones(run: Run) -> None:
    names = {path.name for path in write_report(run)}
    assert names == {
        "recipe.yaml",
        "hypervolume.html",
        "pareto.json",
        "pareto.html",
        "pareto-parallel.json",
        "pareto-parallel.html",
        "pareto-joint.json",
        "pareto-joint.html",
    }
    joint = read_json(run.report_dir / "pareto-joint.json")
    assert joint == joint_document(run)
    assert isinstance(joint, dict)
    front = read_json(run.report_dir / "pareto-parallel.json")
    assert isinstance(front, dict)
    on_joint = {point["arch_id"] for point in joint["points"]}
    on_own = {point["arch_id"] for point in front["points"]}
    assert on_own <= on_joint


def test_fronts_are_shown_device_by_device_and_jointly(nas: InProcess, run: Run) -> None:
    assert "Predicted Pareto front of test on parallel" in nas("pareto", run.path, "--device", "parallel").out
    joint = nas("pareto", run.path, "--joint")
    assert "Joint Pareto front of test" in joint.out
    assert "latencies on parallel are predicted" in joint.err
    header = nas("pareto", run.path, "--joint", "--format", "csv").out.splitlines()[0]
    assert "latency_ms/parallel" in header
    page = nas("pareto", run.path, "--joint", "--format", "html").out
    assert "Joint front of test" in page


def verify(run: Run, *, provenance: str) -> None:
    """Rows of a verification, measured a tenth slower than predicted, or not at all."""
    measured = provenance == "measured"
    rows = run.evaluations().head(8)
    run.verifications_table.append(
        [
            {
                **{str(key): value for key, value in row.items() if key not in ("trial_number", "seconds")},
                "split": "verify",
                "metric": "top1",
                "accuracy": row["accuracy"] - 0.01,
                "accuracy_low": row["accuracy"] - 0.03,
                "accuracy_high": row["accuracy"] + 0.01,
                "num_correct": round(500 * row["accuracy"]),
                "num_images": 500,
                "accuracy_search": row["accuracy"],
                "accuracy_inherited": row["accuracy"],
                "latency_predicted_low_ms": 0.95 * row["latency_predicted_ms"],
                "latency_predicted_high_ms": 1.05 * row["latency_predicted_ms"],
                "latency_ms": 1.1 * row["latency_predicted_ms"] if measured else math.nan,
                "latency_low_ms": 1.09 * row["latency_predicted_ms"] if measured else math.nan,
                "latency_high_ms": 1.11 * row["latency_predicted_ms"] if measured else math.nan,
                "provenance": provenance,
                "suspect": False,
                "measurement_id": f"m{number}" if measured else "",
            }
            for number, row in enumerate(rows.to_dict("records"))
        ]
    )


def test_a_verified_front_shows_what_was_promised_in_every_format(nas: InProcess, run: Run) -> None:
    verify(run, provenance="measured")
    table = nas("pareto", run.path).out
    assert "Promised against found" in table
    assert "+10.0%" in table
    document = json.loads(nas("pareto", run.path, "--format", "json").out)
    promises = document["promises"]
    assert len(promises["rows"]) == 8
    assert promises["mean_accuracy_difference"] == pytest.approx(-0.01)
    assert promises["latencies_kept"] == 0.0
    assert promises["mean_latency_error"] == pytest.approx(1 - 1 / 1.1)
    assert promises["hypervolume_promised"] > promises["hypervolume_found"] > 0
    assert all(0.0 <= point["membership"] <= 1.0 for point in document["points"])
    (first, *_) = csv.DictReader(io.StringIO(nas("pareto", run.path, "--format", "csv").out))
    assert float(first["latency_ratio"]) == pytest.approx(1.1)
    assert first["latency_kept"] == "False"
    assert "what was promised" in nas("pareto", run.path, "--format", "html").out
    assert {"promises.html"} <= {path.name for path in write_report(run)}
    view = run_view(run, artifacts=[])
    assert view.promises["hypervolume_found"] == pytest.approx(promises["hypervolume_found"])
    assert f"found {promises['hypervolume_found']:.5g}" in describe_run(view)


def test_a_front_that_was_not_measured_says_so_everywhere(nas: InProcess, run: Run) -> None:
    verify(run, provenance="predicted")
    shown = nas("pareto", run.path)
    assert "Predicted Pareto front" in shown.out
    assert "latencies not" in shown.out
    assert "nothing was measured: search.measure is none" in shown.err
    document = json.loads(nas("pareto", run.path, "--format", "json").out)
    assert (document["provenance"], document["split"]) == ("predicted", "verify")
    assert document["unmeasured"] == []
    assert document["promises"]["mean_latency_error"] is None
    view = run_view(run, artifacts=[])
    assert (view.front, view.promises) == ([], {})
    assert "not measured" in describe_run(view)


def test_a_limit_that_came_later_leaves_verified_candidates_out(nas: InProcess, run: Run) -> None:
    verify(run, provenance="measured")
    latencies = sorted(run.verifications()["latency_ms"])
    run.recipe_path.write_text(f"search: {{limits: {{latency_ms: {latencies[2]:.12f}}}}}\n", encoding="utf-8")
    shown = nas("pareto", run.path)
    assert "within latency_ms <=" in shown.out
    assert "of 8 verified candidates are left out: beyond latency_ms" in shown.err
    document = json.loads(nas("pareto", run.path, "--format", "json").out)
    assert [limit["name"] for limit in document["limits"]] == ["latency_ms"]
    assert all(row["latency_found_ms"] <= latencies[2] for row in document["promises"]["rows"])


def test_a_device_that_was_not_profiled_is_refused_with_the_command_that_does_it(nas: InProcess, run: Run) -> None:
    result = nas("pareto", run.path, "--device", "toaster")
    assert result.code == 2
    assert "knows no device 'toaster', its devices are: d, parallel" in result.err
    assert f"nas profile {run.path} --device toaster" in result.err.replace("\n", "")
    assert nas("pareto", run.path, "--device", "d", "--joint").code == 2
