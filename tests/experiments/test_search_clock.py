"""The hours of a search, over several calls."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import search_stage
from experiments.evaluated import known_evaluations
from experiments.search_clock import SearchClock, is_over
from experiments.session import Session
from nas.run import utc_now
from nas.search.pool import SerialPool
from nas.stage_calls import at_work
from tests.experiments.small_session import give_weights, open_untrained
from tests.fakes.reporters import Heard


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    made = open_untrained(tmp_path, changes="search: {sampler: random, evaluations: 4, subnets_per_task: 1, hours: 1}")
    give_weights(made)

    class Pool(SerialPool):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(made.workload.judge())

        def close(self) -> None:
            pass

    monkeypatch.setattr("experiments.search_stage.RayEvaluationPool", Pool)
    return made


def record(session: Session, *, stage: str, hours: float) -> None:
    row = {"stage": stage, "device_id": "d", "seconds": 3600 * hours, "cores": 1, "gpus": 0, "joules": None}
    session.run.stages_table.append([{**row, "ended": "done", "utc_time": utc_now()}])


def with_hours(session: Session, hours: float | None) -> Session:
    search = session.recipe.search.model_copy(update={"hours": hours})
    return replace(session, recipe=session.recipe.model_copy(update={"search": search}))


def over(session: Session) -> bool:
    wanted, clock = session.recipe.search.evaluations, SearchClock(session)
    return is_over(len(known_evaluations(session)), wanted=wanted, used_up=clock.used_up)


def search(session: Session) -> tuple[bool, str]:
    heard = Heard()
    changed = search_stage.search(session, cluster=nullcontext, reporter=heard, on_rows=lambda: None)
    return changed, " ".join(heard.found)


def test_only_hours_of_searching_count(session: Session) -> None:
    record(session, stage="train", hours=5.0)
    record(session, stage="search", hours=0.6)
    assert SearchClock(session).used_up() is None
    record(session, stage="search", hours=0.5)
    assert "1.1 of search.hours=1 are used up" in str(SearchClock(session).used_up())
    assert SearchClock(with_hours(session, None)).used_up() is None


def test_the_hours_of_a_killed_call_count(session: Session) -> None:
    record(session, stage="search", hours=0.6)
    with at_work(session.run, {"stage": "search", "device_id": "d", "cores": 1, "gpus": 0}):
        marker = session.run.path / "stage_at_work.json"
        killed = {**json.loads(marker.read_text()), "seconds": 1800.0}
    marker.write_text(json.dumps(killed))
    assert "1.1 of search.hours=1 are used up" in str(SearchClock(session).used_up())


def test_a_search_ends_with_its_hours_and_goes_on_with_more(session: Session) -> None:
    record(session, stage="search", hours=2.0)
    # Nothing is known yet: the first task is done in any case.
    assert not over(session)
    changed, text = search(session)
    assert changed
    assert "of 4 architectures evaluated: 2 of search.hours=1 are used up" in text
    num = len(session.run.evaluations())
    assert 1 <= num < 4
    assert over(session)
    changed, text = search(session)
    assert not changed
    assert "search.hours=1 are used up" in text
    assert len(session.run.evaluations()) == num
    more = with_hours(session, 3.0)
    changed, text = search(more)
    assert changed
    assert "4 architectures evaluated" in text
    assert len(session.run.evaluations()) == 4
    # Enough is enough, whatever the clock says.
    assert "finished before" in search(session)[1]
