"""The search's evaluation pool as Ray actors, each of which holds the supernet."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from experiments.errors import ClusterError
from experiments.ray.cluster import require_cpus
from experiments.ray.environment import thread_environment
from experiments.ray.failures import describe, hinted_cause, is_worker_death
from experiments.ray.loading import DEFAULT_LOADER, HostLock, Weights, load
from nas.search.pool import Judge, SubnetScore, TaskResult, judge_each
from nas.search.stopping import Stopping
from searchspaces import Architecture

_LOGGER = logging.getLogger(__name__)

_Task = tuple[int, tuple[Architecture, ...], Stopping | None]
_START_SECONDS = 300.0
_LOOK_SECONDS = 5.0
_DEATHS_PER_WORKER = 2


class _Judge:
    """Runs in a process of its own."""

    def __init__(
        self, run_dir: str, *, threads: int, loader: str, lock_directory: str | None, weights: Weights | None
    ) -> None:
        torch.set_num_threads(threads)
        self._run_dir, self._loader, self._weights = run_dir, loader, weights
        self._lock = HostLock(owner=f"evaluation for {run_dir}", directory=lock_directory)
        self._judge: Judge | None = None

    def hello(self) -> None:
        """Done when the process is up."""

    def judge(
        self, architectures: tuple[Architecture, ...], stopping: Stopping | None
    ) -> tuple[tuple[SubnetScore, ...], dict[str, str]]:
        # A task alone: a measurer never waits for more than the tasks that run now, and an actor that holds the lock
        # waits for nobody.
        with self._lock.computing():
            if self._judge is None:
                # Not in the constructor: Ray would report an error of ours there as the death of the actor.
                self._judge = load(self._run_dir, loader=self._loader).judge(self._weights)
            return judge_each(self._judge, architectures, stopping=stopping)


class RayEvaluationPool:
    """Judges subnets on actors of the connected cluster; an `EvaluationPool`.

    Every actor has one task at a time; the others wait here, so that an actor that dies takes one task with it and no
    actor idles while tasks wait. An actor that died is replaced, unless they keep dying.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        num_workers: int,
        threads_per_worker: int = 1,
        loader: str = DEFAULT_LOADER,
        lock_directory: Path | None = None,
        weights: Weights | None = None,
    ) -> None:
        """Start the actors; each loads the workload with its first task.

        Args:
            run_dir: the run directory, on storage that every worker sees.
            num_workers: actors.
            threads_per_worker: CPUs of each.
            loader: where actors get the workload: "module:function" of the run directory.
            lock_directory: where the hosts' lock files lie; the usual place if None.
            weights: of the supernet, which actors then take from Ray's object store, once a machine; None: each reads
                the run's checkpoint.

        Raises:
            ClusterError: the cluster has too few CPUs, or there is no connection.
        """
        require_cpus(workers=num_workers, threads=threads_per_worker, what="search")
        # Ray types actor classes only where they are decorated.
        self._make: Any = ray.remote(_Judge).options(
            num_cpus=threads_per_worker, runtime_env={"env_vars": thread_environment(threads_per_worker)}
        )
        self._arguments: dict[str, Any] = {
            "threads": threads_per_worker,
            "loader": loader,
            "lock_directory": None if lock_directory is None else str(lock_directory.resolve()),
            # Ray gives actors what a reference stands for; this one lives as long as the pool.
            "weights": None if weights is None else ray.put(dict(weights)),
        }
        self._run_dir = str(run_dir.resolve())
        self._num_workers = num_workers
        self._waiting: deque[_Task] = deque()
        self._finished: deque[TaskResult] = deque()
        self._idle: deque[Any] = deque()
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[int, Any]] = {}
        self._deaths_in_a_row = 0
        self._closed = False
        for _ in range(num_workers):
            self._start_actor()

    @property
    def num_workers(self) -> int:
        """Tasks that run at the same time."""
        return self._num_workers

    def submit(self, task_id: int, *, architectures: Sequence[Architecture], stopping: Stopping | None = None) -> None:
        """Hand in a task; returns at once.

        Raises:
            ClusterError: the pool is closed.
        """
        if self._closed:
            raise ClusterError("the evaluation pool is closed", hint="make another one")
        self._waiting.append((task_id, tuple(architectures), stopping))
        self._assign()
        # While the search thinks about its next proposal, actors finish: give them what waits.
        self._collect(timeout_s=0)

    def next_result(self) -> TaskResult:
        """Wait for the next finished task.

        Returns:
            Its scores and the failures of single subnets; or the error of a task that failed, also by the death of
            its worker: it may be handed in again.

        Raises:
            Hinted: an error of ours that a worker raised (CheckpointError, say): the next task would meet it, too.
            ClusterError: workers cannot be started, or keep dying.
        """
        if not (self._finished or self._running or self._waiting):
            raise ClusterError("no task was handed in", hint="call submit before next_result")
        waited_from_s = time.monotonic()
        while not self._finished:
            self._collect(timeout_s=_LOOK_SECONDS)
            if self._running:
                waited_from_s = time.monotonic()
            elif not self._finished and time.monotonic() - waited_from_s > _START_SECONDS:
                raise ClusterError(
                    f"no evaluation worker could be started within {_START_SECONDS:.0f} s",
                    hint="see whether the cluster has lost machines (ray status), then run the same command again",
                )
        return self._finished.popleft()

    def close(self) -> None:
        """End the workers; what they were doing is lost."""
        self._closed = True
        actors = [*self._idle, *self._starting.values(), *(actor for _, actor in self._running.values())]
        self._idle.clear()
        self._starting.clear()
        self._running.clear()
        self._waiting.clear()
        if ray.is_initialized():
            for actor in actors:
                ray.kill(actor)

    def _start_actor(self) -> None:
        actor = self._make.remote(self._run_dir, **self._arguments)
        self._starting[actor.hello.remote()] = actor

    def _assign(self) -> None:
        while self._waiting and self._idle:
            task_id, architectures, stopping = self._waiting.popleft()
            actor = self._idle.popleft()
            self._running[actor.judge.remote(architectures, stopping)] = (task_id, actor)

    def _collect(self, *, timeout_s: float) -> None:
        """Wait for one actor to be done with what it does, then take everything that is done."""
        references = [*self._running, *self._starting]
        done, _ = ray.wait(references, num_returns=1, timeout=timeout_s)
        if done and len(references) > 1:
            done, _ = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in done:
            self._take(reference)
        self._assign()

    def _take(self, reference: Any) -> None:  # noqa: ANN401  # Ray's references have no useful type
        task_id, actor = self._running.pop(reference, (None, None))
        actor = self._starting.pop(reference, actor)
        try:
            found = ray.get(reference)
        except RayError as e:
            if (hinted := hinted_cause(e)) is not None:
                raise hinted from e
            died = is_worker_death(e)
            if task_id is not None:
                self._finished.append(TaskResult(task_id=task_id, scores=(), error=describe(e), worker_died=died))
            if died or task_id is None:
                self._replace(e)
            else:
                self._idle.append(actor)
            return
        self._idle.append(actor)
        if task_id is not None:
            self._deaths_in_a_row = 0
            scores, failures = found
            self._finished.append(TaskResult(task_id=task_id, scores=scores, failures=failures, error=None))

    def _replace(self, error: RayError) -> None:
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > _DEATHS_PER_WORKER * self._num_workers:
            raise ClusterError(
                f"evaluation workers died {self._deaths_in_a_row} times in a row: {describe(error)}",
                hint="free memory or lower search.workers, then run the same command again: finished evaluations are "
                "kept",
            ) from error
        _LOGGER.warning("an evaluation worker died; another one is started")
        self._start_actor()
