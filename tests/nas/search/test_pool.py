"""The subnets of a task are judged one by one."""

from collections.abc import Sequence

import numpy as np
import pytest

from nas.accuracy import Accuracy
from nas.errors import CheckpointError
from nas.search.pool import SubnetScore, judge_each
from nas.search.stopping import Rival, Stopping
from searchspaces import Architecture
from tests.nas.tiny_run import SPACE

ARCHS = SPACE.architectures(np.unique(SPACE.sample_many(10, np.random.default_rng(0)), axis=0))[:4]
STOPPING = Stopping(
    confidence=0.9, rivals=tuple(None if n == 1 else Rival(arch_id=f"rival {n}", answers=b"") for n in range(4))
)


class Judge:
    """Raises for the second architecture, and remembers against whom each was judged."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.rivals: dict[str, Rival | None] = {}

    def __call__(
        self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        rivals = [None] * len(archs) if stopping is None else stopping.rivals
        self.rivals |= {arch.arch_id: rival for arch, rival in zip(archs, rivals, strict=True)}
        if ARCHS[1] in archs:
            raise self.error
        accuracy = Accuracy(metric="top1", value=0.5, interval=(0.4, 0.6), num_correct=5, num_images=10)
        return tuple(SubnetScore(arch_id=arch.arch_id, accuracy=accuracy, seconds=0.0) for arch in archs)


@pytest.mark.parametrize("stopping", [None, STOPPING], ids=["to the end", "against rivals"])
def test_who_raises_fails_alone_and_each_has_its_own_rival(stopping: Stopping | None) -> None:
    judge = Judge(MemoryError("40 GB\nand more"))
    scores, failures = judge_each(judge, ARCHS, stopping=stopping)
    assert [score.arch_id for score in scores] == [ARCHS[n].arch_id for n in (0, 2, 3)]
    assert failures == {ARCHS[1].arch_id: "MemoryError: 40 GB"}
    rivals = [None] * 4 if stopping is None else stopping.rivals
    assert judge.rivals == {arch.arch_id: rival for arch, rival in zip(ARCHS, rivals, strict=True)}


def test_an_error_of_ours_is_no_failure_of_one_architecture() -> None:
    with pytest.raises(CheckpointError, match="weights are damaged"):
        judge_each(Judge(CheckpointError("weights are damaged", hint="train again")), ARCHS, stopping=None)
