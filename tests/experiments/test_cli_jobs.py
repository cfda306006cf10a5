"""`nas submit | status | logs | stop | resume | list` on a cluster that only remembers jobs."""

import json
import shutil
from pathlib import Path

import pytest
from ray.job_submission import JobStatus

from experiments.ray import job_client
from experiments.recipe import load_recipe
from experiments.session import new_run
from tests.experiments.conftest import QUICKSTART, InProcess
from tests.fakes.job_client import FakeJobClient

ADDRESS = "http://head:8265"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeJobClient:
    fake = FakeJobClient()
    monkeypatch.setattr(job_client, "open_client", lambda address, token_file: fake)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", ADDRESS)
    return fake


def test_a_recipe_is_submitted_as_it_was_resolved_and_says_what_to_type_next(
    nas: InProcess, client: FakeJobClient, tmp_path: Path
) -> None:
    result = nas("submit", QUICKSTART, "--quick", "--set", "seed=7", "--run-dir", "shared/run", "--token-file", "t")
    assert result.code == 0, result.err
    assert "seen by 3 nodes" in result.out
    # The address is in the environment, the token's file is not.
    assert "nas logs quickstart-1 --token-file t --follow" in result.out
    (tmp_path / "sent.yaml").write_bytes(client.shipped["quickstart-1"]["recipe.yaml"])
    assert load_recipe(tmp_path / "sent.yaml") == load_recipe(QUICKSTART, quick=True, overrides=["seed=7"])
    assert f"--run-dir {tmp_path}/shared/run " in str(client.submitted["quickstart-1"]["entrypoint"])


def test_json_prints_nothing_but_json(nas: InProcess, client: FakeJobClient, tmp_path: Path) -> None:
    sent = json.loads(nas("submit", QUICKSTART, "--format", "json").out)
    assert sent["job"] == "quickstart-1"
    assert sent["run"] == str(tmp_path / "runs" / "quickstart")
    client.logs["quickstart-1"] = "train    supernet\n         3 of 40, 5 s left\n"
    status = json.loads(nas("status", sent["run"], "--format", "json").out)
    assert (status["state"], status["stage"], status["progress"]) == ("running", "train", "3 of 40, 5 s left")
    assert status["fingerprint"] == sent["fingerprint"] == load_recipe(QUICKSTART).fingerprint()
    assert [row["job"] for row in json.loads(nas("list", "--format", "json").out)] == ["quickstart-1"]
    assert json.loads(nas("logs", "quickstart-1", "--format", "json").out)["log"] == client.logs["quickstart-1"]
    stopped = json.loads(nas("stop", "quickstart-1", "--format", "json").out)
    assert (stopped["state"], stopped["duration_s"]) == ("stopped", 90.0)


def test_tables_show_the_same(nas: InProcess, client: FakeJobClient) -> None:
    nas("submit", QUICKSTART)
    client.logs["quickstart-1"] = "search   nsga2\n         3 of 40\n"
    listed = nas("list").out
    assert all(text in listed for text in ("quickstart-1", "running", "search", "3 of 40", "2023-11-14"))
    assert "3 of 40" in nas("status", "quickstart-1").out
    assert nas("logs", "quickstart-1").out == client.logs["quickstart-1"]
    assert "nas resume quickstart-1" in nas("stop", "quickstart-1").out


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, -9, 1),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 130),
    ],
)
def test_a_followed_job_ends_with_the_runs_own_exit_code(
    nas: InProcess,
    client: FakeJobClient,
    monkeypatch: pytest.MonkeyPatch,
    status: JobStatus,
    exit_code: int | None,
    code: int,
) -> None:
    submit = client.submit_job

    def submit_and_end(**arguments: object) -> str:
        job_id = submit(**arguments)  # type: ignore[arg-type]
        client.logs.setdefault(job_id, "what the job prints\n")
        client.end(job_id, status if job_id == "quickstart-1" else JobStatus.SUCCEEDED, exit_code=exit_code)
        return job_id

    monkeypatch.setattr(client, "submit_job", submit_and_end)
    result = nas("submit", QUICKSTART, "--follow")
    assert result.code == code
    assert "what the job prints" in result.out


def test_a_run_that_is_worked_on_is_refused_and_goes_on_after_its_end(
    nas: InProcess, client: FakeJobClient, tmp_path: Path
) -> None:
    nas("submit", QUICKSTART, "--run-dir", "run")
    for command in (("submit", QUICKSTART, "--run-dir", "run"), ("resume", "quickstart-1"), ("resume", "run")):
        result = nas(*command)
        assert result.code == 2
        assert "job quickstart-1 is running on run" in result.err
    client.end("quickstart-1", JobStatus.FAILED, exit_code=1)
    result = nas("resume", "quickstart-1")
    assert result.code == 0, result.err
    assert client.submitted["quickstart-2"]["metadata"] == client.submitted["quickstart-1"]["metadata"]


def test_a_run_that_the_cluster_has_forgotten_is_resumed_with_its_own_recipe(
    nas: InProcess, client: FakeJobClient, tmp_path: Path
) -> None:
    recipe = load_recipe(QUICKSTART, overrides=["seed=5"])
    new_run(recipe, tmp_path / "run", num_classes=10)
    result = nas("resume", "run")
    assert result.code == 0, result.err
    assert client.shipped["quickstart-1"]["recipe.yaml"].decode() == recipe.to_yaml()
    # Another recipe is refused here already, not by the job.
    result = nas("submit", QUICKSTART, "--run-dir", "run", "--set", "seed=6")
    assert result.code == 2
    assert "was made with another recipe (seed: 5 against 6" in result.err


def test_devices_go_along_and_broken_ones_are_refused_here(
    nas: InProcess, client: FakeJobClient, tmp_path: Path
) -> None:
    devices = 'devices:\n  - {id: far, backend: onnxruntime-cpu, where: {ray: {resource: "device:far"}}}\n'
    (tmp_path / "devices.yaml").write_text(devices, encoding="utf-8")
    assert nas("submit", QUICKSTART, "--set", "device.id=far").code == 0
    assert client.shipped["quickstart-1"]["devices.yaml"].decode() == devices
    (tmp_path / "devices.yaml").write_text("devices: [{id: far}]\n", encoding="utf-8")
    result = nas("submit", QUICKSTART, "--run-dir", "other")
    assert result.code == 2
    assert "devices.yaml" in result.err
    assert list(client.shipped) == ["quickstart-1"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("submit", QUICKSTART, "--set", "train.epochs=ten"), "'ten'"),
        (("submit", "absent.yaml"), "absent.yaml"),
        (("submit", QUICKSTART, "--follow", "--format", "json"), "--follow has no JSON form"),
        (("logs", "quickstart-1", "--follow", "--format", "json"), "--follow has no JSON form"),
        (("status", "quickstart-9"), "no job or run 'quickstart-9', its jobs are: none"),
        (("logs", "quickstart-9"), "no job or run"),
        (("stop", "quickstart-9"), "no job or run"),
        (("resume", "quickstart-9"), "no job or run"),
    ],
)
def test_what_cannot_be_is_told_with_2_and_sends_nothing(
    nas: InProcess, client: FakeJobClient, arguments: tuple[str | Path, ...], named: str
) -> None:
    result = nas(*arguments)
    assert result.code == 2
    assert named in result.err
    assert client.submitted == {}
    assert not Path("runs").exists()


def test_a_directory_that_is_not_shared_and_an_ended_job_are_told_with_2(nas: InProcess, client: FakeJobClient) -> None:
    client.nodes = {"10.0.0.7": "does not see it"}
    result = nas("submit", QUICKSTART)
    assert result.code == 2
    assert "node 10.0.0.7 does not see it" in result.err
    client.nodes = {"10.0.0.7": None}
    nas("submit", QUICKSTART)
    client.end("quickstart-1", JobStatus.SUCCEEDED, exit_code=0)
    result = nas("stop", "quickstart-1")
    assert result.code == 2
    assert "has ended already: succeeded" in result.err


def test_without_an_address_and_with_a_dead_one_the_way_out_is_named(
    nas: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    result = nas("list")
    assert result.code == 2
    assert "--address" in result.err
    result = nas("list", "--address", "http://127.0.0.1:1")
    assert result.code == 1
    assert "cannot be reached" in result.err


def test_a_recipe_by_another_path_is_the_same_run(nas: InProcess, client: FakeJobClient, tmp_path: Path) -> None:
    shutil.copy(QUICKSTART, tmp_path / "copy.yaml")
    nas("submit", "copy.yaml", "--run-dir", "run")
    assert nas("status", tmp_path / "run").code == 0
    assert "quickstart-1" in nas("status", "./run").out
