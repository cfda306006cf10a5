"""Making sure that a run directory is on storage that every node of a cluster shares, before a job is sent there."""

import json
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from experiments.errors import ClusterError
from experiments.ray import storage_probe
from experiments.ray.failures import last_line
from experiments.ray.job_client import JobClient
from hardware.files import TEMPORARY_PREFIX
from nas.errors import RunError

_POLL_S = 0.3
_PATIENCE_S = 120.0


def require_shared(
    client: JobClient, run_dir: Path, *, make_here: bool, sleep: Callable[[float], object] = time.sleep
) -> int:
    """Ask every node, by a small job on the head, whether it sees `run_dir` and may write there.

    Args:
        client: Ray's job client.
        run_dir: absolute.
        make_here: make the directory on this machine, so that the nodes must share it with this machine, too; if not,
            the head makes it, and only the nodes must share it.
        sleep: waits between two looks at the job.

    Returns:
        Number of nodes.

    Raises:
        RunError: a node does not see it, or may not write there; or it holds other files.
        ClusterError: the probe itself did not run.
    """
    marker = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    with _marked(run_dir, marker=marker) if make_here else nullcontext():
        found = _run_probe(client, [str(run_dir), marker, "here" if make_here else "there"], sleep=sleep)
        if refusals := [f"node {name} {reason}" for name, reason in found.items() if reason is not None]:
            raise RunError(
                f"run directory {run_dir} is not on storage that the whole cluster shares"
                f"{' with this machine' if make_here else ''}: {'; '.join(refusals)}",
                hint="choose a directory on shared storage: --run-dir DIR",
            )
    return len(found)


@contextmanager
def _marked(run_dir: Path, *, marker: str) -> Iterator[None]:
    # Torch comes with it, and most commands for jobs need neither.
    from nas.run import require_run_place

    is_new = not run_dir.exists()
    require_run_place(run_dir)
    (run_dir / marker).touch()
    try:
        yield
    except BaseException:
        (run_dir / marker).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                run_dir.rmdir()
        raise
    (run_dir / marker).unlink(missing_ok=True)


def _run_probe(client: JobClient, arguments: list[str], *, sleep: Callable[[float], object]) -> dict[str, str | None]:
    source = Path(storage_probe.__file__).read_text(encoding="utf-8")
    job_id = client.submit_job(
        entrypoint=shlex.join(["exec", "python", "-c", source, *arguments]),
        submission_id=f"storage-probe-{uuid.uuid4().hex[:8]}",
    )
    deadline_s = time.monotonic() + _PATIENCE_S
    while not client.get_job_status(job_id).is_terminal():
        if time.monotonic() > deadline_s:
            raise ClusterError(
                f"the cluster has not run a small job within {_PATIENCE_S:g} s",
                hint=f"look at its dashboard; the job is {job_id}",
            )
        sleep(_POLL_S)
    said = client.get_job_logs(job_id)
    client.delete_job(job_id)
    try:
        found = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = None
    if not isinstance(found, dict):
        raise ClusterError(
            f"the cluster cannot run a small job with Python and Ray: {last_line(said)}",
            hint="start Ray on every node with the environment active in which archsmith is installed",
        )
    return found
