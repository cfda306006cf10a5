"""A cluster that remembers jobs and runs none: they are in the state that a test puts them into."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus, JobType

_FIRST_MS = 1_700_000_000_000


@dataclass
class FakeJobClient:
    """Implements `JobClient`.

    Attributes:
        nodes: what the nodes say to a probe of the storage, see `storage_probe`; text instead is what a broken probe
            prints.
        is_gone: whether every call fails as it does when the head has ended.
        jobs: by id.
        logs: by id.
        shipped: by id, the files of the working directory.
        submitted: the arguments of each job.
    """

    nodes: Mapping[str, str | None] | str = field(default_factory=lambda: dict.fromkeys("abc"))
    is_gone: bool = False
    jobs: dict[str, JobDetails] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    shipped: dict[str, dict[str, bytes]] = field(default_factory=dict)
    submitted: dict[str, dict[str, object]] = field(default_factory=dict)

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str,
        runtime_env: dict[str, object] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        self._answer()
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        is_probe = submission_id.startswith("storage-probe-")
        if is_probe:
            self.logs[submission_id] = self.nodes if isinstance(self.nodes, str) else json.dumps(self.nodes)
        else:
            folder = Path(str((runtime_env or {})["working_dir"]))
            self.shipped[submission_id] = {
                str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            }
        self.submitted[submission_id] = {"entrypoint": entrypoint, "env": runtime_env, "metadata": metadata}
        self.jobs[submission_id] = JobDetails(
            type=JobType.SUBMISSION,
            submission_id=submission_id,
            status=JobStatus.SUCCEEDED if is_probe else JobStatus.RUNNING,
            entrypoint=entrypoint,
            metadata=metadata,
            start_time=_FIRST_MS + 1000 * len(self.jobs),
            message="Job is currently running.",
        )
        return submission_id

    def end(self, job_id: str, status: JobStatus, *, exit_code: int | None = None) -> None:
        """Let a job end."""
        job = self.jobs[job_id]
        end_time = (job.start_time or 0) + 90_000
        self.jobs[job_id] = job.model_copy(
            update={"status": status, "driver_exit_code": exit_code, "end_time": end_time}
        )

    def list_jobs(self) -> list[JobDetails]:
        self._answer()
        return list(self.jobs.values())

    def get_job_status(self, job_id: str) -> JobStatus:
        self._answer()
        return self.jobs[job_id].status

    def get_job_logs(self, job_id: str) -> str:
        self._answer()
        return self.logs.get(job_id, "")

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self._answer()
        yield self.logs.get(job_id, "")

    def stop_job(self, job_id: str) -> bool:
        self._answer()
        self.end(job_id, JobStatus.STOPPED)
        return True

    def delete_job(self, job_id: str) -> bool:
        del self.jobs[job_id]
        return True

    def _answer(self) -> None:
        if self.is_gone:
            raise ConnectionError("Connection refused")
