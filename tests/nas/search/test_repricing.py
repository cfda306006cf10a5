"""Studies that go on with another predictor, other limits or a lost file, in a real SQLite file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from nas.objectives import Limit
from nas.pricing import Price, Pricer
from nas.search.repricing import repriced
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


def reopen(path: Path, pricer: Pricer, *, settings: SearchSettings = SEARCH) -> SearchStudy:
    return open_study(path, name="tiny", pricer=pricer, settings=settings)


def search(study: SearchStudy, pricer: Pricer, *, num: int) -> list[Architecture]:
    """As `Proposals` does it, without looking at limits."""
    archs = []
    for n in range(num):
        trial, arch = study.ask()
        (price,) = pricer.price([arch])
        study.constrain(trial, price)
        study.tell(trial, Values(accuracy=0.5 + 0.01 * n, latency_ms=price.latency_predicted_ms))
        archs.append(arch)
    return archs


def in_file(path: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="tiny", storage=f"sqlite:///{path}").get_trials()


def limit_ms(pricer: Pricer, share: float) -> Limit:
    """A limit of a share of the largest architecture's latency."""
    (price,) = pricer.price([SPACE.largest])
    return Limit(name="latency_ms", value=share * price.latency_predicted_ms, unit="ms")


@pytest.mark.parametrize("sampler", ["nsga2", "surrogate"])
def test_trials_keep_numbers_accuracies_and_generations_and_are_seen_with_new_latencies(
    path: Path, macs_pricer: Pricer, slower: Pricer, sampler: SamplerName
) -> None:
    settings = replace(SEARCH, sampler=sampler)
    archs = search(reopen(path, macs_pricer, settings=settings), macs_pricer, num=9)
    before = in_file(path)
    for old, new in zip(before, repriced(before, pricer=slower, limits=()), strict=True):
        assert (new.params, new.values[0], new.system_attrs) == (old.params, old.values[0], old.system_attrs)
        assert new.values[1] == pytest.approx(2 * old.values[1])
    more = search(reopen(path, slower, settings=settings), slower, num=5)
    after = in_file(path)
    # What was told stays as it was told.
    assert [trial.values for trial in after[:9]] == [trial.values for trial in before]
    assert [trial.number for trial in after] == list(range(14))
    assert [SPACE.architecture(trial.params) for trial in after] == [*archs, *more]
    if sampler == "nsga2":
        # Generations go on instead of beginning anew.
        generations = Counter(trial.system_attrs["NSGAIISampler:generation"] for trial in after)
        assert generations == {0: 4, 1: 4, 2: 4, 3: 2}


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_every_sampler_goes_on_under_a_new_limit(path: Path, macs_pricer: Pricer, sampler: SamplerName) -> None:
    """Optuna's Gaussian process refuses trials of which some have a constraint and some have none."""
    settings = replace(SEARCH, sampler=sampler)
    study = reopen(path, macs_pricer, settings=settings)
    search(study, macs_pricer, num=6)
    study.ask()  # killed
    limited = replace(settings, limits=(limit_ms(macs_pricer, 0.5),))
    study = reopen(path, macs_pricer, settings=limited)
    study.recover({})
    assert len(search(study, macs_pricer, num=3)) == 3


def test_limits_of_now_count_for_trials_of_before(path: Path, macs_pricer: Pricer) -> None:
    search(reopen(path, macs_pricer), macs_pricer, num=6)
    limit = limit_ms(macs_pricer, 0.5)
    for trial in repriced(in_file(path), pricer=macs_pricer, limits=[limit]):
        assert trial.constraints == {"latency_ms": pytest.approx(trial.values[1] / limit.value - 1)}
    limited = replace(SEARCH, limits=(limit,))
    search(reopen(path, macs_pricer, settings=limited), macs_pricer, num=1)
    assert [trial.constraints for trial in repriced(in_file(path), pricer=macs_pricer, limits=())] == [{}] * 7


def test_what_is_within_the_limits_by_now_may_be_proposed_again(
    path: Path, macs_pricer: Pricer, slower: Pricer
) -> None:
    limits = (limit_ms(macs_pricer, 1.5),)
    settings = replace(SEARCH, limits=limits)
    study = reopen(path, slower, settings=settings)
    study.propose_next(SPACE.largest)
    trial, arch = study.ask()
    (price,) = slower.price([arch])
    assert limits[0].violation(price.latency_predicted_ms) > 0
    study.constrain(trial, price)
    study.tell_infeasible(trial, price)
    (freed,) = repriced(in_file(path), pricer=macs_pricer, limits=limits)
    assert (freed.state, freed.params) == (TrialState.FAIL, {})
    (still,) = repriced(in_file(path), pricer=slower, limits=limits)
    assert (still.state, still.params) == (TrialState.COMPLETE, in_file(path)[0].params)


def test_what_a_study_never_heard_of_is_told(path: Path, macs_pricer: Pricer) -> None:
    """As after the file was lost: the sampler goes on from what the tables have, and not from its first ones."""
    archs = SPACE.architectures(SPACE.sample_many(8, np.random.default_rng(0)))
    prices = macs_pricer.price(archs)
    known = {
        arch.arch_id: Values(accuracy=0.5 + 0.01 * n, latency_ms=price.latency_predicted_ms, architecture=arch)
        for n, (arch, price) in enumerate(zip(archs, prices, strict=True))
    }
    settings = replace(SEARCH, limits=(limit_ms(macs_pricer, 0.9),))
    study = reopen(path, macs_pricer, settings=settings)
    _, told = study.ask()
    study.recover(known)
    study.recover(known)
    trials = [trial for trial in in_file(path) if trial.state == TrialState.COMPLETE]
    assert len(trials) == len(known)
    found = {SPACE.architecture(trial.params).arch_id: trial for trial in trials}
    for arch_id, values in known.items():
        assert found[arch_id].values == [values.accuracy, values.latency_ms]
        assert set(found[arch_id].constraints) == {"latency_ms"}
    proposed = {arch.arch_id for _, arch in [study.ask() for _ in range(4)]}
    assert not proposed & (set(known) - {told.arch_id})
