"""A study in memory that a SQLite file follows: what another reader of the file sees, and what a kill leaves."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution
from optuna.samplers import NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.search.storage import KeptStorage, open_storage

CHOICES = {f"gene{n}": CategoricalDistribution((1, 2, 3)) for n in range(6)}


def open_again(path: Path) -> tuple[optuna.Study, KeptStorage]:
    database = open_storage(path)
    optuna.create_study(study_name="search", storage=database, directions=["maximize", "minimize"], load_if_exists=True)
    storage = KeptStorage(database, name="search")
    return optuna.load_study(study_name="search", storage=storage, sampler=RandomSampler(seed=0)), storage


def ask(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    for name, distribution in CHOICES.items():
        trial.suggest_categorical(name, distribution.choices)
    return trial


def others_see(path: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{path}").get_trials()


def alike(a: list[FrozenTrial], b: list[FrozenTrial]) -> bool:
    def content(trial: FrozenTrial) -> tuple[object, ...]:
        return (
            *(trial.number, trial.state, trial.values, trial.params, trial.distributions),
            *(trial.user_attrs, trial.system_attrs, trial.intermediate_values),
        )

    return [content(trial) for trial in a] == [content(trial) for trial in b]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


def test_a_trial_is_in_the_file_once_it_is_kept_and_not_before(path: Path) -> None:
    study, storage = open_again(path)
    trial = ask(study)
    trial.set_user_attr("arch_id", "abc")
    assert others_see(path) == []
    storage.keep(trial.number)
    storage.keep(trial.number)
    assert alike(others_see(path), study.get_trials())
    assert others_see(path)[0].state == TrialState.RUNNING


def test_whatever_becomes_of_a_kept_trial_is_in_the_file_at_once(path: Path) -> None:
    study, storage = open_again(path)
    trial = ask(study)
    storage.keep(trial.number)
    trial.suggest_int("late", 0, 5)
    trial.set_user_attr("reason", "none")
    trial.set_constraint("latency_ms", 0.25)
    assert alike(others_see(path), study.get_trials())
    study.tell(trial, [0.5, 2.0])
    assert alike(others_see(path), study.get_trials())
    assert others_see(path)[0].values == [0.5, 2.0]
    assert others_see(path)[0].constraints == {"latency_ms": 0.25}


def test_the_end_of_a_trial_and_what_is_queued_are_kept_by_themselves(path: Path) -> None:
    study, _ = open_again(path)
    study.tell(ask(study), state=TrialState.FAIL)
    study.enqueue_trial({"gene0": 3})
    assert [trial.state for trial in others_see(path)] == [TrialState.FAIL, TrialState.WAITING]
    assert ask(study).params["gene0"] == 3
    assert alike(others_see(path), study.get_trials())


def test_another_process_goes_on_with_the_same_trials_and_numbers(path: Path) -> None:
    study, storage = open_again(path)
    study.tell(ask(study), [0.5, 2.0])
    left = ask(study)
    storage.keep(left.number)
    ask(study)  # killed before anybody worked on it
    again, storage = open_again(path)
    assert [trial.state for trial in again.get_trials()] == [TrialState.COMPLETE, TrialState.RUNNING]
    again.tell(left.number, [0.25, 1.0])
    more = ask(again)
    storage.keep(more.number)
    assert more.number == 2
    assert alike(others_see(path), again.get_trials())


def test_a_study_that_optuna_itself_wrote_goes_on(path: Path) -> None:
    written = optuna.create_study(
        study_name="search", storage=open_storage(path), directions=["maximize", "minimize"], sampler=RandomSampler()
    )
    written.set_user_attr("space_id", "tiny")
    written.tell(ask(written), [0.5, 2.0])
    running = ask(written)
    study, _ = open_again(path)
    assert study.user_attrs == {"space_id": "tiny"}
    study.tell(running.number, [0.75, 3.0])
    study.set_user_attr("more", 1)
    assert alike(others_see(path), study.get_trials())
    assert optuna.load_study(study_name="search", storage=f"sqlite:///{path}").user_attrs == study.user_attrs


def test_a_search_may_see_trials_otherwise_than_the_file_has_them(path: Path) -> None:
    study, storage = open_again(path)
    study.tell(ask(study), [0.5, 2.0])
    left = ask(study)
    storage.keep(left.number)

    def slower(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [
            create_trial(values=[0.5, 4.0], params=trials[0].params, distributions=trials[0].distributions),
            trials[1],
        ]

    storage = KeptStorage(open_storage(path), name="search", as_seen=slower)
    seen = optuna.load_study(study_name="search", storage=storage)
    seen.tell(left.number, [0.25, 1.0])
    assert [trial.values for trial in seen.get_trials()] == [[0.5, 4.0], [0.25, 1.0]]
    assert [trial.values for trial in others_see(path)] == [[0.5, 2.0], [0.25, 1.0]]


def test_an_evolution_finds_its_generations_again(path: Path) -> None:
    for _ in range(2):
        study, _ = open_again(path)
        study.sampler = NSGAIISampler(seed=0, population_size=4)
        for n in range(8):
            trial = ask(study)
            study.tell(trial, [n / 10, 1.0 + sum(trial.params.values())])
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in others_see(path)]
    assert generations == [n // 4 for n in range(16)]


def test_a_new_trial_takes_one_transaction(path: Path) -> None:
    study, storage = open_again(path)
    commits = 0

    def count(_: sqlalchemy.engine.Connection) -> None:
        nonlocal commits
        commits += 1

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", count)
    try:
        trial = ask(study)
        trial.set_user_attr("arch_id", "abc")
        storage.keep(trial.number)
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "commit", count)
    assert commits == 1
