"""The command `nas specialize` on a run of known costs; that with --fine-tune is in test_fine_tune."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from nas.objectives import Limit
from nas.run import Run
from nas.specialize import specialize
from searchspaces import Architecture
from tests.experiments.conftest import InProcess
from tests.nas.predicted_run import NUM, add_device, add_verification, predicted_run


def _unsure(run: Run) -> list[str]:
    """Options with which the limit lies amid the first answer's interval."""
    (first,) = specialize(run, limits=[Limit(name="macs", value=3e7, unit="MACs")], top=1)
    return ["--limit", f"latency_ms<={first.latency * (1.0 + 1e-6)}", "--limit", "macs<=3e7", "--top", "20"]


def test_what_may_miss_the_limit_comes_with_the_command_that_measures_it(nas: InProcess, tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    document = json.loads(nas("specialize", run.path, *_unsure(run), "--format", "json").out)
    unsure = [one for one in document["architectures"] if not (one["within_limits"] and one["in_range"])]
    assert len(document["to_be_sure"]) == len(unsure) > 0
    for one, command in zip(unsure, document["to_be_sure"], strict=True):
        words = shlex.split(command)
        assert words[:4] == ["nas", "add", str(run.path), "--arch"]
        assert Architecture.from_json(words[4]).arch_id == one["arch_id"]
        assert words[5:] == ["--verify"]


def test_on_a_further_device_it_is_added_and_then_verified_there(nas: InProcess, tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    add_device(run, "parallel")
    limit = specialize(run, device="parallel", top=1)[0].latency * (1.0 + 1e-6)
    asked = ["--device", "parallel", "--limit", f"latency_ms<={limit}", "--format", "json"]
    command = json.loads(nas("specialize", run.path, *asked).out)["to_be_sure"][0]
    words = shlex.split(command)
    assert words[:4] == ["nas", "add", str(run.path), "--arch"]
    assert words[5:] == ["&&", "nas", "verify", str(run.path), "--device", "parallel"]


def test_what_was_verified_is_not_asked_for_again(nas: InProcess, tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    asked = _unsure(run)
    document = json.loads(nas("specialize", run.path, *asked, "--format", "json").out)
    assert all(one["measured_latency"] is None for one in document["architectures"])
    first = next(one for one in document["architectures"] if not (one["within_limits"] and one["in_range"]))
    arch = Architecture.from_json(json.dumps(first["architecture"]))
    # What was measured elsewhere, or not at all, says nothing here.
    add_verification(run, arch, measured_ms=0.005, device="parallel")
    add_verification(run, arch, measured_ms=0.005, provenance="unmeasured")
    assert json.loads(nas("specialize", run.path, *asked, "--format", "json").out) == document
    add_verification(run, arch, measured_ms=0.005)
    after = json.loads(nas("specialize", run.path, *asked, "--format", "json").out)
    measured = {one["arch_id"]: one["measured_latency"] for one in after["architectures"]}
    assert measured[first["arch_id"]] == {
        "value": 0.005,
        "interval": [0.99 * 0.005, 1.01 * 0.005],
        "provenance": "measured",
        "suspect": False,
        "unit": "ms",
    }
    assert len(after["to_be_sure"]) == len(document["to_be_sure"]) - 1
    assert first["arch_id"] not in {Architecture.from_json(shlex.split(one)[4]).arch_id for one in after["to_be_sure"]}
    assert "measured: 0.005" in nas("specialize", run.path, *asked).out


@pytest.mark.parametrize("limit", ["latency_ms<=fast", "beauty<=1", "latency_ms<=-1", "latency_ms>=1"])
def test_a_limit_that_is_none_is_explained(nas: InProcess, tmp_path: Path, limit: str) -> None:
    run = predicted_run(tmp_path / "run")
    refused = nas("specialize", run.path, "--limit", limit)
    assert refused.code == 2
    assert "NAME<=NUMBER" in refused.err


def test_a_limit_has_one_value(nas: InProcess, tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    refused = nas("specialize", run.path, "--limit", "macs<=3e7", "--limit", "macs<=2e7", "--limit", "params<=1e6")
    assert refused.code == 2
    assert "macs more than once" in " ".join(refused.err.split())


def test_how_well_accuracies_are_predicted_is_said(nas: InProcess, tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    found = json.loads(nas("specialize", run.path, "--format", "json").out)["accuracy_predictor"]
    assert found["num"] == NUM
    assert found["kendall"] > 0.9
    assert 0.0 < found["rmse_points"] < 1.0
    # How many images decided is not known here.
    assert found["noise_points"] is None
    rows = run.evaluations()
    known = rows.assign(num_images=2000, metric="top1").to_dict("records")
    run.evaluations_table.append([{str(name): value for name, value in row.items()} for row in known])
    out = nas("specialize", run.path).out
    share_N = rows["accuracy"].to_numpy()
    noise = 100.0 * np.sqrt(np.mean(share_N * (1.0 - share_N)) / 2000)
    assert f"Kendall {found['kendall']:.3f}, RMSE {found['rmse_points']:.2f} points" in out
    assert f"the split's noise alone: {noise:.2f}" in out
