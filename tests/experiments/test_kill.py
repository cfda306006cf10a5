"""A killed driver: the same command again finishes what is missing, and nothing was lost or done twice."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import psutil
import pytest

from nas import open_run
from nas.run import Run
from nas.training.checkpoints import finished_checkpoints
from tests.experiments.conftest import QUICKSTART, nas_process, run_nas

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SLEEP = 0.1


def checkpoints(run: Run) -> list[Path]:
    return finished_checkpoints(run.train_dir / "checkpoints")


def trained(run: Run) -> bool:
    return bool(checkpoints(run))


def profiling(run: Run) -> bool:
    return (run.path / "candidates").exists()


def searching(run: Run) -> bool:
    return len(run.evaluations_table) > 0


def refining(run: Run) -> bool:
    return any((run.path / "refine").glob("*/epoch-*"))


def verifying(run: Run) -> bool:
    rows = run.evaluations()
    return bool((rows["weights_kind"] == "fine-tuned").sum() == 4)


def exporting(run: Run) -> bool:
    return len(run.verifications_table) > 0


@pytest.mark.timeout(900)
def test_killed_in_every_stage_the_same_command_finishes_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command: list[str | Path] = ["run", QUICKSTART, "--quick", "--run-dir", run_dir]
    seen: dict[str, set[str]] = {"evaluations": set(), "verifications": set()}
    for stage in (trained, profiling, searching, refining, verifying, exporting):
        kill_when(stage, run_dir, command)
        for table, before in seen.items():
            now = set(getattr(open_run(run_dir), table)()["candidate_id"])
            assert before <= now, f"{table} lost rows when killed in {stage.__name__}"
            seen[table] = now
    result = run_nas(*command)
    assert result.code == 0, result.err
    assert "Verified Pareto front" in result.out

    run = open_run(run_dir)
    rows = run.evaluations()
    assert rows["candidate_id"].is_unique
    assert (rows["weights_kind"] == "inherited").sum() == 24
    assert (rows["weights_kind"] == "fine-tuned").sum() == 4
    assert run.verifications()["candidate_id"].is_unique
    study = optuna.load_study(study_name=run.info.name, storage=f"sqlite:///{run.study_path}")
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert len(list((run_dir / "export").glob("*/manifest.json"))) == 1


def kill_when(reached: Callable[[Run], bool], run_dir: Path, command: list[str | Path]) -> None:
    """Start the command, SIGKILL it as soon as `reached` holds, and wait until its children are gone too."""
    process = nas_process(*command)
    children: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 180
        while not ((run_dir / "run.json").exists() and reached(open_run(run_dir))):
            assert process.poll() is None, f"ended before {reached.__name__}: {process.communicate()[1]}"
            assert time.monotonic() < deadline, f"{reached.__name__} was not reached"
            time.sleep(SLEEP)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, f"left behind: {[child.cmdline()[:3] for child in alive]}"


def test_one_process_works_on_a_run_and_ends_with_130_when_the_user_interrupts_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = ("run", QUICKSTART, "--quick", "--run-dir", run_dir, "--set", "train.epochs=500")
    process = nas_process(*command)
    deadline = time.monotonic() + 120
    while not ((run_dir / "run.json").exists() and trained(open_run(run_dir))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(SLEEP)
    second = run_nas(*command)
    assert second.code == 2
    assert "another process is working on run" in second.err
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert trained(open_run(run_dir))
