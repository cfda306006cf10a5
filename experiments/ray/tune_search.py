"""The search that fine-tunes its candidates, as Ray Tune trials: our study proposes, our rule stops."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, Stopper, TuneConfig, TuneError, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from experiments.errors import ClusterError
from experiments.ray.cluster import require_cpus
from experiments.ray.environment import temporary_environment
from experiments.ray.failures import describe
from experiments.ray.loading import DEFAULT_LOADER
from experiments.ray.tune_refine import (
    QUIET,
    REPORTED,
    fine_tune_trial,
    quiet_tune,
    reason_of,
    trial_name,
)
from hardware.files import write_text
from nas.search.training import Job, TrainingSearch

_FAILURE_FILE = "failure.txt"
_UNLIMITED = -1  # trials: the study says when there are enough


def train_on_ray_tune(
    run_dir: Path,
    *,
    search: TrainingSearch,
    epochs: int,
    cpus_per_trial: int,
    gpus_per_trial: float,
    storage: Path,
    loader: str = DEFAULT_LOADER,
    lock_directory: Path | None = None,
) -> None:
    """Fine-tune what a search proposes on the connected cluster, until it has enough.

    A trial that fails is run once more, from the workload's own checkpoint in its directory. Nothing is ever read from
    Tune's files: another call goes on from study, tables and directories.

    Args:
        run_dir: the run directory, on storage that every worker sees.
        search: proposes, stops and remembers; lives in this process.
        epochs: of a fine-tuning.
        cpus_per_trial: CPUs, and threads, of each trial.
        gpus_per_trial: GPUs of each, also a share of one.
        storage: directory for Ray Tune's own files, on the same storage.
        loader: where trials get the workload: "module:function" of the run directory.
        lock_directory: where the hosts' lock files lie; the usual place if None.

    Raises:
        ClusterError: no machine has the CPUs or GPUs of a trial, there is no connection, or Ray Tune itself failed.
        EvaluationError: more than half of the fine-tunings failed, after the first five.
        Exception: whatever `search` raised, as it was raised.
    """
    require_cpus(workers=1, threads=cpus_per_trial, what="search", threads_key="cpus_per_trial")
    require_gpus(gpus_per_trial)
    driver = _Driver(search)
    constants: dict[str, Any] = {
        "run_dir": str(run_dir.resolve()),
        "threads": cpus_per_trial,
        "loader": loader,
        "lock_directory": None if lock_directory is None else str(lock_directory.resolve()),
    }
    job = {"epochs": epochs, "use_gpu": gpus_per_trial > 0}
    tuner = Tuner(
        tune.with_resources(_train_candidate, {"CPU": cpus_per_trial, "GPU": gpus_per_trial}),
        tune_config=TuneConfig(
            search_alg=_Proposing(driver, constants=constants, job=job),
            scheduler=_StoppingScheduler(driver),
            num_samples=_UNLIMITED,
            # Most of a trial's overhead is a process that starts and loads data and supernet.
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=RunConfig(
            # A new name each time: what is finished is read from the candidates' directories, never from Ray's.
            name=f"search-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage.resolve()),
            failure_config=FailureConfig(max_failures=1),
            callbacks=[_Listening(driver)],
            stop=_StopOnError(driver),
            verbose=QUIET,
        ),
    )
    # By itself Tune starts one trial at a time with a search algorithm that is not its own.
    with quiet_tune(), temporary_environment({"TUNE_MAX_PENDING_TRIALS_PG": str(search.max_concurrent)}):
        try:
            tuner.fit()
        except TuneError as e:
            raise driver.error or ClusterError(
                f"Ray Tune failed: {describe(e)}",
                hint="run the same command again: finished candidates are kept, others go on from their checkpoints",
            ) from e
    if driver.error is not None:
        raise driver.error


def _train_candidate(config: dict[str, Any]) -> None:
    """One trial; says itself why it fails: Tune's own files come too late, and are pickles."""
    path = Path(config["job"]["directory"]) / _FAILURE_FILE
    path.unlink(missing_ok=True)
    try:
        fine_tune_trial(config)
    except Exception as e:
        write_text(path, reason_of(e))
        raise


def require_gpus(share: float) -> None:
    """Make sure that one machine of the cluster has the GPUs of a trial: Ray itself would wait for ever.

    Raises:
        ClusterError: none has.
    """
    most = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if share > most:
        raise ClusterError(
            f"search.gpus_per_trial asks for {share:g} GPUs, but no machine of the Ray cluster has more than {most:g}",
            hint=f"set search.gpus_per_trial to {most:g} or less"
            if most
            else "set search.gpus_per_trial to 0, or connect to a cluster with GPUs (--address)",
        )


class _Driver:
    """What Tune's parts share: the search, and the first error of ours.

    Tune turns what its parts raise into texts, or into failures of trials; so nothing is raised, and all trials are
    stopped instead. It also saves its parts, to restore what we never restore: they leave themselves out.
    """

    def __init__(self, search: TrainingSearch) -> None:
        self.search = search
        self.error: Exception | None = None

    def guarded(self, call: Callable[[], object]) -> object:
        """The result of a call; None after an error, its own or an earlier one."""
        if self.error is not None:
            return None
        try:
            return call()
        except Exception as e:  # noqa: BLE001  # raised again when Tune has ended
            self.error = e
            return None

    def __getstate__(self) -> dict[str, object]:
        return {}


class _Proposing(Searcher):
    """Tune's search algorithm: an adapter over the study's proposals."""

    def __init__(self, driver: _Driver, *, constants: dict[str, Any], job: dict[str, Any]) -> None:
        super().__init__()
        self._driver, self._constants, self._job = driver, constants, job
        self._directories: dict[str, Path] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a text
        search = self._driver.search
        job = self._driver.guarded(search.take)
        if self._driver.error is not None or (job is None and search.is_over):
            return Searcher.FINISHED
        if job is None:
            return None  # something in flight has to end first
        assert isinstance(job, Job)
        self._directories[trial_id] = job.directory
        return {
            **self._constants,
            "job": {"architecture": job.architecture.to_json(), "directory": str(job.directory), **self._job},
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # Of an error only the callback hears the reason.
        if not error:
            self._driver.guarded(lambda: self._driver.search.end(self._directories[trial_id]))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth."""


class _StoppingScheduler(FIFOScheduler):
    """Tune's scheduler: asks our rule after each epoch."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver = driver

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> str:
        prefix = f"{REPORTED}/"
        metrics = {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}
        if not metrics:
            return str(TrialScheduler.CONTINUE)
        directory = Path(trial.config["job"]["directory"])
        stop = self._driver.guarded(lambda: self._driver.search.is_beaten(directory, metrics))
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class _Listening(Callback):
    """Hears why trials failed."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        directory = Path(trial.config["job"]["directory"])
        path = directory / _FAILURE_FILE
        reason = path.read_text(encoding="utf-8") if path.exists() else "the worker's process died"
        self._driver.guarded(lambda: self._driver.search.fail(directory, reason=reason))


class _StopOnError(Stopper):
    """Ends all trials after an error of ours."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.error is not None
