"""Jobs on a cluster that only remembers them: what is sent, found again and refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from experiments.errors import ClusterError, JobError
from experiments.ray.environment import PACKAGES
from experiments.ray.jobs import Jobs, Order, stage_and_progress
from experiments.reporter import STAGES
from nas.errors import RunError
from tests.fakes.job_client import FakeJobClient

LOG = """2026-01-01 INFO job_manager.py:581 -- Runtime env is setting up.
Running entrypoint for job small-1: exec python ...
train    supernet, 2 epochs of 297 images
         done top-1 accuracy 51.0% (61 s)
search   nsga2, 24 architectures
         4 of 24, 9 s left
WARNING somewhere: something
"""


@pytest.fixture
def client() -> FakeJobClient:
    return FakeJobClient()


@pytest.fixture
def jobs(client: FakeJobClient) -> Jobs:
    return Jobs(client, address="http://head:8265", sleep=lambda seconds: None)


def order(run_dir: str = "/shared/a run", *, devices: str = "") -> Order:
    return Order(name="small", run_dir=run_dir, fingerprint="f" * 16, recipe_yaml="name: small\n", devices_yaml=devices)


def test_code_recipe_and_devices_are_shipped_and_nothing_else(jobs: Jobs, client: FakeJobClient) -> None:
    job_id = jobs.submit(order(devices="devices: []\n"))
    shipped = client.shipped[job_id]
    assert {name.partition("/")[0] for name in shipped} == {*PACKAGES, "recipe.yaml", "devices.yaml"}
    assert shipped["recipe.yaml"] == b"name: small\n"
    assert shipped["devices.yaml"] == b"devices: []\n"
    assert "experiments/ray/job_main.py" in shipped
    assert any(name.startswith("hardware/firmware/") and name.endswith(".c") for name in shipped)
    assert not any("__pycache__" in name for name in shipped)
    sent = client.submitted[job_id]
    assert "--run-dir '/shared/a run'" in str(sent["entrypoint"])


def test_without_devices_none_are_shipped(jobs: Jobs, client: FakeJobClient) -> None:
    job_id = jobs.submit(order())
    assert "devices.yaml" not in client.shipped[job_id]


def test_ids_are_the_runs_name_and_a_number(jobs: Jobs, client: FakeJobClient) -> None:
    assert [jobs.submit(order(f"/shared/{number}")) for number in range(3)] == ["small-1", "small-2", "small-3"]
    del client.jobs["small-2"]
    assert jobs.submit(order("/shared/3")) == "small-2"


def test_a_job_brings_back_what_was_sent(jobs: Jobs, client: FakeJobClient) -> None:
    sent = order(devices="devices: []\n")
    job = jobs.find(jobs.submit(sent))
    assert job.order == sent
    assert (job.state, job.is_active, job.exit_code) == ("running", True, None)
    assert job.seconds(now=job.started + timedelta(seconds=7)) == 7
    client.end(job.job_id, JobStatus.FAILED, exit_code=4)
    job = jobs.find(job.job_id)
    assert (job.state, job.is_active, job.exit_code) == ("failed", False, 4)
    assert job.seconds(now=datetime.now(UTC)) == 90


def test_a_run_is_found_by_its_newest_job(jobs: Jobs, client: FakeJobClient) -> None:
    for _ in range(2):
        jobs.submit(order("/shared/run"))
    assert [job.job_id for job in jobs.all()] == ["small-2", "small-1"]
    assert jobs.find("/shared/run").job_id == "small-2"


def test_an_unknown_job_is_told_with_those_that_there_are(jobs: Jobs) -> None:
    with pytest.raises(JobError, match="no job or run 'other-1', its jobs are: none"):
        jobs.find("other-1")
    jobs.submit(order())
    with pytest.raises(JobError, match=r"its jobs are: small-1 \(running\)") as caught:
        jobs.find("other-1")
    assert "nas list" in caught.value.hint


def test_other_peoples_jobs_are_not_ours(jobs: Jobs, client: FakeJobClient) -> None:
    client.jobs["theirs"] = JobDetails(
        type=JobType.SUBMISSION, submission_id="theirs", status=JobStatus.RUNNING, entrypoint="x", start_time=1
    )
    client.jobs["driver"] = JobDetails(type=JobType.DRIVER, job_id="01", status=JobStatus.RUNNING, entrypoint="x")
    assert jobs.all() == ()
    with pytest.raises(JobError):
        jobs.find("theirs")


def test_a_run_that_a_job_works_on_is_refused_until_it_ends(jobs: Jobs, client: FakeJobClient, tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    jobs.submit(order(run_dir))
    with pytest.raises(JobError, match=f"job small-1 is running on run {run_dir}") as caught:
        jobs.require_ready(run_dir, make_here=True)
    assert "nas stop small-1" in caught.value.hint
    client.end("small-1", JobStatus.SUCCEEDED, exit_code=0)
    assert jobs.require_ready(run_dir, make_here=True) == 3


@pytest.mark.parametrize("make_here", [True, False])
def test_a_directory_that_a_node_does_not_see_is_refused(
    jobs: Jobs, client: FakeJobClient, tmp_path: Path, make_here: bool
) -> None:
    client.nodes = {"a": None, "10.0.0.7 (ab12)": "does not see it"}
    with pytest.raises(RunError, match=r"node 10\.0\.0\.7 \(ab12\) does not see it"):
        jobs.require_ready(str(tmp_path / "run"), make_here=make_here)
    assert list(tmp_path.iterdir()) == []
    assert client.jobs == {}


def test_a_directory_of_other_files_is_refused_and_stays(jobs: Jobs, client: FakeJobClient, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="holds files that are not a run's"):
        jobs.require_ready(str(tmp_path), make_here=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert client.submitted == {}


def test_a_cluster_without_our_environment_is_told(jobs: Jobs, client: FakeJobClient, tmp_path: Path) -> None:
    client.nodes = "/bin/sh: 1: exec: python: not found\n"
    with pytest.raises(ClusterError, match="python: not found") as caught:
        jobs.require_ready(str(tmp_path / "run"), make_here=True)
    assert "environment active" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_stopping_waits_for_the_end_and_refuses_what_has_ended(jobs: Jobs, client: FakeJobClient) -> None:
    jobs.submit(order())
    stopped = jobs.stop(jobs.find("small-1"))
    assert stopped.state == "stopped"
    with pytest.raises(JobError, match="job small-1 has ended already: stopped") as caught:
        jobs.stop(stopped)
    assert "nas resume small-1" in caught.value.hint


def test_a_job_that_does_not_end_is_told(jobs: Jobs, client: FakeJobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.submit(order())
    monkeypatch.setattr(client, "stop_job", lambda job_id: True)
    with pytest.raises(ClusterError, match="has not ended within 60 s"):
        jobs.stop(jobs.find("small-1"))


def test_following_passes_everything_on_until_the_end(jobs: Jobs, client: FakeJobClient) -> None:
    jobs.submit(order())
    client.logs["small-1"] = LOG
    client.end("small-1", JobStatus.FAILED, exit_code=3)
    heard: list[str] = []
    assert jobs.follow(jobs.find("small-1"), write=heard.append).exit_code == 3
    assert heard == [LOG]


def test_a_cluster_that_goes_away_is_told(jobs: Jobs, client: FakeJobClient) -> None:
    jobs.submit(order())
    job = jobs.find("small-1")
    client.is_gone = True
    for call in (jobs.all, lambda: jobs.logs(job), lambda: jobs.stop(job), lambda: jobs.follow(job, write=print)):
        with pytest.raises(ClusterError, match="cannot be reached: Connection refused"):
            call()


def test_stage_and_progress_are_the_last_of_the_log() -> None:
    assert stage_and_progress(LOG, stages=STAGES) == ("search", "4 of 24, 9 s left")
    assert stage_and_progress(LOG.partition("         4")[0], stages=STAGES) == ("search", "nsga2, 24 architectures")
    assert stage_and_progress("", stages=STAGES) == (None, None)
