"""Limits that are set while a run goes on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import reachable
from experiments.evaluated import known_evaluations
from experiments.limit_notes import limit_notes
from experiments.reachable import asked_limits
from experiments.recipe import Recipe, load_recipe
from experiments.session import Session, open_session
from nas.accuracy import top1
from nas.errors import InfeasibleError
from nas.search.records import evaluation_row
from tests.experiments.small_session import give_weights, open_untrained


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = open_untrained(tmp_path)
    give_weights(made)
    return made


def changed(session: Session, *changes: str) -> Recipe:
    return load_recipe(session.run.recipe_path, overrides=changes)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("latency_ms=0.001", r"latency_ms 0\.01\d* ms \(predicted"),
        ("peak_memory_bytes=10", r"peak_memory_bytes \d+ bytes \(estimated"),
        ("params=10", r"params \d+ \(estimated"),
    ],
)
def test_a_limit_that_nothing_meets_is_refused_before_the_run_takes_it_over(
    session: Session, limit: str, reason: str
) -> None:
    before = session.run.recipe_path.read_bytes()
    with pytest.raises(InfeasibleError, match=reason):
        open_session(changed(session, f"search.limits.{limit}"), session.run.path)
    assert session.run.recipe_path.read_bytes() == before
    assert open_session(changed(session), session.run.path).limits == ()


@pytest.mark.parametrize(
    ("limit", "reason"), [("macs=1", "macs binds"), ("latency_ms=1e-6", r"latency_ms 0\.\d+ ms \(measured")]
)
def test_limits_are_checked_before_a_run_is_profiled(tmp_path: Path, limit: str, reason: str) -> None:
    session = open_untrained(tmp_path)
    before = session.run.recipe_path.read_bytes()
    with pytest.raises(InfeasibleError, match=reason):
        open_session(changed(session, f"search.limits.{limit}"), session.run.path)
    assert session.run.recipe_path.read_bytes() == before


def test_a_limit_on_a_further_device_that_is_not_profiled_yet_is_measured(session: Session) -> None:
    before = session.run.recipe_path.read_bytes()
    with pytest.raises(InfeasibleError, match=r"latency_ms@torch-cpu 0\.\d+ ms \(measured"):
        open_session(changed(session, "devices=[{id: torch-cpu, limits: {latency_ms: 1e-6}}]"), session.run.path)
    assert session.run.recipe_path.read_bytes() == before


def test_a_limit_that_something_meets_is_taken_over(session: Session) -> None:
    again = open_session(changed(session, "search.limits.peak_memory_bytes=1e6"), session.run.path)
    assert load_recipe(session.run.recipe_path).search.limits.peak_memory_bytes == 1e6
    assert [limit.name for limit in again.limits] == ["peak_memory_bytes"]


def test_the_search_keeps_to_a_further_devices_limit_once_that_is_profiled(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before that the smallest network is measured there; this device is as fast as it has to be.
    monkeypatch.setattr(reachable, "measure", lambda *_, **__: SimpleNamespace(low=0.0))
    run = session.run
    for number, arch in enumerate((run.space.smallest, run.space.largest)):
        run.evaluations_table.append(
            [
                evaluation_row(
                    session.bench.inherit(arch),
                    accuracy=top1(np.arange(300) < 200 + number),
                    price=session.pricer.price([arch])[0],
                    trial_number=number,
                    seconds=1.0,
                )
            ]
        )
    slow = session.pricer.price([run.space.largest])[0].latency_predicted_ms
    recipe = changed(session, f"devices=[{{id: torch-cpu, limits: {{latency_ms: {slow * 0.99}}}}}]")
    assert [str(limit) for limit in asked_limits(recipe)] == [f"latency_ms@torch-cpu <= {slow * 0.99:g} ms"]
    again = open_session(recipe, run.path)
    assert again.limits == ()
    assert "does not keep to latency_ms@torch-cpu" in limit_notes(again)[0]
    assert len(known_evaluations(again)) == 2
    replace(run.predictor(), device_id="torch-cpu").save(run.predictor_dir("torch-cpu"))
    profiled = open_session(recipe, run.path)
    assert profiled.limits == asked_limits(recipe)
    assert limit_notes(profiled) == []
    assert set(known_evaluations(profiled)) == {run.space.smallest.arch_id}
    with pytest.raises(InfeasibleError, match="latency_ms@torch-cpu binds"):
        open_session(changed(session, "devices=[{id: torch-cpu, limits: {latency_ms: 1e-6}}]"), run.path)


def test_limits_on_further_devices_are_checked_before_a_run_is_trained(tmp_path: Path) -> None:
    devices = "devices: [{{id: torch-cpu}}, {{id: openvino-cpu, batch: 2, limits: {{latency_ms: {}}}}}]\n"
    with pytest.raises(InfeasibleError, match=r"latency_ms@openvino-cpu 0\.\d+ ms \(measured") as caught:
        open_untrained(tmp_path, changes=devices.format(1e-6))
    assert caught.value.hint.startswith("raise limits.latency_ms of openvino-cpu in the recipe's devices above")
    assert not (tmp_path / "run" / "run.json").exists()
    assert open_untrained(tmp_path, changes=devices.format(1e6)).recipe.devices[1].limits.latency_ms == 1e6
