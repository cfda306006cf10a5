"""Studies whose trials go on with the latencies of a better predictor, in a real SQLite file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from hardware.cost import analytic_costs
from nas.objectives import Limit
from nas.pricing import Price, Pricer
from nas.search.repricing import newest_study, open_repriced_study
from nas.search.settings import SamplerName, SearchSettings
from nas.search.study import SearchStudy, Values, open_study
from searchspaces import Architecture
from tests.nas.tiny_run import NUM_CLASSES, SEARCH, SPACE


class Slower(Pricer):
    """What a predictor may say after it has learnt more: everything takes twice as long."""

    def __init__(self, inner: Pricer) -> None:
        super().__init__(inner.space, predictor=inner.predictor, num_classes=NUM_CLASSES)

    def price(self, archs: Sequence[Architecture]) -> list[Price]:
        return [replace(price, latency_predicted_ms=2 * price.latency_predicted_ms) for price in super().price(archs)]


@pytest.fixture
def slower(macs_pricer: Pricer) -> Pricer:
    return Slower(macs_pricer)


def reopen(path: Path, pricer: Pricer, predictor_id: str, *, settings: SearchSettings = SEARCH) -> SearchStudy:
    return open_repriced_study(path, name="tiny", predictor_id=predictor_id, pricer=pricer, settings=settings, known={})


def tell(study: SearchStudy, pricer: Pricer, *, num: int) -> list[Architecture]:
    archs = []
    for n in range(num):
        trial, arch = study.ask()
        (price,) = pricer.price([arch])
        study.constrain(trial, price)
        study.tell(trial, Values(accuracy=0.5 + 0.01 * n, latency_ms=price.latency_predicted_ms))
        archs.append(arch)
    return archs


def trials(path: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}").get_trials()


@pytest.mark.parametrize("sampler", ["nsga2", "surrogate"])
def test_trials_keep_numbers_accuracies_and_generations_and_get_new_latencies(
    tmp_path: Path, macs_pricer: Pricer, slower: Pricer, sampler: SamplerName
) -> None:
    path, settings = tmp_path / "study.db", replace(SEARCH, sampler=sampler)
    archs = tell(reopen(path, macs_pricer, "a", settings=settings), macs_pricer, num=9)
    more = tell(reopen(path, slower, "b", settings=settings), slower, num=5)
    before, after = trials(path, "tiny/a"), trials(path, "tiny/b")
    assert [trial.number for trial in after] == list(range(14))
    for old, new in zip(before, after, strict=False):
        assert (new.params, new.values[0]) == (old.params, old.values[0])
        assert new.values[1] == pytest.approx(2 * old.values[1])
        assert new.system_attrs == old.system_attrs
    assert [SPACE.architecture(trial.params) for trial in after] == [*archs, *more]
    if sampler == "nsga2":
        # Generations go on instead of beginning anew.
        generations = Counter(trial.system_attrs["NSGAIISampler:generation"] for trial in after)
        assert generations == {0: 4, 1: 4, 2: 4, 3: 2}


def test_an_equal_predictor_goes_on_in_the_same_study(tmp_path: Path, macs_pricer: Pricer) -> None:
    path = tmp_path / "study.db"
    tell(reopen(path, macs_pricer, "a"), macs_pricer, num=2)
    tell(reopen(path, macs_pricer, "a"), macs_pricer, num=1)
    assert len(trials(path, "tiny/a")) == 3
    assert newest_study(path, name="tiny") == "tiny/a"
    assert newest_study(tmp_path / "none.db", name="tiny") == "tiny"
    assert not (tmp_path / "none.db").exists()


def test_a_run_that_searched_otherwise_goes_on_from_its_own_study(tmp_path: Path, macs_pricer: Pricer) -> None:
    path = tmp_path / "study.db"
    tell(open_study(path, name="tiny", pricer=macs_pricer, settings=SEARCH), macs_pricer, num=3)
    reopen(path, macs_pricer, "a")
    assert len(trials(path, "tiny/a")) == 3


def test_a_copy_that_was_killed_is_made_again(tmp_path: Path, macs_pricer: Pricer, slower: Pricer) -> None:
    path = tmp_path / "study.db"
    tell(reopen(path, macs_pricer, "a"), macs_pricer, num=4)
    torn = optuna.create_study(study_name="tiny/b", storage=f"sqlite:///{path}", directions=["maximize", "minimize"])
    torn.add_trial(trials(path, "tiny/a")[0])
    assert newest_study(path, name="tiny") == "tiny/a"
    reopen(path, slower, "b")
    copied = trials(path, "tiny/b")
    assert [trial.number for trial in copied] == [0, 1, 2, 3]
    assert copied[0].values[1] == pytest.approx(2 * trials(path, "tiny/a")[0].values[1])


def test_what_is_within_the_limits_by_now_may_be_proposed_again(
    tmp_path: Path, macs_pricer: Pricer, slower: Pricer
) -> None:
    macs_N = analytic_costs(SPACE.op_table(SPACE.genomes([SPACE.largest]), num_classes=NUM_CLASSES)).macs_N
    largest_ms = 0.01 + 1e-7 * float(macs_N[0])
    limits = (Limit(name="latency_ms", value=1.5 * largest_ms, unit="ms"),)
    path, settings = tmp_path / "study.db", replace(SEARCH, limits=limits)
    study = reopen(path, slower, "a", settings=settings)
    study.propose_next(SPACE.largest)
    trial, arch = study.ask()
    (price,) = slower.price([arch])
    study.constrain(trial, price)
    assert limits[0].violation(price.latency_predicted_ms) > 0
    study.tell_infeasible(trial, price)
    left, _ = study.ask()
    reopen(path, macs_pricer, "b", settings=settings)
    freed, killed, again = trials(path, "tiny/b")
    assert (freed.state, freed.params) == (TrialState.FAIL, {})
    # What a killed process left running is closed, and proposed again.
    assert (killed.state, again.state) == (TrialState.FAIL, TrialState.WAITING)
    assert left.number == killed.number
    rows = np.array([trial.values for trial in trials(path, "tiny/a") if trial.state == TrialState.COMPLETE])
    assert len(rows) == 1


def test_a_trial_that_is_beyond_a_limit_by_now_says_so(tmp_path: Path, macs_pricer: Pricer, slower: Pricer) -> None:
    limits = (Limit(name="latency_ms", value=0.02, unit="ms"),)
    path, settings = tmp_path / "study.db", replace(SEARCH, limits=limits)
    tell(reopen(path, macs_pricer, "a", settings=settings), macs_pricer, num=2)
    reopen(path, slower, "b", settings=settings)
    for trial in trials(path, "tiny/b"):
        assert trial.constraints["latency_ms"] == pytest.approx(trial.values[1] / 0.02 - 1)
