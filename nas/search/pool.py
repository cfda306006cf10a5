"""What the search needs of the workers that judge subnets; `experiments/ray` implements it with actors."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from nas.accuracy import Accuracy
from nas.search.stopping import Stopped, Stopping
from searchspaces import Architecture
from searchspaces.errors import Hinted, in_one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetScore:
    """What one evaluation found.

    Attributes:
        arch_id: the subnet.
        accuracy: on the search split; of a candidate that was stopped, on the images that it was judged on.
        seconds: computing time of recalibration and evaluation.
        answers: with early stopping, of a candidate judged to the end: which images it classifies correctly, in the
            shuffled order of `nas.search.stopping.pack_answers`.
        stopped: why it was not judged to the end.
    """

    arch_id: str
    accuracy: Accuracy
    seconds: float
    answers: bytes | None = None
    stopped: Stopped | None = None


class Judge(Protocol):
    """Judges the subnets of a task."""

    def __call__(
        self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        """One score a subnet, in their order; without `stopping` each is judged to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The end of one task: what its subnets got, or why nothing of it was judged (`error`); never both.

    Attributes:
        task_id: as handed in.
        scores: of the subnets that were judged, in their order.
        error: why the whole task failed.
        failures: by arch_id of the subnets that failed alone, the reason.
        worker_died: with `error`, whether the worker's process ended: no fault of the task, as far as anybody knows.
    """

    task_id: int
    scores: tuple[SubnetScore, ...]
    error: str | None
    failures: Mapping[str, str] = field(default_factory=dict)
    worker_died: bool = False


def judge_each(
    judge: Judge, archs: Sequence[Architecture], *, stopping: Stopping | None
) -> tuple[tuple[SubnetScore, ...], dict[str, str]]:
    """Judge the subnets of a task one by one, so that one that raises fails alone.

    Returns:
        Scores in the order of `archs`, and by arch_id the reasons of those that failed.

    Raises:
        Hinted: an error of ours: all others would meet it, too.
    """
    scores: list[SubnetScore] = []
    failures: dict[str, str] = {}
    for number, arch in enumerate(archs):
        alone = None if stopping is None else replace(stopping, rivals=stopping.rivals[number : number + 1])
        try:
            scores.extend(judge([arch], stopping=alone))
        except Hinted:
            raise
        except Exception as e:  # noqa: BLE001  # whatever a network may raise, it is the reason of its failure
            failures[arch.arch_id] = in_one_line(e)
    return tuple(scores), failures


class EvaluationPool(Protocol):
    """Workers that hold the supernet and judge several subnets a task."""

    @property
    def num_workers(self) -> int:
        """Tasks that run at the same time."""

    def submit(self, task_id: int, *, architectures: Sequence[Architecture], stopping: Stopping | None = None) -> None:
        """Hand in a task; returns at once."""

    def next_result(self) -> TaskResult:
        """Wait for the next finished task, in any order. A worker that died gives a result that says so."""

    def close(self) -> None:
        """End the workers."""


class SerialPool:
    """Judges in this process, one task after the other: for tests and notebooks."""

    num_workers = 1

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._waiting: deque[tuple[int, tuple[Architecture, ...], Stopping | None]] = deque()

    def submit(self, task_id: int, *, architectures: Sequence[Architecture], stopping: Stopping | None = None) -> None:
        """Queue a task."""
        self._waiting.append((task_id, tuple(architectures), stopping))

    def next_result(self) -> TaskResult:
        """Judge the oldest waiting task now."""
        task_id, architectures, stopping = self._waiting.popleft()
        scores, failures = judge_each(self._judge, architectures, stopping=stopping)
        return TaskResult(task_id=task_id, scores=scores, failures=failures, error=None)

    def close(self) -> None:
        """Nothing to end."""
