"""The search that fine-tunes its candidates, as real Ray Tune trials."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from experiments.errors import ClusterError, TrackingError
from experiments.ray.tune_search import require_gpus, train_on_ray_tune
from nas.search.proposals import Proposals
from nas.search.study import SearchStudy, make_sampler
from nas.search.training import Trained, TrainingSearch
from tests.experiments.ray.conftest import MakeRun
from tests.experiments.ray.fake_workloads import LOADER
from tests.nas.tiny_run import SEARCH, SPACE, ignore, price_by_macs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

EPOCHS = 2


class Training:
    """One at a time, so that everybody knows who finished before."""

    def __init__(self, run_dir: Path, *, evaluations: int) -> None:
        self.run_dir = run_dir
        self.pricer = price_by_macs(SPACE, SPACE.sample_many(40, np.random.default_rng(0)))
        self.settings = replace(SEARCH, sampler="random", evaluations=evaluations, early_stopping=0.5)
        sampler = make_sampler(self.settings, pricer=self.pricer, seed=0)
        self.study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        self.recorded: list[Trained] = []

    def record(self, trained: Trained) -> None:
        self.recorded.append(trained)

    def run(self, lock_directory: Path, *, gpus: float = 0.0) -> str:
        search = TrainingSearch(
            Proposals(
                SearchStudy(self.study, pricer=self.pricer, limits=()),
                pricer=self.pricer,
                settings=self.settings,
                known={},
            ),
            directory_of=lambda arch: (self.run_dir / "search" / arch.arch_id).resolve(),
            epochs=EPOCHS,
            metric="top1",
            confidence=self.settings.early_stopping,
            max_concurrent=1,
            finished={},
            record=self.record,
            on_progress=ignore,
        )
        train_on_ray_tune(
            self.run_dir,
            search=search,
            epochs=EPOCHS,
            cpus_per_trial=1,
            gpus_per_trial=gpus,
            storage=self.run_dir / "ray",
            loader=LOADER,
            lock_directory=lock_directory,
        )
        return search.ended()

    def trials(self, state: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(states=(state,))


@pytest.mark.faults
def test_candidates_are_trained_stopped_or_fail_and_the_study_hears_of_all(
    make_run: MakeRun, lock_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(refine="results", epochs=EPOCHS, **{SPACE.largest.arch_id: "nan"})
    training = Training(run_dir, evaluations=2)
    assert training.run(lock_directory) == "2 architectures evaluated"
    # The smallest one finishes, the largest one fails, and another one is no faster and, as all do, gains nothing.
    first, second = training.recorded
    assert first.architecture == SPACE.smallest
    assert first.refined is not None
    assert first.refined.curve == (0.5, 0.5)
    assert second.refined is None
    assert second.stopped is not None
    assert (second.stopped.rival, second.stopped.epoch) == (SPACE.smallest.arch_id, 1)
    epochs = [path.name for path in (run_dir / "search" / second.architecture.arch_id).glob("epoch-*")]
    assert epochs == ["epoch-1"]
    assert {trial.user_attrs["arch_id"] for trial in training.trials(TrialState.COMPLETE)} == {
        first.architecture.arch_id,
        second.architecture.arch_id,
    }
    (failed,) = training.trials(TrialState.FAIL)
    assert failed.user_attrs["arch_id"] == SPACE.largest.arch_id
    assert str(failed.user_attrs["not_evaluated"]).endswith(" is nan; lower refine.learning_rate")
    assert not training.trials(TrialState.RUNNING)
    # Standard output belongs to the command line, which may print JSON there.
    assert capfd.readouterr().out == ""


def test_an_error_of_the_caller_ends_the_search_as_it_was_raised(make_run: MakeRun, lock_directory: Path) -> None:
    training = Training(make_run(refine="results", epochs=EPOCHS), evaluations=9)

    def refuse(trained: Trained) -> None:
        raise TrackingError("the disk is full", hint="free some")

    training.record = refuse  # type: ignore[method-assign]
    with pytest.raises(TrackingError, match="the disk is full") as caught:
        training.run(lock_directory)
    assert type(caught.value) is TrackingError


def test_gpus_that_no_machine_has_are_refused_at_once(make_run: MakeRun, lock_directory: Path) -> None:
    training = Training(make_run(refine="results", epochs=EPOCHS), evaluations=2)
    with pytest.raises(ClusterError, match=r"search\.gpus_per_trial asks for 0\.5 GPUs, but no machine") as caught:
        training.run(lock_directory, gpus=0.5)
    assert "search.gpus_per_trial to 0" in caught.value.hint
    require_gpus(0.0)
