"""`nas ledger`: what it prints."""

import json
import shutil
from pathlib import Path

import pytest

from nas.run import Run
from tests.experiments.conftest import InProcess
from tests.nas.predicted_run import empty_run, predicted_run
from tests.nas.test_ledger import call, fine_tuned, train


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that recorded its stages, of a supernet of 40 epochs, with one network fine-tuned for two."""
    made = fine_tuned(predicted_run(tmp_path / "run"))
    made.stages_table.append([call("train", 60.0, cores=2), call("profile", 30.0), call("search", 10.0, cores=2)])
    train(made, epochs=40)
    return made


def test_the_ledger_is_json(nas: InProcess, run: Run) -> None:
    document = json.loads(nas("ledger", run.path, "--watts-per-core", "5", "--format", "json").out)
    assert [stage["core_seconds"] for stage in document["stages"]] == [120.0, 30.0, 20.0]
    assert document["joules"] == 5 * 170.0
    even = document["break_even"]
    assert (even["shared_core_seconds"], even["epochs_alone"], even["core_seconds_alone"]) == (170.0, 40, 80.0)
    assert even["networks"] == pytest.approx(170.0 / 76.0)


def test_the_table_names_its_assumptions(nas: InProcess, run: Run) -> None:
    out = " ".join(nas("ledger", run.path, "--epochs-alone", "4").out.split())
    assert "Ledger of test" in out
    assert "estimated energy: 10 W a core, 300 W a GPU (assumed)" in out
    assert "break-even at 42.5 networks: 170.0 core seconds once, 4.0 a network" in out
    assert "4 epochs alone would take 8.0 core seconds a network" in out


def test_what_the_supernet_started_from_is_told(nas: InProcess, run: Run, tmp_path: Path) -> None:
    origin = empty_run(tmp_path / "origin")
    train(run, epochs=40, start=train(origin, epochs=5, seconds=9.0))
    out = " ".join(nas("ledger", run.path, "--epochs-alone", "4").out.split())
    assert f"started from that of {origin.path}: trained there in at most 9.0 core seconds" in out
    assert "179.0 core seconds once, the start's included, 4.0 a network" in out
    shutil.rmtree(origin.path)
    out = " ".join(nas("ledger", run.path, "--epochs-alone", "4").out.split())
    assert "started from another one, whose training is not in this run; its cost is not known" in out
    assert "no break-even: what training the supernet's start took is not known" in out


def test_bad_input_is_said(nas: InProcess, run: Run, tmp_path: Path) -> None:
    assert nas("ledger", tmp_path / "none").code == 2
    assert nas("ledger", run.path, "--watts-per-core", "-1").code == 2
    assert nas("ledger", run.path, "--epochs-alone", "0").code == 2
