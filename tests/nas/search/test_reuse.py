"""What another run has evaluated is looked up."""

from collections.abc import Sequence

import numpy as np
import pytest

from nas.accuracy import Accuracy
from nas.search.pool import SerialPool, SubnetScore, TaskResult
from nas.search.reuse import ReusingPool
from nas.search.stopping import Stopping
from searchspaces import Architecture
from tests.nas.tiny_run import SPACE

ARCHS = SPACE.architectures(np.unique(SPACE.sample_many(10, np.random.default_rng(0)), axis=0))


def accuracy(value: float) -> Accuracy:
    return Accuracy(metric="top1", value=value, interval=(value, value), num_correct=1, num_images=10)


class Judge:
    def __init__(self) -> None:
        self.asked: list[Architecture] = []

    def __call__(
        self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        self.asked.extend(archs)
        return tuple(SubnetScore(arch_id=arch.arch_id, accuracy=accuracy(0.1), seconds=3.0) for arch in archs)


@pytest.fixture
def judge() -> Judge:
    return Judge()


def test_only_what_is_not_known_is_judged(judge: Judge) -> None:
    known = {arch.arch_id: accuracy(0.9) for arch in ARCHS[:3]}
    pool = ReusingPool(SerialPool(judge), known=known)
    pool.submit(1, architectures=ARCHS[1:5])
    pool.submit(2, architectures=ARCHS[:2])
    pool.submit(3, architectures=ARCHS[5:6])
    results = [pool.next_result() for _ in range(3)]
    # The one that needs no work is there first.
    assert [result.task_id for result in results] == [2, 1, 3]
    scores = {score.arch_id: score for result in results for score in result.scores}
    assert set(scores) == {arch.arch_id for arch in ARCHS[:6]}
    assert judge.asked == ARCHS[3:6]
    for arch in ARCHS[:6]:
        reused = arch.arch_id in known
        score = scores[arch.arch_id]
        assert (score.accuracy.value, score.seconds) == ((0.9, 0.0) if reused else (0.1, 3.0))
    assert pool.num_reused == 4
    assert pool.num_workers == 1


def test_what_fails_alone_leaves_the_others_their_scores(judge: Judge) -> None:
    def fail_first(archs: Sequence[Architecture], /, *, stopping: Stopping | None = None) -> tuple[SubnetScore, ...]:
        if ARCHS[1] in archs:
            raise RuntimeError("some bug")
        return judge(archs)

    pool = ReusingPool(SerialPool(fail_first), known={ARCHS[0].arch_id: accuracy(0.9)})
    pool.submit(1, architectures=ARCHS[:3])
    result = pool.next_result()
    assert [score.arch_id for score in result.scores] == [ARCHS[0].arch_id, ARCHS[2].arch_id]
    assert result.failures == {ARCHS[1].arch_id: "RuntimeError: some bug"}


def test_a_task_that_fails_gives_nothing(judge: Judge) -> None:
    class Failing(SerialPool):
        def next_result(self) -> TaskResult:
            return TaskResult(task_id=super().next_result().task_id, scores=(), error="out of memory")

    pool = ReusingPool(Failing(judge), known={ARCHS[0].arch_id: accuracy(0.9)})
    pool.submit(1, architectures=ARCHS[:2])
    result = pool.next_result()
    assert (result.scores, result.error, pool.num_reused) == ((), "out of memory", 0)
