"""Runs as jobs of a Ray cluster: sent there with code and recipe, found again, followed, stopped.

A job carries all that it takes to send it again, so that whoever can reach the cluster can resume it: recipe and
devices are in its metadata, results in the run directory.
"""

import asyncio
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from ray.job_submission import JobDetails

from experiments.errors import ClusterError, JobError
from experiments.ray.environment import package_directories
from experiments.ray.job_client import JobClient, explained
from experiments.ray.shared_storage import require_shared
from hardware.fleet import FLEET_FILE

_RECIPE_FILE = "recipe.yaml"
_POLL_S = 0.3
_STOP_SECONDS = 30
# As Ctrl-C, which ends a run in good order; what has not ended by then is killed.
_STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}
_PREFIX = "archsmith_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is sent: everything a job needs but code and data.

    Attributes:
        name: the recipe's.
        run_dir: absolute, as the nodes see it.
        fingerprint: the recipe's.
        recipe_yaml: the resolved recipe.
        devices_yaml: text of `devices.yaml`; empty if there is none.
    """

    name: str
    run_dir: str
    fingerprint: str
    recipe_yaml: str
    devices_yaml: str = ""

    def to_metadata(self) -> dict[str, str]:
        """As a job carries it."""
        return {f"{_PREFIX}{key}": value for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Order | None":
        """Back from a job's metadata; None for a job that is not ours."""
        try:
            return cls(**{field.name: metadata[f"{_PREFIX}{field.name}"] for field in fields(cls)})
        except KeyError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a recipe as a job.

    Attributes:
        job_id: unique on its cluster.
        state: "pending", "running", "succeeded", "failed" or "stopped".
        order: what was sent.
        started: when it was submitted, UTC.
        ended: when it ended; None before.
        exit_code: of `nas run`; None before it ended, or if it was killed with its node.
        message: what Ray says about the state, in one line.
    """

    job_id: str
    state: str
    order: Order
    started: datetime
    ended: datetime | None
    exit_code: int | None
    message: str

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.state in ("pending", "running")

    def seconds(self, *, now: datetime) -> float:
        """From its start to its end, or to `now`."""
        return max(0.0, ((self.ended or now) - self.started).total_seconds())


class Jobs:
    """The jobs of one cluster; `open_client` gives the client."""

    def __init__(self, client: JobClient, *, address: str, sleep: Callable[[float], object] = time.sleep) -> None:
        self._client, self._address, self._sleep = client, address, sleep

    def all(self) -> tuple[Job, ...]:
        """Our jobs, newest first.

        Raises:
            ClusterError: the cluster is not there any more; so does every method.
        """
        with explained(self._address):
            found = [job for details in self._client.list_jobs() if (job := _read(details)) is not None]
        return tuple(sorted(found, key=lambda job: job.started, reverse=True))

    def find(self, what: str) -> Job:
        """The job of an id, or the newest one of a run directory.

        Raises:
            JobError: there is none; the message lists those that there are.
        """
        jobs = self.all()
        for job in jobs:
            if what == job.job_id or str(Path(what).absolute()) == job.order.run_dir:
                return job
        known = ", ".join(f"{job.job_id} ({job.state})" for job in jobs) or "none"
        raise JobError(
            f"the cluster at {self._address} knows no job or run {what!r}, its jobs are: {known}",
            hint="list them: nas list; a cluster that was started again has forgotten its jobs, their runs go on with "
            "nas resume RUN",
        )

    def require_ready(self, run_dir: str, *, make_here: bool) -> int:
        """Refuse a run that a job is working on, or a directory that the nodes do not share; see `require_shared`.

        Returns:
            Number of nodes.

        Raises:
            JobError: a job works on it; the message names the job.
            RunError: a node does not see the directory, or may not write there; or it holds other files.
        """
        for job in self.all():
            if job.is_active and job.order.run_dir == run_dir:
                raise JobError(
                    f"job {job.job_id} is {job.state} on run {run_dir}",
                    hint=f"follow it (nas logs {job.job_id} --follow), stop it (nas stop {job.job_id}), or use another "
                    "--run-dir",
                )
        with explained(self._address):
            return require_shared(self._client, Path(run_dir), make_here=make_here, sleep=self._sleep)

    def submit(self, order: Order) -> str:
        """Send a run with the code of this machine; see `require_ready` before.

        Returns:
            The job's id: the run's name and a number.
        """
        known = {job.job_id for job in self.all()}
        number = next(n for n in range(1, len(known) + 2) if f"{order.name}-{n}" not in known)
        with _packed(order) as folder, explained(self._address):
            return self._client.submit_job(
                # The shell becomes Python, so that signals and exit codes are the run's.
                entrypoint=f'exec python -m experiments.ray.job_main run "$PWD/{_RECIPE_FILE}" '
                f'--run-dir {shlex.quote(order.run_dir)} --address "$RAY_ADDRESS"',
                submission_id=f"{order.name}-{number}",
                runtime_env={"working_dir": str(folder), "env_vars": dict(_STOPPING)},
                metadata=order.to_metadata(),
            )

    def logs(self, job: Job) -> str:
        """What a job has printed so far."""
        with explained(self._address):
            return self._client.get_job_logs(job.job_id)

    def follow(self, job: Job, *, write: Callable[[str], object]) -> Job:
        """Pass on what a job prints, from the beginning until it has ended; return it as it then is."""

        async def listen() -> None:
            async for text in self._client.tail_job_logs(job.job_id):
                write(text)

        with explained(self._address):
            asyncio.run(listen())
        return self._when_ended(job)

    def stop(self, job: Job) -> Job:
        """End a job as Ctrl-C would and wait for that; return it as it then is.

        Raises:
            JobError: it has ended already.
            ClusterError: it does not end.
        """
        if not job.is_active:
            raise JobError(
                f"job {job.job_id} has ended already: {job.state}", hint=f"go on with its run: nas resume {job.job_id}"
            )
        with explained(self._address):
            self._client.stop_job(job.job_id)
        return self._when_ended(job)

    def _when_ended(self, job: Job) -> Job:
        for _ in range(int(2 * _STOP_SECONDS / _POLL_S)):
            job = self.find(job.job_id)
            if not job.is_active:
                return job
            self._sleep(_POLL_S)
        raise ClusterError(
            f"job {job.job_id} has not ended within {2 * _STOP_SECONDS} s", hint=f"nas status {job.job_id}"
        )


def stage_and_progress(log: str, *, stages: Sequence[str]) -> tuple[str | None, str | None]:
    """The last stage that a job's log tells of, and the last line about it.

    Args:
        log: of `nas run`, as `ConsoleReporter` writes it.
        stages: names of all stages.
    """
    stage = progress = None
    for line in log.splitlines():
        first, _, rest = line.partition(" ")
        if first in stages:
            stage, progress = first, rest.strip()
        elif stage is not None and line.startswith(" ") and line.strip():
            progress = line.strip()
    return stage, progress


@contextmanager
def _packed(order: Order) -> Iterator[Path]:
    """A folder with what is shipped: our packages, the recipe and the devices, nothing else."""
    with tempfile.TemporaryDirectory(prefix="archsmith-") as name:
        folder = Path(name)
        for source in map(Path, package_directories()):
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / _RECIPE_FILE).write_text(order.recipe_yaml, encoding="utf-8")
        if order.devices_yaml:
            (folder / FLEET_FILE).write_text(order.devices_yaml, encoding="utf-8")
        yield folder


def _read(details: JobDetails) -> Job | None:
    order = Order.from_metadata(details.metadata or {})
    if order is None or details.submission_id is None or details.start_time is None:
        return None
    return Job(
        job_id=details.submission_id,
        state=str(details.status).lower(),
        order=order,
        started=_time(details.start_time),
        ended=_time(details.end_time) if details.end_time else None,
        exit_code=details.driver_exit_code,
        # Ray repeats the end of the log behind it.
        message=(details.message or "").partition("\n")[0].partition(", last available logs")[0],
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
