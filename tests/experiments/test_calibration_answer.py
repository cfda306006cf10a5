"""What `nas devices calibrate` answers: how wrong the predictor is, and why it is the one that it is."""

from pathlib import Path

import pytest

from experiments.calibration_answer import calibration_document, calibration_text
from nas.calibrate import Calibration
from tests.nas.test_costs import run_calibrate


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path))
    return run_calibrate(monkeypatch, quantity="latency", energy=False)


def test_the_answer_says_why_each_family_counts(found: Calibration) -> None:
    document = calibration_document(found, provenance="measured")
    errors, weights = document["loo_rms_percent"], document["weights"]
    assert isinstance(errors, dict)
    assert isinstance(weights, dict)
    assert set(errors) >= set(weights)
    # The weights fall with these errors.
    assert sorted(weights, key=errors.__getitem__) == list(weights)
    assert document["loo_mape_percent"] == found.predictor.loo_mape_percent
    text = "\n".join(calibration_text(found, provenance="measured", table=None))
    for name, weight in weights.items():
        assert f"{name} {100 * weight:.0f} % (error {errors[name]:.1f} %)" in text


def test_the_answer_says_how_many_intervals_hold(found: Calibration) -> None:
    first = calibration_text(found, provenance="measured", table=None)[0]
    assert f"{found.scores.coverage:.0%} inside their 90 % intervals" in first
