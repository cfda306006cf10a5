"""The search with inherited weights: propose, judge on the pool, remember, tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from nas.pricing import Price, Pricer
from nas.search.pool import EvaluationPool, SubnetScore, TaskResult
from nas.search.proposals import Proposal, Proposals
from nas.search.settings import SearchSettings
from nas.search.stopping import Rival, Rivals, Stopping
from nas.search.study import SearchStudy, Values
from searchspaces import Architecture

# Whoever was in the tasks of so many workers that died is not tried again in this call.
_MOST_DEATHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One architecture that was judged: what the caller writes to the table."""

    architecture: Architecture
    trial_number: int
    price: Price
    score: SubnetScore


def run_search(
    study: SearchStudy,
    *,
    pricer: Pricer,
    pool: EvaluationPool,
    settings: SearchSettings,
    known: Mapping[str, Values],
    record: Callable[[Sequence[Evaluated]], None],
    on_progress: Callable[[int, int], None],
    used_up: Callable[[], str | None] = lambda: None,
    rivals: Rivals | None = None,
) -> str:
    """Evaluate architectures until `settings.evaluations` unique ones are known, or another budget is used up.

    `record` is called with every finished task's results before their trials are told, so that a kill between the two
    loses nothing: the next call finds the rows. What was in the task of a worker that died is handed in once more, each
    architecture alone: only who costs another worker fails.

    Args:
        study: proposes.
        pricer: cheap objectives.
        pool: judges.
        settings: budget, and limits; what exceeds one is never evaluated.
        known: values by arch_id of what earlier calls evaluated and the limits allow.
        record: stores results durably.
        on_progress: called with (evaluated, wanted).
        used_up: asked before each task but the first; says which other budget ends the search, None while it goes on.
            Tasks that were begun are finished.
        rivals: with early stopping, those whose answers earlier calls kept.

    Returns:
        Why it ended, a short sentence.

    Raises:
        EvaluationError: more than half of the evaluations fail, after the first five or when nothing is left to try.
    """
    search = _Search(
        Proposals(study, pricer=pricer, settings=settings, known=known, used_up=used_up),
        pool=pool,
        settings=settings,
        rivals=rivals or Rivals(),
    )
    return search.run(record=record, on_progress=on_progress)


class _Search:
    def __init__(self, proposals: Proposals, *, pool: EvaluationPool, settings: SearchSettings, rivals: Rivals) -> None:
        self._proposals, self._pool, self._settings, self._rivals = proposals, pool, settings, rivals
        self._tasks: dict[int, list[Proposal]] = {}
        self._numbers = count(1)

    def run(self, *, record: Callable[[Sequence[Evaluated]], None], on_progress: Callable[[int, int], None]) -> str:
        proposals = self._proposals
        on_progress(*proposals.progress)
        while True:
            # One task more than workers, so that no worker waits for the driver.
            while len(self._tasks) <= self._pool.num_workers and proposals.wants_more():
                if task := self._take():
                    self._submit(task)
            if not self._tasks:
                break
            self._finish(self._pool.next_result(), record=record)
            on_progress(*proposals.progress)
        return proposals.ended()

    def _take(self) -> list[Proposal]:
        task: list[Proposal] = []
        while len(task) < self._settings.subnets_per_task and self._proposals.missing() > 0:
            proposal = self._proposals.take()
            if proposal is None:
                break
            task.append(proposal)
        return task

    def _submit(self, task: list[Proposal]) -> None:
        number = next(self._numbers)
        self._tasks[number] = task
        self._pool.submit(
            number, architectures=[proposal.architecture for proposal in task], stopping=self._stopping(task)
        )

    def _stopping(self, task: Sequence[Proposal]) -> Stopping | None:
        confidence = self._settings.early_stopping
        if confidence is None:
            return None
        rivals = tuple(self._rivals.of(fastest_ms=proposal.price.latency_predicted_low_ms) for proposal in task)
        return Stopping(confidence=confidence, rivals=rivals)

    def _finish(self, result: TaskResult, *, record: Callable[[Sequence[Evaluated]], None]) -> None:
        task = self._tasks.pop(result.task_id)
        if result.worker_died:
            task = self._try_again(task)
        if result.error is not None:
            self._proposals.fail([(one, result.error) for one in task])
            return
        reasons = _reasons(result)
        scores = {score.arch_id: score for score in result.scores}
        judged = [one for one in task if one.architecture.arch_id not in reasons]
        record(
            [
                Evaluated(
                    architecture=proposal.architecture,
                    trial_number=proposal.trials[0].number,
                    price=proposal.price,
                    score=scores[proposal.architecture.arch_id],
                )
                for proposal in judged
            ]
        )
        for proposal in judged:
            score = scores[proposal.architecture.arch_id]
            if score.answers is not None:
                self._rivals.add(
                    Rival(arch_id=score.arch_id, answers=score.answers),
                    accuracy=score.accuracy.value,
                    slowest_ms=proposal.price.latency_predicted_high_ms,
                )
            # What was stopped is told as it is estimated on the whole split: below its rival, so never on the front.
            self._proposals.tell(proposal, accuracy=score.stopped.accuracy if score.stopped else score.accuracy.value)
        failed = [one for one in task if one.architecture.arch_id in reasons]
        self._proposals.fail([(one, reasons[one.architecture.arch_id]) for one in failed])

    def _try_again(self, task: Sequence[Proposal]) -> list[Proposal]:
        """Hand in again, each alone, what a dead worker had; returns those that have cost too many workers."""
        for proposal in task:
            proposal.num_deaths += 1
            if proposal.num_deaths < _MOST_DEATHS:
                self._submit([proposal])
        return [one for one in task if one.num_deaths >= _MOST_DEATHS]


def _reasons(result: TaskResult) -> dict[str, str]:
    """By arch_id, why subnets of a judged task have no accuracy."""
    nan = [score.arch_id for score in result.scores if not np.isfinite(score.accuracy.value)]
    return {**result.failures, **dict.fromkeys(nan, "its accuracy is not a number")}
