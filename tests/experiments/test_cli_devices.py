"""`nas devices`: measuring and calibrating without a run, what is kept of it, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.spaces import find_space
from hardware.artifacts.onnx import export_onnx
from hardware.records import (
    FILES,
    CalibrationSettings,
    calibrated_operators,
    calibrated_predictor,
    measured_spaces,
    measurement_table,
)
from hardware.testing import INPUT_SHAPE, example_network
from nas.calibrate import calibrated_elsewhere
from nas.errors import RunError
from nas.ways import ON_OPERATORS
from predictors import (
    LatencyPredictor,
    fit_latency_predictor,
    load_lookup_table,
    load_predictor,
    read_operator_table,
)
from predictors.store import scores_to_card
from searchspaces import get_space
from tests.experiments.conftest import InProcess


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_any_onnx_file_is_measured_and_kept(nas: InProcess, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    export_onnx(example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=path)
    result = nas("devices", "measure", path, "--protocol", "quick", "--format", "json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert 0 < document["low"] <= document["p50"] <= document["high"]
    assert (document["unit"], document["provenance"], document["protocol"]) == ("ms", "measured", "quick")
    rows = measurement_table("onnxruntime-cpu", space_id=FILES).read()
    assert rows["p50"].tolist() == [document["p50"]]
    assert rows["candidate_id"].tolist() == ["theirs.onnx"]
    shown = json.loads(nas("devices", "show", "onnxruntime-cpu", "--format", "json").out)
    assert shown["measurements"]["files"][0]["p50"] == document["p50"]
    assert set(shown["unit"]) == {"measuring", "computing", "waiting"}


def test_an_architecture_is_measured_without_training(nas: InProcess) -> None:
    result = nas("devices", "measure", "smallest", "--space", "mbconv-small", "--protocol", "quick")
    assert result.code == 0, result.err
    assert "(measured, median)" in result.out
    assert measured_spaces("onnxruntime-cpu") == [get_space("mbconv-small").space_id]


@pytest.mark.slow
def test_calibrating_leaves_a_predictor_with_its_held_out_error(nas: InProcess) -> None:
    arguments = ("onnxruntime-cpu", "--space", "mbconv-small", "--samples", "10", "--held-out", "4")
    result = nas("devices", "calibrate", *arguments, "--quantity", "latency_p99", "--format", "json")
    # A host that others keep busy may give nothing that can be believed; that has its own words.
    if result.code and "are suspect" in result.err:
        pytest.skip("the host is too busy to measure on")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["num_fit"] >= 10
    assert document["quantity"] == "latency_p99"
    assert document["quantities"][:2] == ["latency", "latency_p99"]
    assert document["held_out"]["mape_percent"] >= 0
    space = get_space("mbconv-small")
    predictor = load_predictor(Path(document["predictor"]), space=space, device_id="onnxruntime-cpu")
    assert predictor.scores is not None
    assert predictor.scores.mape_percent == document["held_out"]["mape_percent"]
    assert len(measurement_table("onnxruntime-cpu", space_id=space.space_id)) == 14


def test_calibrating_with_operators_says_what_they_help(nas: InProcess, tmp_path: Path) -> None:
    space_file = tmp_path / "tiny.yaml"
    space_file.write_text(
        "name: mbconv-small\n"
        "settings:\n"
        "  resolutions: [16]\n"
        "  stages: [{channels: 8, stride: 2, depths: [1, 2]}]\n"
        "  kernels: [3, 5]\n"
        "  expands: [2, 4]\n"
    )
    arguments = ("onnxruntime-cpu", "--space", space_file, "--samples", "10", "--held-out", "2", "--operators")
    more = ("--quantity", "latency_p99", "--table", "operators.json", "--format", "json")
    result = nas("devices", "calibrate", *arguments, *more)
    assert result.code == 0, result.err
    document = json.loads(result.out)
    operators = document["operators"]
    assert operators["num_parts"] == 12
    assert list(operators["held_out"]) == [
        *("regressor", "operator sum", "corrected operator sum", "regressor on operators")
    ]
    table = read_operator_table(tmp_path / "operators.json", device_id="onnxruntime-cpu")
    assert len(table.entries[16]) == 12
    space = find_space(str(space_file))
    stored = load_lookup_table(calibrated_operators("onnxruntime-cpu", space_id=space.space_id), space=space)
    assert stored.table.entries == table.entries
    assert stored.correction is not None
    assert stored.correction.numbers() == operators["correction"]
    tail = load_predictor(Path(document["predictor"]), space=space, quantity="latency_p99")
    assert scores_to_card(tail.scores) == document["held_out"]
    # It builds on the way to predict latency that was chosen.
    (latency,) = tail.sources
    assert isinstance(latency, LatencyPredictor)
    assert scores_to_card(latency.scores) == operators["held_out"][operators["chosen"]]
    assert [source.device_id for source in latency.sources] == document["sources"]
    assert document["sources"] == (["onnxruntime-cpu"] if operators["chosen"] == ON_OPERATORS else [])


def test_calibrations_that_build_on_others_are_no_sources(home: Path) -> None:
    space = get_space("mbconv-small")
    genomes_NG = space.sample_many(12, np.random.default_rng(0))
    table = pd.DataFrame(
        {
            "architecture": [arch.to_json() for arch in space.architectures(genomes_NG)],
            "latency_ms": 1.0 + space.op_table(genomes_NG).macs.sum(axis=1) / 1e6,
        }
    )
    first = fit_latency_predictor(table, space=space, device_id="first")
    second = fit_latency_predictor(table, space=space, device_id="second", sources=[first])
    # As on the device's own operator table.
    own = fit_latency_predictor(table, space=space, device_id="own", sources=[replace(first, device_id="own")])
    for predictor in (first, second, own):
        predictor.save(calibrated_predictor(predictor.device_id, space_id=space.space_id))
    told: list[str] = []

    def sources(device_id: str, sibling: str | None = None) -> list[str]:
        found = calibrated_elsewhere(
            device_id, space=space, settings=CalibrationSettings(), sibling=sibling, on_message=told.append
        )
        return [one.device_id for one in found]

    assert sources("third") == ["first", "own"]
    assert sources("first") == ["own"]
    # The same device in fp32 is the only source, whatever it builds on, unless that is the device itself.
    assert sources("third", sibling="second") == ["second"]
    assert sources("third", sibling="absent") == ["first", "own"]
    assert sources("first", sibling="second") == ["own"]
    assert told == []
    # One that is damaged, and one of other settings, are not built on, and that is said.
    batched = CalibrationSettings(batch=8, num_classes=100)
    first.save(calibrated_predictor("batched", space_id=space.space_id, settings=batched))
    (calibrated_predictor("first", space_id=space.space_id) / "model.safetensors").write_bytes(b"")
    assert sources("third", sibling="batched") == ["own"]
    assert told[0] == "not building on batched: it is calibrated with other settings (batch 8, threads 1, classes 100)"
    assert told[1].startswith("not building on first, whose calibration cannot be used: ")
    assert "model.safetensors" in told[1]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("measure", "smallest", "--device", "abacus"), 4, "unknown device 'abacus', known are"),
        (("measure", "smallest", "--protocol", "sloppy"), 2, "'sloppy' is not one of"),
        (("measure", "absent.onnx"), 2, "there is no file absent.onnx"),
        (("measure", '{"space": "other", "genes": {}}'), 2, "belongs to space 'other'"),
        (("measure", "nonsense"), 2, "'nonsense' is no MODEL.onnx"),
        (("measure", '{"space": "' + 5000 * "x" + '", "genes": {}}'), 2, "belongs to space 'xxx"),
        (("measure", "smallest", "--device", "cortex-m4", "--threads", "2"), 4, "threads is 2"),
        (("calibrate", "onnxruntime-cpu", "--seed", "-1"), 2, "should be greater than or equal to 0"),
        (("calibrate", "onnxruntime-cpu", "--samples", "3"), 2, "3 samples"),
        (("calibrate", "onnxruntime-cpu", "--quantity", "beauty"), 2, "'beauty' is not one of"),
        (("calibrate", "onnxruntime-cpu", "--space", "nasbench201"), 2, "no supernet"),
        (("calibrate", "onnxruntime-cpu", "--space", "nasbench201", "--operators"), 2, "no supernet"),
        (("calibrate", "onnxruntime-cpu", "--table", "operators.json"), 2, "--table writes what --operators measures"),
        (("show", "abacus"), 4, "unknown device"),
        (("check", "abacus"), 4, "unknown device"),
    ],
)
def test_what_cannot_be_is_told_at_once(
    nas: InProcess, home: Path, arguments: tuple[str, ...], code: int, named: str
) -> None:
    result = nas("devices", *arguments)
    assert named in result.err
    assert result.code == code
    assert not (home / "measurements").exists()


def test_a_device_of_this_machine_checks_itself(nas: InProcess) -> None:
    result = nas("devices", "check", "onnxruntime-cpu", "--format", "json")
    assert result.code == 0, result.err
    assert all(item["ok"] for item in json.loads(result.out))


def test_names_that_would_leave_the_directory_are_refused() -> None:
    with pytest.raises(Exception, match="cannot be the name") as caught:
        measurement_table("../elsewhere", space_id="mbconv-small")
    assert not isinstance(caught.value, RunError)
