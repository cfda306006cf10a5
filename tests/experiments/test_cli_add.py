"""`nas add`: architectures of the space, and ONNX files as baselines."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from onnx import TensorProto

from experiments import reachable
from experiments.session import Session
from hardware.artifacts.onnx import export_onnx
from searchspaces import get_space
from tests.experiments.conftest import InProcess
from tests.experiments.small_session import give_predictor, give_weights, open_untrained
from tests.hardware.onnx_files import save_convolution

LIMITS = "search: {limits: {macs: 1000000}}"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = open_untrained(tmp_path, changes=LIMITS)
    give_weights(made)
    return made


@pytest.fixture
def own_file(session: Session, tmp_path: Path) -> Path:
    """A file as the run itself would write it."""
    arch = session.run.space.smallest
    artifact = session.bench.build(session.bench.inherit(arch), tmp_path / "own.onnx")
    return artifact.path


def test_an_architecture_is_evaluated_once_as_the_search_would(nas: InProcess, session: Session) -> None:
    run, arch = session.run, session.run.space.smallest
    first = json.loads(nas("add", run.path, "--arch", arch.to_json(), "--format", "json").out)["added"]
    (row,) = run.evaluations().to_dict("records")
    assert row["candidate_id"] == session.bench.inherit(arch).candidate_id == first[0]["candidate"]
    assert row["accuracy"] == session.workload.subnet_judge.judge([arch])[0].accuracy.value == first[0]["accuracy"]
    assert (row["weights_kind"], row["split"], first[0]["known"]) == ("inherited", "search", False)
    Path("arch.json").write_text(arch.to_json(), encoding="utf-8")
    again = nas("add", run.path, "--arch", "arch.json")
    assert "known before" in again.out
    assert len(run.evaluations()) == 1


def test_what_the_search_knew_is_named_without_being_evaluated_again(nas: InProcess, session: Session) -> None:
    run, arch = session.run, session.run.space.smallest
    nas("add", run.path, "--arch", arch.to_json())
    (row,) = run.evaluations().to_dict("records")
    (run.evaluations_table.directory).rename(run.path / "aside")
    run.evaluations_table.append([{str(key): value for key, value in row.items()} | {"trial_number": 3}])
    assert "1 were evaluated before" in nas("add", run.path, "--arch", arch.to_json()).err
    rows = run.evaluations()
    assert rows["trial_number"].tolist() == [3, -2]
    assert rows["accuracy"].nunique() == 1
    assert rows["seconds"].tolist()[1] == 0.0


def test_one_beyond_the_limits_is_said_to_be_so(nas: InProcess, session: Session) -> None:
    result = nas("add", session.run.path, "--arch", session.run.space.largest.to_json())
    assert result.code == 0
    assert "is beyond the run's limit macs" in result.err


def test_a_limit_of_a_further_device_keeps_it_from_that_device_only(
    nas: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The smallest network is measured there before: this device is as fast as it has to be.
    monkeypatch.setattr(reachable, "measure", lambda *_, **__: SimpleNamespace(low=0.0))
    further = "devices: [{id: torch-cpu, limits: {latency_ms: 0.04}}]"
    session = open_untrained(tmp_path / "two", changes=further)
    give_weights(session)
    give_predictor(session, "torch-cpu")
    said = nas("add", session.run.path, "--arch", session.run.space.largest.to_json()).err.replace("\n", " ")
    assert "limit latency_ms@torch-cpu <= 0.04 ms: it is neither verified there nor on the front of that device" in said
    assert "refined" not in said


def test_architectures_that_cannot_be_added_are_refused(nas: InProcess, session: Session) -> None:
    other = get_space("nas-bench-macro")
    foreign = nas("add", session.run.path, "--arch", other.smallest.to_json())
    assert foreign.code == 2
    assert other.space_id in foreign.err
    assert nas("add", session.run.path, "--arch", "{}").code == 2
    missing = nas("add", session.run.path, "--arch", "nowhere.json")
    assert (missing.code, "nowhere.json" in missing.err) == (2, True)
    assert nas("add", session.run.path).code == 2
    assert nas("add", session.run.path, "--arch", "{}", "--name", "x").code == 2
    assert session.run.evaluations().empty


def test_a_baseline_is_judged_in_the_runtime_and_waits_for_the_front(
    nas: InProcess, session: Session, own_file: Path
) -> None:
    run, bench = session.run, session.bench
    result = nas("add", run.path, "--onnx", own_file, "--name", "mine", "--format", "json")
    assert "the baseline is measured with the front" in result.err
    (added,) = json.loads(result.out)["added"]
    candidate = bench.inherit(run.space.smallest)
    assert added["accuracy"] == bench.accuracy(bench.artifact(candidate), bench.data.verify).value
    assert (added["kind"], added["name"]) == ("baseline", "mine")
    # it is none of the run's own candidates
    assert run.verifications().empty
    assert run.evaluations().empty
    document = json.loads(nas("pareto", run.path, "--format", "json").out)
    (shown,) = document["baselines"]
    assert document["points"] == []
    assert (shown["name"], shown["latency_ms"], shown["provenance"]) == ("mine", None, "unmeasured")
    assert shown["macs"] == session.pricer.price([run.space.smallest])[0].macs
    assert "mine" in nas("pareto", run.path).out
    assert "mine" in nas("pareto", run.path, "--format", "csv").out
    # the same file again
    assert "mine was added before" in nas("add", run.path, "--onnx", own_file).err
    renamed = nas("add", run.path, "--onnx", own_file, "--name", "yours")
    assert (renamed.code, "is the run's baseline 'mine'" in renamed.err) == (2, True)
    assert len(run.baseline_rows()) == 1


def test_a_baseline_of_normalised_inputs_gets_its_normalisation(
    nas: InProcess, session: Session, own_file: Path, tmp_path: Path
) -> None:
    run, data, arch = session.run, session.workload.data, session.run.space.smallest
    nas("add", run.path, "--onnx", own_file)
    network = session.bench.network(session.bench.inherit(arch))
    identity = replace(data.preprocessing, mean=(0.0,), std=(1.0,))
    bare = replace(data, preprocessing=identity)
    deployment = type(session.bench.deployment)(session.device, data=bare)
    path = tmp_path / "bare.onnx"
    deployment.build(network, shape=run.space.input_shape(arch), path=path)
    nas("add", run.path, "--onnx", path, "--input", "normalised")
    rows = run.baseline_rows()
    assert len(rows) == 2
    assert rows["num_correct"].nunique() == 1
    assert torch.equal(data.verify.inputs, bare.verify.inputs)


def test_files_that_cannot_be_compared_are_refused(
    nas: InProcess, session: Session, own_file: Path, tmp_path: Path
) -> None:
    run = session.run
    (tmp_path / "text.onnx").write_text("no network", encoding="utf-8")
    broken = nas("add", run.path, "--onnx", tmp_path / "text.onnx")
    assert (broken.code, "damaged or no ONNX file" in broken.err) == (1, True)
    assert nas("add", run.path, "--onnx", tmp_path / "nowhere.onnx").code == 2
    shape = nas("add", run.path, "--onnx", save_convolution(tmp_path / "shape.onnx"))
    assert (shape.code, "take float32 of shape (1, 1, 8, 8)" in shape.err) == (2, True)
    model = onnx.load(own_file)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    name = "uint8.onnx"
    onnx.save(model, tmp_path / name)
    assert nas("add", run.path, "--onnx", tmp_path / name).code != 0
    odd = get_space("mbconv-small", resolutions=[8], width=0.25, stem_stride=1)
    classifier = odd.build_supernet(num_classes=7).extract(odd.smallest).eval()
    export_onnx(classifier, example=torch.zeros(1, 1, 8, 8), path=tmp_path / "seven.onnx")
    seven = nas("add", run.path, "--onnx", tmp_path / "seven.onnx")
    assert (seven.code, "expected (1, 10)" in seven.err) == (2, True)
    spaced = nas("add", run.path, "--onnx", own_file, "--name", "a b")
    assert (spaced.code, "is no name of a baseline" in spaced.err) == (2, True)
    nas("add", run.path, "--onnx", own_file, "--name", "taken")
    taken = nas("add", run.path, "--onnx", own_file, "--name", "taken", "--input", "normalised")
    assert (taken.code, "another baseline of the name 'taken'" in taken.err) == (2, True)
    assert len(run.baseline_rows()) == 1


def test_devices_that_take_no_onnx_files_say_which_do(nas: InProcess, tmp_path: Path, own_file: Path) -> None:
    other = open_untrained(tmp_path / "torch", changes="device: {id: torch-cpu}")
    give_weights(other)
    result = nas("add", other.run.path, "--onnx", own_file)
    assert (result.code, "devices that take ONNX files: " in result.err) == (4, True)
    assert other.run.baseline_rows().empty
