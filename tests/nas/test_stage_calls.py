"""Calls of stages: what is killed counts, and counts once."""

import json
from pathlib import Path

import pytest

from hardware.errors import StorageError
from hardware.files import JSON
from nas import stage_calls
from nas.run import Run, utc_now
from nas.stage_calls import at_work, read_calls
from tests.nas.predicted_run import empty_run

ROW: dict[str, JSON] = {"stage": "search", "device_id": "d", "cores": 2, "gpus": 0}

ENDS: dict[str, JSON] = {"seconds": 31.0, "joules": None, "ended": "done"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return empty_run(tmp_path / "run")


def marker(run: Run) -> Path:
    return run.path / "stage_at_work.json"


def leave(run: Run, *, seconds: float, utc_time: str | None = None) -> None:
    """What a killed call leaves."""
    content = {**ROW, "seconds": seconds, "ended": "killed", "utc_time": utc_time or utc_now()}
    marker(run).write_text(json.dumps(content))


def test_a_killed_call_counts_until_its_death(run: Run) -> None:
    leave(run, seconds=42.0)
    (call,) = read_calls(run).to_dict("records")
    assert (call["stage"], call["seconds"], call["cores"], call["ended"]) == ("search", 42.0, 2, "killed")
    assert len(run.stages_table) == 0


def test_the_next_call_makes_a_row_of_it(run: Run) -> None:
    leave(run, seconds=42.0)
    with at_work(run, {**ROW, "stage": "refine"}):
        assert list(read_calls(run)["stage"]) == ["search"]
    assert not marker(run).exists()
    assert list(run.stages_table.read()["seconds"]) == [42.0]
    leave(run, seconds=7.0)
    assert list(read_calls(run)["seconds"]) == [42.0, 7.0]


def test_a_kill_right_after_the_row_of_the_end_counts_once(run: Run) -> None:
    with at_work(run, ROW) as end:
        leave(run, seconds=30.0)
        end(ENDS)
        assert marker(run).exists()
        assert list(read_calls(run)["seconds"]) == [31.0]


def test_a_row_that_cannot_be_written_counts_as_that_of_a_killed_call(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise StorageError("no space left", hint="free some")

    with at_work(run, ROW) as end, monkeypatch.context() as patch:
        leave(run, seconds=30.0)
        patch.setattr(run.stages_table, "append", full)
        with pytest.raises(StorageError):
            end(ENDS)
    assert list(read_calls(run)["seconds"]) == [30.0]


def test_it_is_brought_up_to_date(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_calls, "_EVERY_SECONDS", 0.01)
    with at_work(run, ROW):
        first = json.loads(marker(run).read_text())["seconds"]
        while json.loads(marker(run).read_text())["seconds"] == first:
            pass
    assert not marker(run).exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seconds": "long"}', '{"seconds": 0.5}'])
def test_what_is_damaged_or_short_does_not_count(run: Run, content: str) -> None:
    marker(run).write_text(content)
    assert len(read_calls(run)) == 0
    with at_work(run, ROW):
        pass
    assert len(run.stages_table) == 0
