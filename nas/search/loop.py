"""The search loop: ask, look up, price, judge on the pool, remember, tell."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import Trial

from nas.errors import EvaluationError
from nas.pricing import Price, Pricer
from nas.search.neighbours import Neighbours
from nas.search.pool import EvaluationPool, SubnetScore, TaskResult
from nas.search.settings import SearchSettings
from nas.search.study import SearchStudy, Values
from searchspaces import Architecture

_LOGGER = logging.getLogger(__name__)

# After so many useless proposals in a row (duplicates, infeasible ones) an unseen neighbour is proposed instead.
_PATIENCE = 8
_FAILURES_BEFORE_STOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One architecture that was judged: what the caller writes to the table."""

    architecture: Architecture
    trial_number: int
    price: Price
    score: SubnetScore


@dataclass(slots=True)
class _Proposal:
    """An architecture in a task, with every trial that waits for its value (later duplicates join)."""

    architecture: Architecture
    price: Price
    trials: list[Trial] = field(default_factory=list)


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

    Returns:
        Why it ended, a short sentence.

    Raises:
        EvaluationError: more than half of the tasks fail, after the first five or when nothing is left to try.
    """
    search = _Search(study, pricer=pricer, pool=pool, settings=settings, known=known, used_up=used_up)
    return search.run(record=record, on_progress=on_progress)


class _Search:
    def __init__(
        self,
        study: SearchStudy,
        *,
        pricer: Pricer,
        pool: EvaluationPool,
        settings: SearchSettings,
        known: Mapping[str, Values],
        used_up: Callable[[], str | None],
    ) -> None:
        self._used_up, self._ended_by = used_up, ""
        self._study, self._pricer, self._pool, self._settings = study, pricer, pool, settings
        self._space = pricer.space
        self._known = dict(known)
        self._in_flight: dict[str, _Proposal] = {}
        self._tasks: dict[int, list[_Proposal]] = {}
        self._failed: set[str] = set()
        self._neighbours = Neighbours(
            pricer.space,
            costs=pricer.costs,
            limits=settings.limits,
            rng=np.random.default_rng((settings.seed, len(known))),
        )
        self._exhausted = False
        self._num_tasks = self._num_failed = 0
        self._last_failure = ""

    def run(self, *, record: Callable[[Sequence[Evaluated]], None], on_progress: Callable[[int, int], None]) -> str:
        self._study.recover(self._known)
        # The ends of the space first: they bound every front, and every sampler learns from them.
        for end in (self._space.smallest, self._space.largest):
            if end.arch_id not in self._known:
                self._study.propose_next(end)
        wanted = self._settings.evaluations
        on_progress(min(len(self._known), wanted), wanted)
        while True:
            # One task more than workers, so that no worker waits for the driver.
            while len(self._tasks) <= self._pool.num_workers and self._missing() > 0 and not self._must_end():
                self._submit()
            if not self._tasks:
                break
            self._finish(self._pool.next_result(), record=record)
            on_progress(min(len(self._known), wanted), wanted)
        if self._missing() <= 0:
            return f"{len(self._known)} architectures evaluated"
        self._require_few_failures()
        if self._ended_by:
            return f"{len(self._known)} of {wanted} architectures evaluated: {self._ended_by}"
        return f"no further architecture to evaluate after {len(self._known)} of {wanted}"

    def _must_end(self) -> bool:
        """Whether nothing new is begun: the space is exhausted, or a budget is used up and something was evaluated."""
        if not self._ended_by and (self._known or self._tasks):
            self._ended_by = self._used_up() or ""
        return self._exhausted or bool(self._ended_by)

    def _missing(self) -> int:
        return self._settings.evaluations - len(self._known) - len(self._in_flight)

    def _submit(self) -> None:
        proposals: list[_Proposal] = []
        while len(proposals) < min(self._settings.subnets_per_task, self._missing() + len(proposals)):
            proposal = self._propose()
            if proposal is None:
                self._exhausted = True
                break
            proposals.append(proposal)
        if proposals:
            self._num_tasks += 1
            self._tasks[self._num_tasks] = proposals
            self._pool.submit(self._num_tasks, architectures=[proposal.architecture for proposal in proposals])

    def _propose(self) -> _Proposal | None:
        """The next architecture worth judging, or None when there is none left."""
        useless = 0
        while self._num_seen() < self._space.size:
            if useless >= _PATIENCE:
                near = [proposal.architecture for proposal in self._in_flight.values()]
                neighbour = self._neighbours.find(near=near, is_new=self._is_new)
                if neighbour is None:
                    return None
                self._study.propose_next(neighbour)
            trial, arch = self._study.ask()
            price = self._pricer.price([arch])[0]
            self._study.constrain(trial, price)
            if arch.arch_id in self._known:
                self._study.tell(trial, self._known[arch.arch_id])
            elif arch.arch_id in self._in_flight:
                self._in_flight[arch.arch_id].trials.append(trial)
            elif arch.arch_id in self._failed:
                self._study.fail(trial, reason="the evaluation of this architecture failed before")
            elif self._exceeds(price):
                self._study.tell_infeasible(trial, price)
            else:
                proposal = _Proposal(architecture=arch, price=price, trials=[trial])
                self._in_flight[arch.arch_id] = proposal
                return proposal
            useless += 1
        return None

    def _num_seen(self) -> int:
        return len(self._known) + len(self._in_flight) + len(self._failed)

    def _exceeds(self, price: Price) -> bool:
        return any(limit.violation(price.cost(limit.name)) > 0 for limit in self._settings.limits)

    def _is_new(self, arch: Architecture) -> bool:
        return not (arch.arch_id in self._known or arch.arch_id in self._in_flight or arch.arch_id in self._failed)

    def _finish(self, result: TaskResult, *, record: Callable[[Sequence[Evaluated]], None]) -> None:
        proposals = self._tasks.pop(result.task_id)
        if result.error is not None:
            self._fail(proposals, reason=result.error)
            return
        scores = {score.arch_id: score for score in result.scores}
        judged = [one for one in proposals if np.isfinite(scores[one.architecture.arch_id].accuracy.value)]
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
            arch_id = proposal.architecture.arch_id
            score = scores[arch_id]
            values = Values(accuracy=score.accuracy.value, latency_ms=proposal.price.latency_predicted_ms)
            self._known[arch_id] = values
            del self._in_flight[arch_id]
            for trial in proposal.trials:
                self._study.tell(trial, values)
        if not_judged := [one for one in proposals if one.architecture.arch_id in self._in_flight]:
            self._fail(not_judged, reason="its accuracy is not a number", whole_task=not judged)

    def _fail(self, proposals: Sequence[_Proposal], *, reason: str, whole_task: bool = True) -> None:
        self._num_failed += whole_task
        self._last_failure = reason
        for proposal in proposals:
            self._failed.add(proposal.architecture.arch_id)
            del self._in_flight[proposal.architecture.arch_id]
            for trial in proposal.trials:
                self._study.fail(trial, reason=reason)
        _LOGGER.warning("evaluation failed: %s", reason)
        if self._num_tasks >= _FAILURES_BEFORE_STOP:
            self._require_few_failures()

    def _require_few_failures(self) -> None:
        if self._num_failed * 2 > self._num_tasks:
            raise EvaluationError(
                f"{self._num_failed} of {self._num_tasks} evaluation tasks failed; the last one: {self._last_failure}",
                hint="correct the cause and run the same command again: finished evaluations are kept",
            )
