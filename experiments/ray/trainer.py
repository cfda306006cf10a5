"""Training the supernet with Ray Train."""

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from experiments.errors import ClusterError
from experiments.ray.cluster import require_cpus
from experiments.ray.context import RayTrainContext
from experiments.ray.environment import thread_environment
from experiments.ray.failures import describe, hinted_cause, is_worker_death
from experiments.ray.loading import DEFAULT_LOADER, HostLock, load

__all__ = ["RayTrainContext", "train_on_ray"]

_LOGGER = logging.getLogger(__name__)

# A worker that waits at a barrier may be waiting for somebody's measurements to end. A worker that died is noticed by
# Ray within seconds, so this limit only ends workers that hang.
_COLLECTIVE_SECONDS = 6 * 3600
_MAX_RESTARTS = 2
_LOOK_SECONDS = 0.2


def train_on_ray(
    run_dir: Path,
    *,
    num_workers: int,
    threads_per_worker: int,
    storage: Path,
    use_gpu: bool = False,
    loader: str = DEFAULT_LOADER,
    lock_directory: Path | None = None,
) -> None:
    """Train the supernet of a run on the connected cluster, from its newest checkpoint.

    When a worker's process dies, all workers are started again, a few times; the workload goes on from its checkpoint.
    Ctrl-C raises KeyboardInterrupt at once; the workers end when the connection is closed.

    Args:
        run_dir: the run directory, on storage that every worker sees.
        num_workers: equal workers, each with its shard of the data.
        threads_per_worker: CPUs of each.
        storage: directory for Ray Train's own files, on the same storage.
        use_gpu: give every worker a GPU, too.
        loader: where workers get the workload: "module:function" of the run directory.
        lock_directory: where the hosts' lock files lie; the usual place if None.

    Raises:
        Hinted: whatever error of ours a worker raised, for example TrainingError for a loss that is not a number.
        ClusterError: too few CPUs or GPUs, workers that died too often, or an unexpected error in a worker.
    """
    require_cpus(workers=num_workers, threads=threads_per_worker, what="train")
    if use_gpu:
        _require_gpus(num_workers)
    job = _Job(
        run_dir=str(run_dir.resolve()),
        threads=threads_per_worker,
        loader=loader,
        lock_directory=None if lock_directory is None else str(lock_directory.resolve()),
    )
    for restart in range(_MAX_RESTARTS + 1):
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": threads_per_worker}
            ),
            run_config=RunConfig(  # type: ignore[call-arg]  # typed as the former API's, which lacks worker_runtime_env
                # A new name each time: under an old one Ray would read its own former state.
                name=f"train-{uuid.uuid4().hex[:8]}",
                storage_path=str(storage.resolve()),
                worker_runtime_env={"env_vars": thread_environment(threads_per_worker)},
            ),
            torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
        )
        try:
            _run_interruptibly(trainer.fit)
        except TrainingFailedError as e:
            if (hinted := hinted_cause(e)) is not None:
                raise hinted from e
            if restart < _MAX_RESTARTS and is_worker_death(e):
                _LOGGER.warning("training failed (%s); all workers are started again", describe(e))
                continue
            raise ClusterError(
                f"training failed in a Ray worker: {describe(e)}",
                hint="correct the cause (often too little memory) and run the same command again: it goes on from the "
                "newest checkpoint",
            ) from e
        return


def _require_gpus(num_workers: int) -> None:
    """Ray itself would wait for ever."""
    found = int(ray.cluster_resources().get("GPU", 0))
    if found < num_workers:
        raise ClusterError(
            f"train.use_gpu wants a GPU for each of {num_workers} workers, but the Ray cluster has {found} GPUs",
            hint=f"set train.workers to {found} or less"
            if found
            else "set train.use_gpu to false, or connect to a cluster with GPUs (--address); `nvidia-smi` and "
            "`torch.cuda.is_available()` say whether this machine offers one",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What every worker is told."""

    run_dir: str
    threads: int
    loader: str
    lock_directory: str | None


def _train_worker(config: dict[str, Any]) -> None:
    """What one worker does; runs in a thread of its process."""
    job: _Job = config["job"]
    # Of this thread, which Ray made; the environment has set it for others.
    torch.set_num_threads(job.threads)
    rank = ray.train.get_context().get_world_rank()
    lock = HostLock(owner=f"training of {job.run_dir}, worker {rank}", directory=job.lock_directory)
    # Loading waits for no other rank, so every rank may hold the lock by itself here.
    with lock.computing():
        workload = load(job.run_dir, loader=job.loader)
    workload.train(RayTrainContext(lock, device=get_device()))


def _run_interruptibly(call: Callable[[], object]) -> None:
    """Run `call` in a thread and wait for it, so that Ctrl-C reaches this thread as what it is.

    Called in the main thread, Ray Train installs a handler for Ctrl-C that stays for good, exits with status 0, and can
    hang (Ray 2.60).
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as e:  # noqa: BLE001  # handed to the caller's thread
            failures.append(e)

    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
    if failures:
        raise failures[0]
