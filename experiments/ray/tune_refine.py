"""Fine-tuning candidates as Ray Tune trials."""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, TuneError, Tuner
from ray.tune.experiment import Trial

from experiments.errors import ClusterError
from experiments.ray.cluster import require_cpus
from experiments.ray.environment import temporary_environment
from experiments.ray.failures import describe, hinted_cause
from experiments.ray.loading import DEFAULT_LOADER, HostLock, Workload, load

QUIET = 0
_ENVIRONMENT = {
    # Tune's own handler would swallow Ctrl-C and return what there is.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # However quiet it is told to be, the new output prints to standard output, where the command line may print JSON.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Nobody reads these files.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
# Tune adds dozens of entries of its own to what is reported.
REPORTED = "reported"


def refine_on_ray(
    run_dir: Path,
    *,
    jobs: Sequence[tuple[str, Path]],
    max_concurrent: int,
    threads_per_trial: int,
    storage: Path,
    on_result: Callable[[str, dict[str, float]], None],
    loader: str = DEFAULT_LOADER,
    lock_directory: Path | None = None,
) -> dict[str, str | None]:
    """Fine-tune candidates on the connected cluster, each in a Ray Tune trial of its own.

    A trial that fails is run once more, from the workload's own checkpoint in its directory; if it fails again, the
    others go on.

    Args:
        run_dir: the run directory, on storage that every worker sees.
        jobs: architecture (JSON) and directory of each candidate; no directory twice.
        max_concurrent: trials at the same time.
        threads_per_trial: CPUs of each.
        storage: directory for Ray Tune's own files, on the same storage.
        on_result: called in this process with a job's directory and what its trial reported after an epoch.
        loader: where trials get the workload: "module:function" of the run directory.
        lock_directory: where the hosts' lock files lie; the usual place if None.

    Returns:
        By directory, as handed in: None, or in one line why the trial failed.

    Raises:
        ClusterError: the cluster has too few CPUs, there is no connection, or Ray Tune itself failed.
        Exception: whatever `on_result` raised.
    """
    if not jobs:
        return {}
    require_cpus(workers=1, threads=threads_per_trial, what="refine")
    names = {str(directory.resolve()): str(directory) for _, directory in jobs}
    fixed: dict[str, Any] = {
        "run_dir": str(run_dir.resolve()),
        "threads": threads_per_trial,
        "loader": loader,
        "lock_directory": None if lock_directory is None else str(lock_directory.resolve()),
    }
    reporting = _Reporting(names, on_result=on_result)
    tuner = Tuner(
        tune.with_resources(fine_tune_trial, {"CPU": threads_per_trial}),
        param_space={
            **fixed,
            "job": tune.grid_search([{"architecture": arch, "directory": str(path.resolve())} for arch, path in jobs]),
        },
        tune_config=TuneConfig(
            max_concurrent_trials=max_concurrent, trial_name_creator=trial_name, trial_dirname_creator=trial_name
        ),
        run_config=RunConfig(
            # A new name each time: what is finished is read from the candidates' directories, never from Ray's.
            name=f"refine-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage.resolve()),
            failure_config=FailureConfig(max_failures=1),
            callbacks=[reporting],
            verbose=QUIET,
        ),
    )
    with quiet_tune():
        try:
            results = tuner.fit()
        except TuneError as e:
            raise reporting.error or ClusterError(
                f"Ray Tune failed: {describe(e)}",
                hint="run the same command again: finished candidates are kept, others go on from their checkpoints",
            ) from e
    errors: dict[str, str | None] = dict.fromkeys(names.values(), "the trial was not run")
    for number in range(len(results)):
        result = results[number]
        directory = names[(result.config or {})["job"]["directory"]]
        errors[directory] = None if result.error is None else reason_of(result.error)
    return errors


@contextmanager
def quiet_tune() -> Iterator[None]:
    """Keep Tune from standard output, from signals, and from printing the traceback of each failure: we say why."""
    logger = logging.getLogger("ray.tune.execution.tune_controller")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with temporary_environment(_ENVIRONMENT):
            yield
    finally:
        logger.setLevel(level)


class _Reporting(Callback):
    """Hands on what trials report; lives in the driver."""

    def __init__(self, names: Mapping[str, str], *, on_result: Callable[[str, dict[str, float]], None]) -> None:
        self._names, self._on_result = names, on_result
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, object]:
        # Tune saves its callbacks beside its own state, to restore what we never restore; what listens here (a progress
        # bar) cannot be saved, and stays in this process.
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: object
    ) -> None:
        if REPORTED not in result:
            return
        try:
            self._on_result(self._names[trial.config["job"]["directory"]], result[REPORTED])
        except Exception as e:
            # Tune would hand on the text of it only.
            self.error = e
            raise


def trial_name(trial: Trial) -> str:
    """Of Tune's own files: the directory of the job, and something unique."""
    return f"{Path(trial.config['job']['directory']).name}-{trial.trial_id}"


def fine_tune_trial(config: dict[str, Any]) -> None:
    """One trial of `refine_on_ray` and of `experiments.ray.tune_search`; runs in a thread of a process of its own."""
    # Of this thread, which Ray made.
    torch.set_num_threads(config["threads"])
    job = config["job"]
    lock = HostLock(owner=f"fine-tuning in {job['directory']}", directory=config["lock_directory"])
    with ExitStack() as held:
        held.enter_context(lock.computing())

        def on_epoch(metrics: dict[str, float]) -> None:
            # A measurer waits for an epoch, not for a whole trial. A trial waits for nobody while it holds the lock.
            held.close()
            tune.report({REPORTED: metrics})
            held.enter_context(lock.computing())

        workload = _load_once(config["run_dir"], loader=config["loader"])
        workload.fine_tune(
            job["architecture"],
            directory=Path(job["directory"]),
            on_epoch=on_epoch,
            epochs=job.get("epochs"),
            use_gpu=job.get("use_gpu", False),
        )


@lru_cache(maxsize=1)
def _load_once(run_dir: str, *, loader: str) -> Workload:
    """The workload of the run, also for the next trial in this process."""
    return load(run_dir, loader=loader)


def reason_of(error: BaseException) -> str:
    """In one line, why a trial failed."""
    hinted = hinted_cause(error)
    return describe(error) if hinted is None else f"{hinted}; {hinted.hint}"
