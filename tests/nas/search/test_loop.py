"""The search: nothing twice, nothing beyond the limit, nothing lost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from optuna.trial import TrialState

from nas.accuracy import Accuracy, top1
from nas.candidate import Candidate, inherited_candidate
from nas.errors import CheckpointError, EvaluationError
from nas.objectives import Limit
from nas.pareto import compute_front
from nas.pricing import Pricer, further_limit, search_limits
from nas.search.loop import Evaluated, run_search
from nas.search.neighbours import Neighbours
from nas.search.pool import EvaluationPool, SerialPool, SubnetScore, TaskResult
from nas.search.records import known_rivals, record_evaluated
from nas.search.records import known_values as known_values_of_tables
from nas.search.settings import SamplerName, SearchSettings
from nas.search.stopping import Stopping, judge_until_beaten, pack_answers
from nas.search.study import SearchStudy, Values, make_sampler, open_study
from searchspaces import Architecture, Choice, get_space
from searchspaces.enumeration import enumerate_genomes
from tests.nas.search.small_spaces import EIGHTEEN
from tests.nas.tiny_run import (
    NUM_CLASSES,
    SEARCH,
    SPACE,
    TinyRun,
    copy_run,
    ignore,
    known_values,
    make_pricer,
    price_by_macs,
    uncertain,
)
from tests.searchspaces.tiny import TinySpace, enumerate_by_hand, tiny_spaces

# Each gene is active only where the one before it has its second value: the last of the 21 architectures is drawn once
# in a million times.
CHAIN = TinySpace(
    [
        Choice(name="g00", values=(1, 2)),
        *(Choice(name=f"g{n:02}", values=(1, 2), parent=f"g{n - 1:02}", parent_values=(2,)) for n in range(1, 20)),
    ]
)
NUM_IMAGES = 1000


class KillError(BaseException):
    """A kill, as near as a test in one process gets."""


class CountingJudge:
    """Scores by the genes, and remembers whom it was asked about.

    Attributes:
        calls: architectures in the order of judging.
        dies_at: number of the architecture, from 1, that is a kill; 0 for never.
    """

    def __init__(self, *, dies_at: int = 0) -> None:
        self.calls: list[Architecture] = []
        self.dies_at = dies_at

    def __call__(
        self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        if len(self.calls) + 1 == self.dies_at:
            raise KillError
        self.calls.extend(archs)
        return tuple(SubnetScore(arch_id=arch.arch_id, accuracy=accuracy(arch), seconds=0.0) for arch in archs)

    @property
    def ids(self) -> list[str]:
        return [arch.arch_id for arch in self.calls]


def correct(arch: Architecture) -> int:
    """More of everything is better; the sum of the genes says how much."""
    return min(NUM_IMAGES, 10 * int(sum(float(value) for _, value in arch.genes)))


def accuracy(arch: Architecture) -> Accuracy:
    value = correct(arch) / NUM_IMAGES
    return Accuracy(
        metric="top1", value=value, interval=(value, value), num_correct=correct(arch), num_images=NUM_IMAGES
    )


class FailingPool(SerialPool):
    """Tasks fail by their number; `failing` holds the numbers, from 1."""

    def __init__(self, judge: CountingJudge, *, failing: Callable[[int], bool]) -> None:
        super().__init__(judge)
        self._failing = failing
        self._num = 0

    def next_result(self) -> TaskResult:
        self._num += 1
        result = super().next_result()
        if self._failing(self._num):
            return TaskResult(task_id=result.task_id, scores=(), error=f"task {self._num} ran out of memory")
        return result


class DyingPool(SerialPool):
    """Its worker dies while it judges some architectures.

    Attributes:
        deaths: by arch_id, how often.
        tasks: arch_ids of every task that was handed in.
    """

    def __init__(self, judge: CountingJudge) -> None:
        super().__init__(judge)
        self.deaths: dict[str, int] = {}
        self.tasks: list[list[str]] = []

    def submit(self, task_id: int, *, architectures: Sequence[Architecture], stopping: Stopping | None = None) -> None:
        super().submit(task_id, architectures=architectures, stopping=stopping)
        self.tasks.append([arch.arch_id for arch in architectures])

    def next_result(self) -> TaskResult:
        task_id, architectures, _ = self._waiting[0]
        for arch in architectures:
            if self.deaths.get(arch.arch_id, 0):
                self.deaths[arch.arch_id] -= 1
                self._waiting.popleft()
                return TaskResult(task_id=task_id, scores=(), error="the worker's process died", worker_died=True)
        return super().next_result()


class ParallelPool(SerialPool):
    """Three workers whose tasks end in the opposite order."""

    num_workers = 3

    def __init__(self, judge: CountingJudge) -> None:
        super().__init__(judge)
        self.most_waiting = 0

    def next_result(self) -> TaskResult:
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        self._waiting.reverse()
        return super().next_result()


class Search:
    """One search directory over several calls, as `nas search` makes them.

    Attributes:
        rows: the table, which outlives every kill.
        told: progress of the last call.
    """

    def __init__(self, pricer: Pricer, *, settings: SearchSettings = SEARCH, path: Path | None = None) -> None:
        """Describe a search; without a path its study is kept in memory, which is ten times faster."""
        self.pricer, self.settings, self.path = pricer, settings, path
        self._memory = optuna.storages.InMemoryStorage()
        self.rows: list[Evaluated] = []
        self.told: list[tuple[int, int]] = []
        self.dies_after_records = 0
        self.used_up: Callable[[], str | None] = lambda: None

    def known(self) -> dict[str, Values]:
        return {
            row.architecture.arch_id: Values(
                accuracy=row.score.accuracy.value, latency_ms=row.price.latency_predicted_ms
            )
            for row in self.rows
        }

    def record(self, evaluated: Sequence[Evaluated]) -> None:
        self.rows.extend(evaluated)
        if self.dies_after_records:
            self.dies_after_records -= 1
            if not self.dies_after_records:
                raise KillError

    def open(self) -> SearchStudy:
        if self.path is not None:
            return open_study(self.path, name="tiny", pricer=self.pricer, settings=self.settings)
        study = optuna.create_study(
            study_name="tiny",
            storage=self._memory,
            directions=["maximize", "minimize"],
            sampler=make_sampler(self.settings, pricer=self.pricer, seed=len(self.rows)),
            load_if_exists=True,
        )
        return SearchStudy(study, pricer=self.pricer, limits=self.settings.limits)

    def run(self, pool: EvaluationPool) -> str:
        self.told = []
        return run_search(
            self.open(),
            pricer=self.pricer,
            pool=pool,
            settings=self.settings,
            known=self.known(),
            record=self.record,
            on_progress=lambda done, wanted: self.told.append((done, wanted)),
            used_up=self.used_up,
        )

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        storage = self._memory if self.path is None else f"sqlite:///{self.path}"
        return optuna.load_study(study_name="tiny", storage=storage).get_trials()

    def ids(self) -> list[str]:
        return [row.architecture.arch_id for row in self.rows]


@pytest.fixture
def search(tmp_path: Path, macs_pricer: Pricer) -> Search:
    """A search with its study in SQLite, as users have it."""
    return Search(macs_pricer, path=tmp_path / "study.db")


@pytest.fixture
def quick_search(macs_pricer: Pricer) -> Search:
    return Search(macs_pricer)


@pytest.fixture(scope="module")
def eighteen_pricer() -> Pricer:
    return price_by_macs(EIGHTEEN, enumerate_genomes(EIGHTEEN))


def assert_nothing_twice(search: Search, judge: CountingJudge) -> None:
    """Nobody was judged twice, every judged one has its row, and no trial is left open."""
    assert len(judge.ids) == len(set(judge.ids))
    assert len(search.ids()) == len(set(search.ids()))
    assert not [trial for trial in search.trials() if trial.state in (TrialState.RUNNING, TrialState.WAITING)]


@pytest.mark.parametrize("sampler", ["surrogate", "nsga2"])
def test_the_budget_of_unique_architectures_is_evaluated(search: Search, sampler: SamplerName) -> None:
    search.settings = replace(SEARCH, sampler=sampler, evaluations=14)
    judge = CountingJudge()
    assert search.run(SerialPool(judge)) == "14 architectures evaluated"
    assert len(set(judge.ids)) == 14
    assert search.ids() == judge.ids
    assert_nothing_twice(search, judge)
    assert search.told[0] == (0, 14)
    assert search.told[-1] == (14, 14)


def test_rows_hold_the_price_the_score_and_the_trial(search: Search, macs_pricer: Pricer) -> None:
    search.run(SerialPool(CountingJudge()))
    by_number = {trial.number: trial for trial in search.trials()}
    for row in search.rows:
        assert row.price == macs_pricer.price([row.architecture])[0]
        assert row.score.accuracy.num_correct == correct(row.architecture)
        trial = by_number[row.trial_number]
        assert trial.user_attrs["arch_id"] == row.architecture.arch_id
        assert trial.values == [row.score.accuracy.value, row.price.latency_predicted_ms]


def test_a_search_learns(quick_search: Search) -> None:
    quick_search.settings = replace(SEARCH, evaluations=60, population=10, subnets_per_task=1)
    quick_search.run(SerialPool(CountingJudge()))
    # the later half knows what is better: its members are beaten by fewer others than those of the first half
    values = [(row.score.accuracy.num_correct, -row.price.latency_predicted_ms) for row in quick_search.rows]
    beaten_by = [sum(a >= b and c >= d and (a, c) != (b, d) for a, c in values) for b, d in values]
    assert sum(beaten_by[30:]) < sum(beaten_by[:30])


def test_duplicates_are_told_from_the_cache_and_never_judged(eighteen_pricer: Pricer) -> None:
    search = Search(eighteen_pricer, settings=replace(SEARCH, evaluations=16, subnets_per_task=4))
    judge = CountingJudge()
    search.run(SerialPool(judge))
    complete = [trial for trial in search.trials() if trial.state == TrialState.COMPLETE]
    # sixteen of eighteen cannot be found without proposing some of them again
    assert len(complete) > 16
    assert_nothing_twice(search, judge)
    values = {row.architecture.arch_id: row.score.accuracy.value for row in search.rows}
    assert all(trial.values[0] == values[trial.user_attrs["arch_id"]] for trial in complete)


def test_a_space_smaller_than_the_budget_ends_by_itself(eighteen_pricer: Pricer) -> None:
    settings = replace(SEARCH, evaluations=50, subnets_per_task=4)
    search = Search(eighteen_pricer, settings=settings)
    judge = CountingJudge()
    assert search.run(SerialPool(judge)) == "found no further architecture after 18 of 50"
    assert len(judge.ids) == EIGHTEEN.size == 18
    assert_nothing_twice(search, judge)
    num_trials = len(search.trials())
    search.run(SerialPool(judge))
    assert len(judge.ids) == 18
    assert len(search.trials()) == num_trials


def test_architectures_that_are_hardly_ever_drawn_are_evaluated_too() -> None:
    pricer = price_by_macs(CHAIN, enumerate_genomes(CHAIN))
    search = Search(pricer, settings=replace(SEARCH, evaluations=50, subnets_per_task=2))
    judge = CountingJudge()
    assert search.run(SerialPool(judge)) == "found no further architecture after 21 of 50"
    assert len(judge.ids) == CHAIN.size == 21


def test_later_duplicates_of_a_waiting_task_share_its_value(eighteen_pricer: Pricer) -> None:
    search = Search(eighteen_pricer, settings=replace(SEARCH, evaluations=18, subnets_per_task=2))
    judge = CountingJudge()
    pool = ParallelPool(judge)
    search.run(pool)
    assert len(judge.ids) == 18
    assert_nothing_twice(search, judge)
    # one task more than workers waits, so that none of them waits for the driver
    assert pool.most_waiting == 4


def test_a_second_search_adds_to_the_first(quick_search: Search) -> None:
    judge = CountingJudge()
    quick_search.run(SerialPool(judge))
    assert quick_search.run(SerialPool(judge)) == "12 architectures evaluated"
    assert len(judge.ids) == 12
    quick_search.settings = replace(SEARCH, evaluations=20)
    quick_search.run(SerialPool(judge))
    assert len(judge.ids) == 20
    assert quick_search.told[0] == (12, 20)
    assert_nothing_twice(quick_search, judge)


@pytest.mark.parametrize("records", [1, 3])
def test_a_kill_between_record_and_tell_loses_and_repeats_nothing(search: Search, records: int) -> None:
    judge = CountingJudge()
    search.dies_after_records = records
    with pytest.raises(KillError):
        search.run(SerialPool(judge))
    assert len(search.rows) == 3 * records
    assert [trial for trial in search.trials() if trial.state == TrialState.RUNNING]
    search.run(SerialPool(judge))
    assert len(search.rows) == 12
    assert_nothing_twice(search, judge)
    complete = {trial.user_attrs["arch_id"] for trial in search.trials() if trial.state == TrialState.COMPLETE}
    assert complete == set(search.ids())


@pytest.mark.parametrize("dies_at", [1, 7])
def test_a_kill_between_ask_and_record_leaves_no_running_trial(search: Search, dies_at: int) -> None:
    judge = CountingJudge(dies_at=dies_at)
    with pytest.raises(KillError):
        search.run(SerialPool(judge))
    judge.dies_at = 0
    left = {trial.user_attrs["arch_id"] for trial in search.trials() if trial.state == TrialState.RUNNING}
    assert len(left) >= 3
    search.run(SerialPool(judge))
    assert len(search.rows) == 12
    assert left <= set(search.ids())  # what was proposed then is not forgotten
    assert_nothing_twice(search, judge)


def test_what_exceeds_the_limit_is_never_evaluated(quick_search: Search, macs_pricer: Pricer) -> None:
    latency_N = macs_pricer.predictor.predict(SPACE.sample_many(2000, np.random.default_rng(1))).mean
    limit_ms = float(np.quantile(latency_N, 0.1))
    quick_search.settings = replace(SEARCH, limits=search_limits({"latency_ms": limit_ms}))
    judge = CountingJudge()
    quick_search.run(SerialPool(judge))
    assert len(judge.ids) == 12
    assert all(price.latency_predicted_ms <= limit_ms for price in macs_pricer.price(judge.calls))
    refused = [trial for trial in quick_search.trials() if "not_evaluated" in trial.user_attrs]
    assert refused
    assert not {trial.user_attrs["arch_id"] for trial in refused} & set(judge.ids)
    assert_nothing_twice(quick_search, judge)


def test_a_limit_that_few_architectures_meet_ends_the_search_with_all_of_them(eighteen_pricer: Pricer) -> None:
    latency_N = np.sort(eighteen_pricer.predictor.predict(enumerate_genomes(EIGHTEEN)).mean)
    limit_ms = float(latency_N[4:6].mean())
    settings = replace(SEARCH, evaluations=18, limits=search_limits({"latency_ms": limit_ms}))
    search = Search(eighteen_pricer, settings=settings)
    judge = CountingJudge()
    assert search.run(SerialPool(judge)) == "found no further architecture after 5 of 18"
    assert len(judge.ids) == 5
    assert_nothing_twice(search, judge)


@pytest.mark.parametrize("sampler", ["surrogate", "mnasnet", "gradient"])
def test_all_limits_hold_whichever_sampler_proposes(macs_pricer: Pricer, sampler: SamplerName) -> None:
    drawn_NG = SPACE.sample_many(500, np.random.default_rng(1))
    names = ("macs", "params", "peak_memory_bytes")
    values = {name: float(np.quantile(macs_pricer.costs[name](drawn_NG), 0.3)) for name in names}
    # as if the limited cost of a further device were the MACs
    macs_pricer = Pricer(
        SPACE, predictor=macs_pricer.predictor, num_classes=NUM_CLASSES, further=[macs_pricer.predictor]
    )
    further = float(np.quantile(macs_pricer.costs["latency_ms@macs"](drawn_NG), 0.25))
    limits = (*search_limits(values), further_limit("macs", further))
    search = Search(macs_pricer, settings=replace(SEARCH, sampler=sampler, limits=limits))
    judge = CountingJudge()
    search.run(SerialPool(judge))
    assert len(judge.ids) == 12
    for price in macs_pricer.price(judge.calls):
        assert all(limit.violation(price.cost(limit.name)) <= 0 for limit in limits)
    # Only the largest is asked for though it is beyond: it is the loop that wants it, not the sampler.
    refused = [trial for trial in search.trials() if "not_evaluated" in trial.user_attrs]
    assert [trial.user_attrs["arch_id"] for trial in refused] == [SPACE.largest.arch_id]


def test_a_search_goes_on_with_another_sampler_and_a_limit(search: Search, macs_pricer: Pricer) -> None:
    judge = CountingJudge()
    search.settings = replace(SEARCH, evaluations=4)
    search.run(SerialPool(judge))
    limits = search_limits({"macs": macs_pricer.price([SPACE.largest])[0].macs / 2})
    for sampler in ("surrogate", "nsga2"):
        search.settings = replace(SEARCH, sampler=sampler, evaluations=len(judge.ids) + 4, limits=limits)
        search.run(SerialPool(judge))
    assert len(judge.ids) == 12
    assert all(price.macs <= limits[0].value for price in macs_pricer.price(judge.calls[4:]))
    assert_nothing_twice(search, judge)


def test_the_search_stops_when_more_than_half_fail_and_keeps_what_finished(quick_search: Search) -> None:
    quick_search.settings = replace(SEARCH, evaluations=40, subnets_per_task=2)
    judge = CountingJudge()
    with pytest.raises(EvaluationError, match=r"6 of 10 evaluations failed; the last one: task 5 ran out of") as caught:
        quick_search.run(FailingPool(judge, failing=lambda number: number > 2))
    assert "finished evaluations are kept" in caught.value.hint
    assert len(quick_search.rows) == 4
    kept = quick_search.ids()
    quick_search.run(SerialPool(judge))
    assert quick_search.ids()[:4] == kept
    assert len(set(quick_search.ids())) == len(quick_search.ids()) == 40
    assert not [trial for trial in quick_search.trials() if trial.state == TrialState.RUNNING]


def test_a_few_failures_do_not_stop_the_search(quick_search: Search) -> None:
    quick_search.settings = replace(SEARCH, evaluations=20, subnets_per_task=2)
    quick_search.run(FailingPool(CountingJudge(), failing=lambda number: number % 3 == 0))
    assert len(set(quick_search.ids())) == 20
    failed = [trial for trial in quick_search.trials() if trial.state == TrialState.FAIL]
    reasons = [trial.user_attrs["not_evaluated"] for trial in failed]
    assert sum("ran out of memory" in reason for reason in reasons) >= 6
    assert all("ran out of memory" in reason or "failed before" in reason for reason in reasons)


def test_four_failures_at_the_start_are_forgiven(quick_search: Search) -> None:
    quick_search.settings = replace(SEARCH, evaluations=20, subnets_per_task=2)
    pool = FailingPool(CountingJudge(), failing=lambda number: number <= 2)
    assert quick_search.run(pool) == "20 architectures evaluated"


def test_a_failed_architecture_is_not_tried_again_in_the_same_search(eighteen_pricer: Pricer) -> None:
    search = Search(eighteen_pricer, settings=replace(SEARCH, evaluations=18, subnets_per_task=3))
    judge = CountingJudge()
    # the pool judges before it fails, so the judge has seen them all
    ended = search.run(FailingPool(judge, failing=lambda number: number == 2))
    assert ended.startswith("found no further architecture")
    assert len(judge.ids) == len(set(judge.ids)) == 18
    assert len(search.rows) == 15


@pytest.mark.parametrize("sampler", ["surrogate", "mnasnet"])
def test_what_failed_in_an_earlier_call_is_tried_again(eighteen_pricer: Pricer, sampler: SamplerName) -> None:
    settings = replace(SEARCH, sampler=sampler, evaluations=18, subnets_per_task=2)
    search = Search(eighteen_pricer, settings=settings)
    pool = FailingPool(CountingJudge(), failing=lambda number: number in (2, 5, 7))
    assert search.run(pool) == "found no further architecture after 12 of 18"
    failed = {arch.arch_id for arch in EIGHTEEN.architectures(enumerate_genomes(EIGHTEEN))} - set(search.ids())
    num_before = len(search.trials())
    judge = CountingJudge()
    assert search.run(SerialPool(judge)) == "18 architectures evaluated"
    assert set(judge.ids) == failed
    # The sampler proposes them itself, nothing else first.
    assert len(search.trials()) == num_before + 6


@pytest.mark.parametrize("sampler", ["surrogate", "nsga2"])
def test_a_worker_that_dies_costs_no_evaluation(quick_search: Search, sampler: SamplerName) -> None:
    quick_search.settings = replace(SEARCH, sampler=sampler, evaluations=14, subnets_per_task=4)
    judge = CountingJudge()
    pool = DyingPool(judge)
    pool.deaths = {SPACE.largest.arch_id: 1}
    assert quick_search.run(pool) == "14 architectures evaluated"
    first = pool.tasks[0]
    assert SPACE.largest.arch_id in first
    # Each alone, with the trials that it had.
    assert [task for task in pool.tasks if set(task) & set(first)] == [first, *([arch_id] for arch_id in first)]
    assert set(first) <= set(quick_search.ids())
    assert {row.trial_number for row in quick_search.rows if row.architecture.arch_id in first} == {0, 1, 2, 3}
    assert not [trial for trial in quick_search.trials() if trial.state == TrialState.FAIL]
    assert_nothing_twice(quick_search, judge)


def test_who_kills_every_worker_fails_alone_and_is_tried_again_by_the_next_call(quick_search: Search) -> None:
    quick_search.settings = replace(SEARCH, sampler="surrogate", evaluations=14, subnets_per_task=4)
    judge = CountingJudge()
    pool = DyingPool(judge)
    pool.deaths = {SPACE.largest.arch_id: 1_000}
    assert quick_search.run(pool) == "14 architectures evaluated"
    assert pool.deaths[SPACE.largest.arch_id] == 998
    failed = [trial for trial in quick_search.trials() if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["arch_id"] for trial in failed] == [SPACE.largest.arch_id]
    assert failed[0].user_attrs["not_evaluated"] == "the worker's process died"
    quick_search.settings = replace(quick_search.settings, evaluations=15)
    quick_search.run(SerialPool(judge))
    assert quick_search.ids()[-1] == SPACE.largest.arch_id
    assert_nothing_twice(quick_search, judge)


class NanJudge(CountingJudge):
    """Finds no accuracy of some architectures, by their number from 0."""

    def __init__(self, *, fails: Callable[[int], bool] = lambda number: number % 3 == 2) -> None:
        super().__init__()
        self.fails = fails

    def __call__(
        self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        first = len(self.calls)
        return tuple(
            replace(score, accuracy=replace(score.accuracy, value=float("nan"))) if self.fails(number) else score
            for number, score in enumerate(super().__call__(archs), start=first)
        )


class RaisingJudge(NanJudge):
    """Raises instead."""

    def __call__(
        self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        scores = super().__call__(archs)
        if not all(np.isfinite(score.accuracy.value) for score in scores):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand a second line")
        return scores


@pytest.mark.parametrize("make_judge", [NanJudge, RaisingJudge])
def test_failures_are_counted_by_architectures_however_they_share_tasks(
    quick_search: Search, make_judge: type[NanJudge]
) -> None:
    quick_search.settings = replace(SEARCH, evaluations=40, subnets_per_task=4)
    # In each task of four one is good.
    judge = make_judge(fails=lambda number: number % 5 in (0, 1, 2))
    with pytest.raises(EvaluationError, match="6 of 8 evaluations failed"):
        quick_search.run(SerialPool(judge))
    assert quick_search.ids() == [judge.ids[3], judge.ids[4]]
    failed = {trial.user_attrs["arch_id"] for trial in quick_search.trials() if trial.state == TrialState.FAIL}
    assert failed == {*judge.ids[:3], *judge.ids[5:8]}


def test_an_architecture_that_raises_fails_alone(quick_search: Search) -> None:
    quick_search.settings = replace(SEARCH, evaluations=30, subnets_per_task=4)
    judge = RaisingJudge(fails=lambda number: number % 4 == 0)
    assert quick_search.run(SerialPool(judge)) == "30 architectures evaluated"
    failed = {trial.user_attrs["arch_id"] for trial in quick_search.trials() if trial.state == TrialState.FAIL}
    assert failed == set(judge.ids[::4])
    reasons = {trial.user_attrs["not_evaluated"] for trial in quick_search.trials() if trial.state == TrialState.FAIL}
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in reasons
    assert_nothing_twice(quick_search, judge)


def test_an_error_of_ours_ends_the_search_as_it_was_raised(quick_search: Search) -> None:
    class Damaged(CountingJudge):
        def __call__(
            self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
        ) -> tuple[SubnetScore, ...]:
            raise CheckpointError("weights are damaged", hint="train again")

    with pytest.raises(CheckpointError, match="weights are damaged"):
        quick_search.run(SerialPool(Damaged()))


@pytest.mark.parametrize("sampler", ["surrogate", "nsga2"])
def test_an_accuracy_that_is_no_number_fails_its_trial_and_has_no_row(
    quick_search: Search, sampler: SamplerName
) -> None:
    quick_search.settings = replace(SEARCH, sampler=sampler, evaluations=14, subnets_per_task=4)
    judge = NanJudge()
    assert quick_search.run(SerialPool(judge)) == "14 architectures evaluated"
    assert all(np.isfinite(row.score.accuracy.value) for row in quick_search.rows)
    failed = {trial.user_attrs["arch_id"] for trial in quick_search.trials() if trial.state == TrialState.FAIL}
    assert failed == set(judge.ids[2::3]) == set(judge.ids) - set(quick_search.ids())
    reasons = {
        trial.user_attrs.get("not_evaluated") for trial in quick_search.trials() if trial.state == TrialState.FAIL
    }
    assert reasons <= {"its accuracy is not a number", "the evaluation of this architecture failed before"}
    assert_nothing_twice(quick_search, judge)


def test_a_search_that_finds_no_accuracy_at_all_is_an_error(quick_search: Search) -> None:
    class Never(CountingJudge):
        def __call__(
            self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
        ) -> tuple[SubnetScore, ...]:
            nothing = Accuracy(metric="top1", value=float("nan"), interval=(0.0, 1.0), num_correct=0, num_images=1)
            return tuple(SubnetScore(arch_id=arch.arch_id, accuracy=nothing, seconds=0.0) for arch in archs)

    with pytest.raises(EvaluationError, match="6 of 6 evaluations failed; the last one: its accuracy is not a"):
        quick_search.run(SerialPool(Never()))
    assert quick_search.rows == []


# Optuna's GP takes half a minute.
@pytest.mark.parametrize("sampler", [name for name in get_args(SamplerName) if name != "gp"])
def test_equal_accuracies_end_like_any_search(macs_pricer: Pricer, sampler: SamplerName) -> None:
    class Equal(CountingJudge):
        def __call__(
            self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
        ) -> tuple[SubnetScore, ...]:
            same = accuracy(SPACE.smallest)
            return tuple(replace(score, accuracy=same) for score in super().__call__(archs))

    search = Search(macs_pricer, settings=replace(SEARCH, sampler=sampler, evaluations=18))
    assert search.run(SerialPool(Equal())) == "18 architectures evaluated"


def test_a_search_in_which_everything_failed_is_an_error_however_small_the_space(eighteen_pricer: Pricer) -> None:
    search = Search(eighteen_pricer, settings=replace(SEARCH, evaluations=18, subnets_per_task=9))
    with pytest.raises(EvaluationError, match="9 of 9 evaluations failed; the last one: task 1"):
        search.run(FailingPool(CountingJudge(), failing=lambda _: True))


class StoppingJudge(CountingJudge):
    """Answers as many images correctly as `correct` says, the same ones first for everybody; stops as it is told.

    Attributes:
        rivals: whom each architecture was judged against.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rivals: dict[str, str | None] = {}

    def __call__(
        self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        assert stopping is not None
        self.calls.extend(archs)
        scores = []
        order = np.random.default_rng(0).permutation(NUM_IMAGES)
        for arch, rival in zip(archs, stopping.rivals, strict=True):
            answers_N = order < 4 * correct(arch)
            own_n, stopped = judge_until_beaten(
                np.split(answers_N, 20), num_images=NUM_IMAGES, rival=rival, confidence=stopping.confidence
            )
            self.rivals[arch.arch_id] = rival.arch_id if rival else None
            scores.append(
                SubnetScore(
                    arch_id=arch.arch_id,
                    accuracy=top1(own_n),
                    seconds=1.0,
                    answers=None if stopped else pack_answers(own_n),
                    stopped=stopped,
                )
            )
        return tuple(scores)


def test_what_cannot_reach_the_front_is_stopped_counts_and_is_told_below_it(macs_pricer: Pricer) -> None:
    settings = replace(SEARCH, sampler="random", evaluations=80, subnets_per_task=1, early_stopping=0.95)
    quick_search = Search(uncertain(macs_pricer), settings=settings)
    judge = StoppingJudge()
    assert quick_search.run(SerialPool(judge)) == "80 architectures evaluated"
    assert_nothing_twice(quick_search, judge)
    rows = {row.architecture.arch_id: row for row in quick_search.rows}
    stopped = [row for row in quick_search.rows if row.score.stopped]
    assert stopped
    assert judge.rivals[judge.ids[0]] is None
    compared = {arch_id: rival for arch_id, rival in judge.rivals.items() if rival}
    assert len(compared) > len(stopped)
    for arch_id, rival_id in compared.items():
        slowest_ms = rows[rival_id].price.latency_predicted_high_ms
        assert slowest_ms <= rows[arch_id].price.latency_predicted_low_ms
    told = {trial.number: trial.values[0] for trial in quick_search.trials() if trial.state == TrialState.COMPLETE}
    for row in stopped:
        assert row.score.stopped is not None
        rival = rows[row.score.stopped.rival]
        assert rival.score.stopped is None
        assert correct(row.architecture) < correct(rival.architecture)
        assert row.score.accuracy.num_images < NUM_IMAGES
        assert told[row.trial_number] == row.score.stopped.accuracy < rival.score.accuracy.value


def test_the_next_call_has_the_rivals_and_the_values_of_the_tables(trained: TinyRun, tmp_path: Path) -> None:
    run = copy_run(trained, tmp_path / "run")
    pricer = price_by_macs(SPACE, SPACE.sample_many(40, np.random.default_rng(0)))
    search = Search(pricer, settings=replace(SEARCH, evaluations=20, subnets_per_task=1, early_stopping=0.95))

    def inherit(arch: Architecture) -> Candidate:
        return inherited_candidate(arch, checkpoint_sha256="0", recalibration="none")

    def record(evaluated: Sequence[Evaluated]) -> None:
        search.rows.extend(evaluated)
        record_evaluated(run, evaluated, inherit=inherit)

    def go_on(evaluations: int) -> StoppingJudge:
        judge = StoppingJudge()
        rows = run.evaluations()
        search.settings = replace(search.settings, evaluations=evaluations)
        run_search(
            search.open(),
            pricer=pricer,
            pool=SerialPool(judge),
            settings=search.settings,
            known=known_values_of_tables(rows, run.stopped()),
            record=record,
            on_progress=ignore,
            rivals=known_rivals(rows, run.answers_table.read()),
        )
        return judge

    go_on(20)
    rows, stopped = run.evaluations(), run.stopped()
    assert len(rows) + len(stopped) == 20
    assert len(stopped) > 0
    assert not set(rows["arch_id"]) & set(stopped["arch_id"])
    assert len(run.answers_table) == len(rows)
    assert (stopped["num_images"] < stopped["of_images"]).all()
    assert set(stopped["of_epochs"]) == {0}
    assert (stopped["accuracy_estimated"] < stopped["rival"].map(rows.set_index("arch_id")["accuracy"])).all()
    front = compute_front(rows, run.verifications(), device_id="macs")
    assert front.points
    assert not {point.arch_id for point in front.points} & set(stopped["arch_id"])
    judge = go_on(26)
    assert len(judge.calls) == 6
    # a rival is known at once, if any evaluated one is no slower
    assert judge.rivals[judge.ids[0]] in set(rows["arch_id"])


def test_an_empty_budget_evaluates_nothing(quick_search: Search) -> None:
    judge = CountingJudge()
    quick_search.settings = replace(SEARCH, evaluations=0)
    assert quick_search.run(SerialPool(judge)) == "0 architectures evaluated"
    assert judge.calls == []


def test_a_search_with_the_real_judge_fills_the_table(searched: TinyRun) -> None:
    rows = searched.evaluations()
    assert len(rows) == rows["arch_id"].nunique() == SEARCH.evaluations
    assert set(rows["weights_kind"]) == {"inherited"}
    assert set(rows["num_images"]) == {400}
    study = open_study(searched.study_path, name="tiny", pricer=make_pricer(searched), settings=SEARCH)
    assert study.num_running() == 0
    assert set(known_values(rows)) == set(rows["arch_id"])


@given(tiny_spaces())
@settings(max_examples=60)
def test_a_small_space_is_listed_completely_and_without_repeats(space: TinySpace) -> None:
    genomes_NG = enumerate_genomes(space)
    assert (space.canonicalise(genomes_NG) == genomes_NG).all()
    listed = [frozenset(arch.genes) for arch in space.architectures(genomes_NG)]
    assert len(listed) == space.size
    assert set(listed) == enumerate_by_hand(space.choices)


def test_unseen_neighbours_of_a_large_space_are_new_and_within_the_limit() -> None:
    space = get_space("mbconv-small")
    pricer = price_by_macs(space, space.sample_many(60, np.random.default_rng(0)))
    limit = Limit(name="latency_ms", value=pricer.price([space.smallest])[0].latency_predicted_ms * 1.5, unit="ms")
    neighbours = Neighbours(space, costs=pricer.costs, limits=[limit], rng=np.random.default_rng(0))
    seen = {space.smallest}
    for _ in range(10):
        arch = neighbours.find(near=list(seen), is_new=lambda arch: arch not in seen)
        assert arch is not None
        assert arch not in seen
        assert limit.violation(pricer.price([arch])[0].latency_predicted_ms) <= 1e-9
        seen.add(arch)
    impossible = replace(limit, value=limit.value / 100)
    none_left = Neighbours(space, costs=pricer.costs, limits=[impossible], rng=np.random.default_rng(0))
    assert none_left.find(near=[], is_new=lambda arch: True) is None


def test_another_budget_ends_a_search_which_goes_on_with_more(quick_search: Search) -> None:
    judge = CountingJudge()
    # Used up from the beginning: what bounds every front is evaluated all the same.
    quick_search.used_up = lambda: "two hours are over"
    assert quick_search.run(SerialPool(judge)) == "3 of 12 architectures evaluated: two hours are over"
    assert_nothing_twice(quick_search, judge)
    assert quick_search.run(SerialPool(judge)) == "3 of 12 architectures evaluated: two hours are over"
    quick_search.used_up = lambda: "three are" if len(quick_search.rows) >= 6 else None
    assert quick_search.run(SerialPool(judge)).endswith("of 12 architectures evaluated: three are")
    assert 6 <= len(quick_search.rows) < 12
    quick_search.used_up = lambda: None
    assert quick_search.run(SerialPool(judge)) == "12 architectures evaluated"
    assert_nothing_twice(quick_search, judge)
