"""The search with inherited weights: propose, judge on the pool, remember, tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.pricing import Price, Pricer
from nas.search.pool import EvaluationPool, SubnetScore, TaskResult
from nas.search.proposals import Proposal, Proposals
from nas.search.settings import SearchSettings
from nas.search.stopping import Rival, Rivals, Stopping
from nas.search.study import SearchStudy, Values
from searchspaces import Architecture


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
    loses nothing: the next call finds the rows.

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
        EvaluationError: more than half of the tasks fail, after the first five or when nothing is left to try.
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

    def run(self, *, record: Callable[[Sequence[Evaluated]], None], on_progress: Callable[[int, int], None]) -> str:
        proposals = self._proposals
        on_progress(*proposals.progress)
        while True:
            # One task more than workers, so that no worker waits for the driver.
            while len(self._tasks) <= self._pool.num_workers and proposals.wants_more():
                self._submit()
            if not self._tasks:
                break
            self._finish(self._pool.next_result(), record=record)
            on_progress(*proposals.progress)
        return proposals.ended()

    def _submit(self) -> None:
        task: list[Proposal] = []
        while len(task) < self._settings.subnets_per_task and self._proposals.missing() > 0:
            proposal = self._proposals.take()
            if proposal is None:
                break
            task.append(proposal)
        if task:
            number = self._proposals.count_task()
            self._tasks[number] = task
            self._pool.submit(
                number, architectures=[proposal.architecture for proposal in task], stopping=self._stopping(task)
            )

    def _stopping(self, task: Sequence[Proposal]) -> Stopping | None:
        confidence = self._settings.early_stopping
        if confidence is None:
            return None
        rivals = tuple(self._rivals.of(proposal.price.latency_predicted_ms) for proposal in task)
        return Stopping(confidence=confidence, rivals=rivals)

    def _finish(self, result: TaskResult, *, record: Callable[[Sequence[Evaluated]], None]) -> None:
        task = self._tasks.pop(result.task_id)
        if result.error is not None:
            self._proposals.fail(task, reason=result.error)
            return
        scores = {score.arch_id: score for score in result.scores}
        judged = [one for one in task if np.isfinite(scores[one.architecture.arch_id].accuracy.value)]
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
                    latency_ms=proposal.price.latency_predicted_ms,
                )
            # What was stopped is told as it is estimated on the whole split: below its rival, so never on the front.
            self._proposals.tell(proposal, accuracy=score.stopped.accuracy if score.stopped else score.accuracy.value)
        if not_judged := [one for one in task if one not in judged]:
            self._proposals.fail(not_judged, reason="its accuracy is not a number", whole_task=not judged)
