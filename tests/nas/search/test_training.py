"""The search that fine-tunes its candidates, without anybody who really fine-tunes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas.errors import EvaluationError
from nas.pricing import Pricer
from nas.refine import Refined, read_refined
from nas.search.proposals import Proposals
from nas.search.study import SearchStudy, Values, make_sampler
from nas.search.training import Job, Trained, TrainingSearch
from searchspaces import Architecture
from tests.nas.search.trainings import metrics_after, write_result
from tests.nas.tiny_run import SEARCH, uncertain

EPOCHS = 3
Tune = Callable[["Training", TrainingSearch, Job], None]


class Training:
    """One search directory over several calls.

    Attributes:
        recorded: everything, over all calls.
        epochs_run: (architecture, epoch) in their order.
    """

    def __init__(self, path: Path, pricer: Pricer, *, evaluations: int = 8, confidence: float | None = None) -> None:
        self.path, self.pricer, self.confidence = path, pricer, confidence
        self.settings = replace(SEARCH, evaluations=evaluations, sampler="random", early_stopping=confidence)
        self._storage = optuna.storages.InMemoryStorage()
        self.recorded: list[Trained] = []
        self.epochs_run: list[tuple[str, int]] = []
        self.told: list[tuple[int, int]] = []

    def directory_of(self, arch: Architecture) -> Path:
        return self.path / arch.arch_id

    def finished(self) -> dict[str, Refined]:
        found = {path.name: read_refined(path) for path in self.path.glob("*")}
        return {arch_id: refined for arch_id, refined in found.items() if refined is not None}

    def open(self, *, max_concurrent: int = 2) -> TrainingSearch:
        study = optuna.create_study(
            study_name="tiny",
            storage=self._storage,
            directions=["maximize", "minimize"],
            sampler=make_sampler(self.settings, pricer=self.pricer, seed=len(self.recorded)),
            load_if_exists=True,
        )
        finished = self.finished()
        known = {
            one.architecture.arch_id: Values(
                accuracy=one.stopped.accuracy if one.stopped else one.accuracy.value,
                latency_ms=one.price.latency_predicted_ms,
            )
            for one in self.recorded
        }
        return TrainingSearch(
            Proposals(
                SearchStudy(study, pricer=self.pricer, limits=()),
                pricer=self.pricer,
                settings=self.settings,
                known=known,
            ),
            directory_of=self.directory_of,
            epochs=EPOCHS,
            metric="top1",
            confidence=self.confidence,
            max_concurrent=max_concurrent,
            finished={arch_id: one for arch_id, one in finished.items() if arch_id in known},
            record=self.recorded.append,
            on_progress=lambda done, wanted: self.told.append((done, wanted)),
        )

    def run(self, tune: Tune) -> TrainingSearch:
        """One fine-tuning after the other."""
        search = self.open()
        while not search.is_over:
            job = search.take()
            assert job is not None
            tune(self, search, job)
        return search

    def trials(self, state: TrialState) -> list[optuna.trial.FrozenTrial]:
        study = optuna.load_study(study_name="tiny", storage=self._storage)
        return study.get_trials(states=(state,))


def final(arch: Architecture) -> float:
    """More of everything is better."""
    return min(0.95, 0.01 * sum(float(value) for _, value in arch.genes))


def gaining(training: Training, search: TrainingSearch, job: Job) -> None:
    """Two points from the first epoch to the second, and one from the second to the last."""
    last = final(job.architecture)
    curve = [last - 0.03, last - 0.01, last]
    for epoch in range(1, EPOCHS + 1):
        training.epochs_run.append((job.architecture.arch_id, epoch))
        if search.is_beaten(job.directory, metrics_after(epoch, curve[epoch - 1])):
            break
    else:
        write_result(job.directory, job.architecture, curve=curve)
    search.end(job.directory)


@pytest.fixture
def make(tmp_path: Path, macs_pricer: Pricer) -> Callable[..., Training]:
    return lambda **settings: Training(tmp_path, **{"pricer": macs_pricer, **settings})


def test_every_candidate_is_fine_tuned_once_and_told_what_it_ended_with(make: Callable[..., Training]) -> None:
    training = make()
    search = training.run(gaining)
    assert search.ended() == "8 architectures evaluated"
    assert len({one.architecture.arch_id for one in training.recorded}) == len(training.recorded) == 8
    assert training.told[0] == (0, 8)
    assert training.told[-1] == (8, 8)
    values = {trial.number: trial.values for trial in training.trials(TrialState.COMPLETE)}
    for one in training.recorded:
        assert one.stopped is None
        assert one.refined is not None
        assert one.accuracy.value == pytest.approx(final(one.architecture))
        assert values[one.trial_number] == [one.accuracy.value, one.price.latency_predicted_ms]
    assert not training.trials(TrialState.RUNNING)


def test_no_more_are_handed_out_than_run_at_the_same_time(make: Callable[..., Training]) -> None:
    search = make(evaluations=3).open(max_concurrent=2)
    first, second = search.take(), search.take()
    assert first is not None
    assert second is not None
    assert search.take() is None
    assert not search.is_over
    search.fail(first.directory, reason="out of memory")
    third = search.take()
    assert third is not None
    assert third.directory not in (first.directory, second.directory)


def test_what_cannot_reach_the_front_is_stopped_and_told_below_it(
    make: Callable[..., Training], macs_pricer: Pricer
) -> None:
    training = make(evaluations=40, confidence=0.6, pricer=uncertain(macs_pricer))
    training.run(gaining)
    stopped = [one for one in training.recorded if one.stopped]
    finished = {one.architecture.arch_id: one for one in training.recorded if one.refined}
    assert stopped
    assert len(stopped) + len(finished) == 40
    # whoever has the same gains as everybody ends where it was expected to end: nobody of the front was stopped
    for one in stopped:
        assert one.stopped is not None
        rival = finished[one.stopped.rival]
        assert rival.price.latency_predicted_high_ms <= one.price.latency_predicted_low_ms
        assert rival.accuracy.value >= final(one.architecture) - 1e-9
        assert one.stopped.accuracy <= rival.accuracy.value
        assert one.stopped.accuracy == pytest.approx(final(one.architecture))
        assert (one.stopped.epoch, one.stopped.of_epochs) == (1, EPOCHS)
        assert one.seconds == 2.0
        assert read_refined(training.directory_of(one.architecture)) is None
    values = {trial.number: trial.values[0] for trial in training.trials(TrialState.COMPLETE)}
    assert all(values[one.trial_number] == one.stopped.accuracy for one in stopped if one.stopped)
    epochs = {one.architecture.arch_id for one in stopped}
    assert not [number for arch_id, number in training.epochs_run if arch_id in epochs and number > 1]


def test_without_a_confidence_nothing_is_stopped(make: Callable[..., Training]) -> None:
    training = make(evaluations=20)
    training.run(gaining)
    assert not [one for one in training.recorded if one.stopped]


def test_another_call_proposes_again_what_was_left_and_knows_gains_and_front(make: Callable[..., Training]) -> None:
    training = make(evaluations=12, confidence=0.6)
    search = training.open()
    for _ in range(6):
        job = search.take()
        assert job is not None
        gaining(training, search, job)
    left = [search.take(), search.take()]
    before = len(training.recorded)
    # killed here
    again = training.open()
    assert training.told[-1] == (6, 12)
    next_ones = {str(job.directory) for job in (again.take(), again.take()) if job}
    assert next_ones == {str(job.directory) for job in left if job}
    for directory in next_ones:
        again.fail(Path(directory), reason="killed")
    training.run(gaining)
    assert len(training.recorded) > before
    ids = [one.architecture.arch_id for one in training.recorded]
    assert len(ids) == len(set(ids)) == 12


def test_a_fine_tuning_without_a_result_has_failed(make: Callable[..., Training]) -> None:
    training = make(evaluations=3)
    search = training.open()
    job = search.take()
    assert job is not None
    search.end(job.directory)
    assert not training.recorded
    (trial,) = training.trials(TrialState.FAIL)
    assert trial.user_attrs["not_evaluated"] == "it ended without a result"


def test_when_more_than_half_fail_the_search_ends_and_keeps_the_others(make: Callable[..., Training]) -> None:
    def nan(training: Training, search: TrainingSearch, job: Job) -> None:
        if len(training.recorded) < 2:
            gaining(training, search, job)
        else:
            search.fail(job.directory, reason="the loss is nan; lower refine.learning_rate")

    training = make(evaluations=20)
    with pytest.raises(EvaluationError, match="3 of 5 evaluations failed; the last one: the loss is nan"):
        training.run(nan)
    assert len(training.recorded) == 2
    assert len(training.trials(TrialState.FAIL)) == 3
