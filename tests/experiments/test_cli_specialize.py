"""The command `nas specialize` on a run of known costs; that with --fine-tune is in test_fine_tune."""

import json
import shlex
from pathlib import Path

import pytest

from nas.objectives import Limit
from nas.specialize import specialize
from searchspaces import Architecture
from tests.experiments.conftest import InProcess
from tests.nas.predicted_run import predicted_run


def test_what_may_miss_the_limit_comes_with_the_command_that_measures_it(nas: InProcess, tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    (first,) = specialize(run, limits=[Limit(name="macs", value=3e7, unit="MACs")], top=1)
    # With the limit at what is predicted of it, half of its interval is beyond.
    limit = first.latency * (1.0 + 1e-6)
    found = nas(
        "specialize",
        run.path,
        "--limit",
        f"latency_ms<={limit}",
        "--limit",
        "macs<=3e7",
        "--top",
        "20",
        "--format",
        "json",
    )
    document = json.loads(found.out)
    unsure = [one for one in document["architectures"] if not (one["within_limits"] and one["in_range"])]
    assert len(document["to_be_sure"]) == len(unsure) > 0
    for one, command in zip(unsure, document["to_be_sure"], strict=True):
        words = shlex.split(command)
        assert words[:3] == ["nas", "devices", "measure"]
        assert Architecture.from_json(words[3]).arch_id == one["arch_id"]
        assert words[4:] == ["--device", "d", "--space", str(run.recipe_path), "--classes", "7"]


@pytest.mark.parametrize("limit", ["latency_ms<=fast", "beauty<=1", "latency_ms<=-1", "latency_ms>=1"])
def test_a_limit_that_is_none_is_explained(nas: InProcess, tmp_path: Path, limit: str) -> None:
    run = predicted_run(tmp_path / "run")
    refused = nas("specialize", run.path, "--limit", limit)
    assert refused.code == 2
    assert "NAME<=NUMBER" in refused.err
