"""The study: what it asks, learns, forgets and refuses, in a real SQLite file."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from nas.errors import RunError
from nas.objectives import Limit
from nas.pricing import Price, Pricer
from nas.search.settings import SamplerName, SearchSettings
from nas.search.study import SearchStudy, Values, open_study
from searchspaces import Architecture, get_space
from tests.nas.tiny_run import SEARCH, SPACE, price_by_macs

LIMITS = (Limit(name="latency_ms", value=2.0, unit="ms"), Limit(name="params", value=1000.0, unit=""))

Open = Callable[..., SearchStudy]


@pytest.fixture
def open_again(tmp_path: Path, macs_pricer: Pricer) -> Open:
    """Opens the one study of the test, as every new process would."""

    def open_it(
        *, pricer: Pricer = macs_pricer, limits: tuple[Limit, ...] = (), settings: SearchSettings = SEARCH
    ) -> SearchStudy:
        settings = replace(settings, limits=limits)
        return open_study(tmp_path / "study.db", name="tiny", pricer=pricer, settings=settings)

    return open_it


def trials(path: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna itself reads them."""
    return optuna.load_study(study_name="tiny", storage=f"sqlite:///{path / 'study.db'}").get_trials()


def priced(latency_ms: float, *, params: int = 900) -> Price:
    return Price(
        device_id="macs",
        latency_predicted_ms=latency_ms,
        latency_predicted_low_ms=latency_ms,
        latency_predicted_high_ms=latency_ms,
        in_range=True,
        macs=10_000,
        params=params,
        peak_memory_bytes=4_000,
    )


def ask_many(study: SearchStudy, num: int) -> list[Architecture]:
    archs = []
    for _ in range(num):
        trial, arch = study.ask()
        study.tell(trial, Values(accuracy=0.5, latency_ms=1.0))
        archs.append(arch)
    return archs


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_proposals_are_architectures_of_the_space(open_again: Open, sampler: SamplerName) -> None:
    study = open_again(settings=replace(SEARCH, sampler=sampler))
    archs = ask_many(study, 6)
    assert [SPACE.architecture(dict(arch.genes)) for arch in archs] == archs


def test_told_values_are_kept_with_their_architecture(open_again: Open, tmp_path: Path) -> None:
    study = open_again()
    trial, arch = study.ask()
    study.tell(trial, Values(accuracy=0.75, latency_ms=1.5))
    (frozen,) = trials(tmp_path)
    assert frozen.state == TrialState.COMPLETE
    assert frozen.values == [0.75, 1.5]
    assert SPACE.architecture(frozen.params) == arch
    assert frozen.user_attrs["arch_id"] == arch.arch_id


def test_accuracy_is_maximised_and_latency_minimised(open_again: Open, tmp_path: Path) -> None:
    study = open_again()
    wanted = {(0.9, 2.0), (0.5, 1.0)}
    for accuracy, latency_ms in (*wanted, (0.5, 2.0), (0.4, 1.0)):
        trial, _ = study.ask()
        study.tell(trial, Values(accuracy=accuracy, latency_ms=latency_ms))
    best = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'study.db'}").best_trials
    assert {(trial.values[0], trial.values[1]) for trial in best} == wanted


def test_the_next_proposal_can_be_given(open_again: Open) -> None:
    study = open_again()
    study.propose_next(SPACE.largest)
    study.propose_next(SPACE.smallest)
    assert ask_many(study, 2) == [SPACE.largest, SPACE.smallest]


def test_reopening_goes_on_and_does_not_repeat_the_same_proposals(open_again: Open, tmp_path: Path) -> None:
    first = ask_many(open_again(), 4)
    second = ask_many(open_again(), 4)
    assert [trial.number for trial in trials(tmp_path)] == list(range(8))
    assert first != second


def test_the_seed_decides_the_proposals(tmp_path: Path, macs_pricer: Pricer) -> None:
    proposals = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        settings = replace(SEARCH, seed=seed)
        study = open_study(tmp_path / name / "study.db", name="tiny", pricer=macs_pricer, settings=settings)
        proposals.append(ask_many(study, 4))
    assert proposals[0] == proposals[1]
    assert proposals[0] != proposals[2]


def test_the_distance_to_each_limit_is_a_constraint(open_again: Open, tmp_path: Path) -> None:
    study = open_again(limits=LIMITS)
    for latency_ms, params in ((1.0, 900), (3.0, 900), (0.5, 1100)):
        trial, _ = study.ask()
        study.constrain(trial, priced(latency_ms, params=params))
        study.tell(trial, Values(accuracy=0.5, latency_ms=latency_ms))
    found = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'study.db'}")
    # only the feasible one is among the best
    assert [trial.number for trial in found.best_trials] == [0]


def test_what_is_not_evaluated_is_marked(open_again: Open, tmp_path: Path) -> None:
    study = open_again(limits=LIMITS)
    trial, _ = study.ask()
    study.constrain(trial, priced(4.0))
    study.tell_infeasible(trial, priced(4.0))
    trial, _ = study.ask()
    study.fail(trial, reason="out of memory " * 100)
    infeasible, failed = trials(tmp_path)
    assert infeasible.state == TrialState.COMPLETE
    assert infeasible.user_attrs["not_evaluated"] == "not within latency_ms <= 2 ms, params <= 1000"
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["not_evaluated"].startswith("out of memory")


def test_recovery_tells_what_is_known_and_proposes_the_rest_again(open_again: Open, tmp_path: Path) -> None:
    study = open_again()
    (_, known), (_, unknown) = study.ask(), study.ask()
    assert known != unknown
    assert study.num_running() == 2
    again = open_again()
    again.recover({known.arch_id: Values(accuracy=0.25, latency_ms=0.5)})
    assert again.num_running() == 0
    by_number = trials(tmp_path)
    assert by_number[0].values == [0.25, 0.5]
    assert by_number[1].state == TrialState.FAIL
    trial, arch = again.ask()
    assert arch == unknown
    again.tell(trial, Values(accuracy=0.5, latency_ms=1.0))


def test_recovery_fails_a_trial_that_has_no_architecture_yet(open_again: Open, tmp_path: Path) -> None:
    open_again()
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'study.db'}")
    study.ask().suggest_categorical("resolution", (8, 12))  # killed between two suggestions
    again = open_again()
    again.recover({})
    assert again.num_running() == 0
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.FAIL]


def test_a_study_of_another_space_is_refused_with_both_names(open_again: Open) -> None:
    open_again()
    space = get_space("mbconv-small")
    other = price_by_macs(space, space.sample_many(20, np.random.default_rng(0)))
    with pytest.raises(RunError, match=f"searches space '{SPACE.space_id}', this run 'mbconv-small'") as caught:
        open_again(pricer=other)
    assert "study.db away" in caught.value.hint


def damage_text(path: Path) -> None:
    path.write_text("this is no database, but a long enough text to be looked at " * 20)


def damage_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def damage_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    connection.execute("UPDATE version_info SET schema_version = 99")
    connection.commit()
    connection.close()


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [damage_text, damage_half, damage_pages, damage_version, replace_by_directory])
def test_a_damaged_study_is_one_clear_error(open_again: Open, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    study = open_again()
    ask_many(study, 3)
    study.ask()
    damage(tmp_path / "study.db")

    def open_and_use() -> None:
        again = open_again()
        again.recover({})
        again.ask()

    with pytest.raises(RunError, match=r"study\.db") as caught:
        open_and_use()
    assert f"move {tmp_path / 'study.db'} away" in caught.value.hint
