"""`nas portfolio`: what it prints and what it refuses."""

import json
from pathlib import Path

import pytest

from nas.run import Run
from tests.experiments.conftest import InProcess
from tests.nas.predicted_run import add_device, predicted_run

DEVICES = ("--devices", "d,parallel")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = predicted_run(tmp_path_factory.mktemp("portfolio") / "run")
    add_device(made, "parallel")
    return made


def test_json_says_which_model_serves_which_budget(nas: InProcess, run: Run) -> None:
    budgets = ("--budgets", "d=0.04:0.06,parallel=0.12")
    result = nas("portfolio", run.path, *DEVICES, *budgets, "--epsilon", "0.02", "--format", "json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert [(t["device"], t["latency_ms"]) for t in document["targets"]] == [
        ("d", 0.04),
        ("d", 0.06),
        ("parallel", 0.12),
    ]
    chosen = document["portfolios"][document["chosen"]]
    assert document["within_epsilon"] == (chosen["worst_loss"] <= 0.02)
    for one in document["portfolios"]:
        assert set(one["models"]) <= set(document["architectures"])
        for row, target in zip(one["serving"], document["targets"], strict=True):
            assert row["latency_ms"] <= row["budget_ms"]
            assert row["loss"] == pytest.approx(target["own_best"]["accuracy"] - row["accuracy"])
        assert max(row["loss"] for row in one["serving"]) == one["worst_loss"]


def test_the_table_shows_the_price_of_sharing(nas: InProcess, run: Run) -> None:
    result = nas("portfolio", run.path, *DEVICES, "--budgets", "0.06,0.12", "--max-models", "1", "--epsilon", "0")
    assert result.code == 0
    assert "Price of sharing: predicted accuracy lost in test" in result.out
    assert "What 1 architectures serve" in result.out
    assert "above 0.00%: allow more architectures" in result.err


@pytest.mark.parametrize("format_", ["table", "json"])
def test_too_few_models_for_all_budgets_are_infeasible(
    nas: InProcess, run: Run, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    monkeypatch.setattr("nas.sharing.portfolios", lambda *_, **__: [])
    result = nas("portfolio", run.path, *DEVICES, "--budgets", "0.06,0.12", "--max-models", "1", "--format", format_)
    assert result.code == 3
    assert ('"chosen": null' in result.out) if format_ == "json" else ("allow more" in result.err)


@pytest.mark.parametrize(
    ("devices", "budgets", "code", "message"),
    [
        ("d,d", "1", 2, "expected different device ids"),
        ("d,", "1", 2, "expected different device ids"),
        ("d,parallel", "d=1", 2, "nothing for parallel"),
        ("d", "x=1", 2, "'x' is none of --devices d"),
        ("d", "fast", 2, "'fast' is no positive number of ms"),
        ("d", "d=-1", 2, "'-1' is no positive number of ms"),
        ("d", "nan", 2, "'nan' is no positive number of ms"),
        ("d,unknown", "1", 2, "no latency predictor for device 'unknown'"),
        ("d,parallel", "d=1e-6,parallel=1", 3, "smallest reachable"),
    ],
)
def test_bad_input_is_said(nas: InProcess, run: Run, devices: str, budgets: str, code: int, message: str) -> None:
    result = nas("portfolio", run.path, "--devices", devices, "--budgets", budgets)
    assert result.code == code
    assert message in result.err.replace("\u2502 ", "").replace(" \u2502", "")


def test_it_needs_a_run(nas: InProcess, tmp_path: Path) -> None:
    assert nas("portfolio", tmp_path / "none", *DEVICES, "--budgets", "1").code == 2
