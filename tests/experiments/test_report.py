"""What a run with several devices shows."""

from pathlib import Path

import pytest

from experiments.report import joint_document, write_report
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


def test_a_device_that_was_not_profiled_is_refused_with_the_command_that_does_it(nas: InProcess, run: Run) -> None:
    result = nas("pareto", run.path, "--device", "toaster")
    assert result.code == 2
    assert "knows no device 'toaster', its devices are: d, parallel" in result.err
    assert f"nas profile {run.path} --device toaster" in result.err.replace("\n", "")
    assert nas("pareto", run.path, "--device", "d", "--joint").code == 2
