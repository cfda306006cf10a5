"""What the stage `profile` finds to do on a device that was profiled before."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import stages
from experiments.session import Session
from hardware.files import write_json
from nas.profile import profile_path
from predictors import score
from tests.experiments.small_session import give_weights, open_untrained
from tests.fakes.reporters import Heard

DEVICE = "onnxruntime-cpu"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Profiled for latency, its p99 and energy."""
    made = open_untrained(tmp_path)
    give_weights(made)
    run = made.run
    for quantity in ("latency_p99", "energy"):
        replace(run.predictor(), quantity=quantity).save(run.predictor_dir(DEVICE, quantity=quantity))
    write_json(profile_path(run, DEVICE), {})
    return made


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, session: Session) -> list[str]:
    """Devices that were profiled again; the measurements are said to tell all three."""
    devices: list[str] = []

    def profile_device(bench: object, **_: object) -> tuple[object, object]:
        devices.append(session.device_id)
        return session.run.predictor(), SimpleNamespace(scores=score([1.0, 2.0], [1.0, 2.0]), accepted=True)

    monkeypatch.setattr(stages, "told_quantities", lambda run, *, device_id: ["latency_p99", "energy"])
    monkeypatch.setattr(stages, "profile_device", profile_device)
    return devices


@pytest.mark.parametrize("quantity", ["latency_p99", "energy"])
def test_a_predictor_that_was_deleted_is_fitted_again(session: Session, fitted: list[str], quantity: str) -> None:
    heard = Heard()
    assert not stages.profile(session, reporter=heard)
    assert (heard.found, fitted) == (["finished before"], [])
    shutil.rmtree(session.run.predictor_dir(DEVICE, quantity=quantity))
    assert stages.profile(session, reporter=heard)
    assert fitted == [DEVICE]


def test_the_stage_says_why_each_family_counts(session: Session, fitted: list[str]) -> None:
    shutil.rmtree(session.run.predictor_dir(DEVICE, quantity="energy"))
    heard = Heard()
    stages.profile(session, reporter=heard)
    assert f"predictor: {session.run.predictor().reasons}" in heard.messages
    assert "(error " in session.run.predictor().reasons
