"""One small run of the quickstart that is broken off again and again before it finishes."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from experiments import cli
from nas import open_run
from nas.run import Run
from nas.training.finished import finished_checkpoints
from tests.experiments.conftest import QUICKSTART, Result, nas_process, run_nas

SLEEP = 0.1


@dataclass(frozen=True)
class BrokenOffRun:
    """What each command on one run directory ended with.

    Attributes:
        run_dir: the run directory.
        refused: end of the command while another process worked on the run.
        interrupted: end of the process that got Ctrl-C when training had a checkpoint.
        kept_checkpoint: whether that checkpoint was there afterwards.
        candidates: of each table, after the kill in each stage: the candidates in its rows.
        finished: end of the command that was left alone, the last one.
    """

    run_dir: Path
    refused: Result
    interrupted: Result
    kept_checkpoint: bool
    candidates: dict[str, dict[str, set[str]]]
    finished: Result


def make_broken_off_run(run_dir: Path) -> BrokenOffRun:
    """Interrupt a run once, kill it once in every stage that follows, and let it finish."""
    command: list[str | Path] = ["run", QUICKSTART, "--quick", "--run-dir", run_dir]
    refused, interrupted = refuse_and_interrupt(run_dir, command)
    kept_checkpoint = trained(open_run(run_dir))
    candidates: dict[str, dict[str, set[str]]] = {"evaluations": {}, "verifications": {}}
    for stage in (profiling, searching, refining, verifying, exporting):
        kill_when(stage, run_dir, command)
        for table, found in candidates.items():
            found[stage.__name__] = set(getattr(open_run(run_dir), table)()["candidate_id"])
    finished = run_nas(*command)
    return BrokenOffRun(
        run_dir=run_dir,
        refused=refused,
        interrupted=interrupted,
        kept_checkpoint=kept_checkpoint,
        candidates=candidates,
        finished=finished,
    )


def trained(run: Run) -> bool:
    return bool(finished_checkpoints(run.train_dir / "checkpoints"))


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


def refuse_and_interrupt(run_dir: Path, command: list[str | Path]) -> tuple[Result, Result]:
    """Start the command, call it here as well once training has a checkpoint, and send the first one Ctrl-C."""
    process = nas_process(*command)
    try:
        wait_until(trained, run_dir, process)
        refused = call_here(command)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
        process.communicate()
    return refused, Result(code=process.returncode, out=out, err=err)


def call_here(command: list[str | Path]) -> Result:
    """Call `nas` in this process, outside of a test."""
    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(err):
        patch.setattr(sys, "argv", ["nas", *map(str, command)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return Result(code=code, out="", err=" ".join(err.getvalue().split()))


def wait_until(reached: Callable[[Run], bool], run_dir: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 400
    while not ((run_dir / "run.json").exists() and reached(open_run(run_dir))):
        assert process.poll() is None, f"ended before {reached.__name__}: {process.communicate()[1]}"
        assert time.monotonic() < deadline, f"{reached.__name__} was not reached"
        time.sleep(SLEEP)


def kill_when(reached: Callable[[Run], bool], run_dir: Path, command: list[str | Path]) -> None:
    """Start the command, SIGKILL it as soon as `reached` holds, and wait until its children are gone too."""
    process = nas_process(*command)
    children: list[psutil.Process] = []
    try:
        wait_until(reached, run_dir, process)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, f"left behind: {[child.cmdline()[:3] for child in alive]}"
