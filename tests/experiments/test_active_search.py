"""Searching and measuring by turns: what is evaluated, with which prices, and when the device is asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import optuna
import pytest

from experiments.active_search import ActiveSearch
from experiments.session import Session
from hardware.files import MANIFEST_NAME, write_json
from nas.accuracy import Accuracy
from nas.pricing import Price, Pricer
from nas.profile import ProfileSettings
from nas.run import Run
from nas.search.active import Round
from nas.search.loop import Evaluated
from nas.search.pool import EvaluationPool, SerialPool, SubnetScore
from nas.search.settings import SearchSettings
from nas.search.stopping import Rivals, Stopping
from nas.search.study import Values
from searchspaces import Architecture, get_space
from tests.fakes.reporters import Heard
from tests.nas.predicted_run import accuracy, empty_run
from tests.nas.tiny_run import NUM_CLASSES, price_by_macs

PROFILE = ProfileSettings(fit=10, held_out=4, max_measured=20, max_mape_percent=5.0, protocol="quick", seed=0)


class Scaled(Pricer):
    """A pricer whose predictor has learnt that everything takes `factor` times as long."""

    factor = 1.0

    def price(self, archs: Sequence[Architecture]) -> list[Price]:
        return [
            replace(one, latency_predicted_ms=self.factor * one.latency_predicted_ms) for one in super().price(archs)
        ]


class FakeSession:
    """What `ActiveSearch` needs of a session, without a device."""

    device_id = "d"
    bench = None
    latencies_elsewhere = ()

    def __init__(self, run: Run, *, pricer: Pricer) -> None:
        self.run = run
        self.recipe = SimpleNamespace(search=SimpleNamespace(device_seconds=None))
        self.pricer = Scaled(run.space, predictor=pricer.predictor, num_classes=NUM_CLASSES)
        self.learn(factor=1.0)

    def learn(self, *, factor: float) -> None:
        """Store another predictor."""
        write_json(self.run.predictor_dir("d") / MANIFEST_NAME, {"factor": factor})
        self.stored_factor = factor

    def forget_prices(self) -> None:
        self.pricer.factor = self.stored_factor


class Measuring:
    """Measures nothing: after each part everything turns out to take twice as long."""

    budget_s, used_s = 8.0, 0.0

    def __init__(self, session: FakeSession) -> None:
        self.session = session
        self.calls: list[tuple[int, float]] = []

    def is_done(self, *, evaluations: int) -> bool:
        return bool(self.calls) and self.calls[-1][0] == evaluations

    def measure(self, *, evaluations: int, share: float) -> Round:
        self.calls.append((evaluations, share))
        self.session.learn(factor=2.0 ** len(self.calls))
        return Round(evaluations=evaluations, measured=6, device_seconds=2.0 * len(self.calls), ended="settled")


class Bed:
    """A run without evaluations, and a search on it."""

    def __init__(self, run: Run, *, pricer: Pricer, evaluations: int) -> None:
        self.run, self.session = run, FakeSession(run, pricer=pricer)
        self.measuring = Measuring(self.session)
        self.found: dict[str, tuple[Architecture, float]] = {}
        self.kill_after: int | None = None
        self.pools, self.time_for = 0, 1_000
        self.settings = SearchSettings(
            sampler="nsga2", evaluations=evaluations, population=4, subnets_per_task=1, limits=(), seed=0
        )

    def known(self) -> Mapping[str, Values]:
        prices = self.session.pricer.price([arch for arch, _ in self.found.values()])
        return {
            arch_id: Values(accuracy=value, latency_ms=price.latency_predicted_ms)
            for (arch_id, (_, value)), price in zip(self.found.items(), prices, strict=True)
        }

    def record(self, evaluated: Sequence[Evaluated]) -> None:
        self.found |= {one.architecture.arch_id: (one.architecture, one.score.accuracy.value) for one in evaluated}
        if self.kill_after is not None and len(self.found) >= self.kill_after:
            raise KeyboardInterrupt

    @contextmanager
    def pool(self) -> Iterator[EvaluationPool]:
        self.pools += 1
        yield SerialPool(self._judge)

    def _judge(self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None) -> tuple[SubnetScore, ...]:
        values = accuracy(self.run, self.run.space.genomes(list(archs)))
        return tuple(
            SubnetScore(
                arch_id=arch.arch_id,
                accuracy=Accuracy(metric="top1", value=float(value), interval=(0.0, 1.0), num_correct=1, num_images=2),
                seconds=0.0,
            )
            for arch, value in zip(archs, values, strict=True)
        )

    def search(self) -> ActiveSearch:
        return ActiveSearch(
            cast(Session, self.session),
            settings=self.settings,
            profile=PROFILE,
            sources=(),
            known=self.known,
            rivals=Rivals,
            record=self.record,
            used_up=lambda: "time is over" if len(self.found) >= self.time_for else None,
            reporter=Heard(),
        )


@pytest.fixture(scope="module")
def pricer() -> Pricer:
    space = get_space("nas-bench-macro")
    return price_by_macs(space, space.sample_many(40, np.random.default_rng(0)))


@pytest.fixture
def bed(tmp_path: Path, pricer: Pricer, monkeypatch: pytest.MonkeyPatch) -> Bed:
    made = Bed(empty_run(tmp_path / "run"), pricer=pricer, evaluations=8)
    monkeypatch.setattr("experiments.active_search.ActiveMeasuring", lambda *_, **__: made.measuring)
    return made


def test_every_part_is_searched_with_the_latencies_measured_after_the_one_before(bed: Bed) -> None:
    ended = bed.search().run(pool=bed.pool)
    assert ended == "8 architectures evaluated, 0.0 of 8.0 device seconds used"
    assert bed.measuring.calls == [(2, 0.25), (4, 0.5), (6, 0.75), (8, 1.0)]
    assert (len(bed.found), bed.pools) == (8, 1)
    # What each part was told, after the device had measured once more; what was told before stays in the file.
    trials = optuna.load_study(study_name=bed.run.info.name, storage=f"sqlite:///{bed.run.study_path}").get_trials()
    archs = [bed.run.space.architecture(trial.params) for trial in trials]
    first = [price.latency_predicted_ms for price in Pricer.price(bed.session.pricer, archs)]
    np.testing.assert_allclose([trial.values[1] for trial in trials], np.repeat([1, 2, 4, 8], 2) * first)
    assert bed.search().is_done()


def test_a_killed_search_goes_on_and_evaluates_nothing_twice(bed: Bed) -> None:
    bed.kill_after = 5
    with pytest.raises(KeyboardInterrupt):
        bed.search().run(pool=bed.pool)
    assert bed.measuring.calls == [(2, 0.25), (4, 0.5)]
    before = dict(bed.found)
    bed.kill_after = None
    assert not bed.search().is_done()
    bed.search().run(pool=bed.pool)
    assert bed.measuring.calls[2:] == [(6, 0.75), (8, 1.0)]
    assert len(bed.found) == 8
    assert before.items() <= bed.found.items()


def test_a_call_that_was_killed_while_measuring_measures_without_workers(bed: Bed) -> None:
    bed.search().run(pool=bed.pool)
    bed.measuring.calls.pop()
    search = bed.search()
    assert not search.is_done()
    search.run(pool=bed.pool)
    assert bed.measuring.calls[-1] == (8, 1.0)
    assert bed.pools == 1


def test_a_search_whose_time_is_over_measures_what_it_has_and_goes_on_later(bed: Bed) -> None:
    bed.time_for = 4
    assert bed.search().run(pool=bed.pool).startswith("time is over, ")
    assert bed.measuring.calls == [(2, 0.25), (4, 1.0)]
    assert bed.search().is_done()
    bed.time_for = 1_000
    assert not bed.search().is_done()
    bed.search().run(pool=bed.pool)
    assert len(bed.found) == 8
