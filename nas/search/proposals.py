"""What a search proposes next, whoever does the work: nothing twice, nothing beyond a limit, every trial told."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import Trial

from nas.errors import EvaluationError
from nas.pricing import Price, Pricer
from nas.search.neighbours import Neighbours
from nas.search.settings import SearchSettings
from nas.search.study import SearchStudy, Values
from searchspaces import Architecture

_LOGGER = logging.getLogger(__name__)

# After so many useless proposals in a row (duplicates, infeasible ones) an unseen neighbour is proposed instead.
_PATIENCE = 8
_TRIED_BEFORE_STOP = 5


@dataclass(slots=True)
class Proposal:
    """An architecture in a task.

    Attributes:
        architecture: that is evaluated.
        price: its cheap objectives.
        trials: all that wait for its value; later duplicates join.
        num_deaths: workers that died while it was in their task.
    """

    architecture: Architecture
    price: Price
    trials: list[Trial] = field(default_factory=list)
    num_deaths: int = 0


class Proposals:
    """The study's proposals that are worth the work, and what became of them.

    Attributes:
        exhausted: there was none left when one was asked for last.
    """

    def __init__(
        self,
        study: SearchStudy,
        *,
        pricer: Pricer,
        settings: SearchSettings,
        known: Mapping[str, Values],
        used_up: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Close what a killed process left, and propose the ends of the space first.

        Args:
            study: proposes.
            pricer: cheap objectives.
            settings: budget, and limits; what exceeds one is never handed out.
            known: values by arch_id of what earlier calls found and the limits allow.
            used_up: says which other budget ends the search, None while it goes on; not asked before something is
                known or handed out.
        """
        self._study, self._pricer, self._settings = study, pricer, settings
        self._space = pricer.space
        self._known = dict(known)
        self._used_up, self._ended_by = used_up, ""
        self._in_flight: dict[str, Proposal] = {}
        self._failed: set[str] = set()
        self._neighbours = Neighbours(
            pricer.space,
            costs=pricer.costs,
            limits=settings.limits,
            rng=np.random.default_rng((settings.seed, len(known))),
        )
        self.exhausted = False
        self._num_told = 0
        self._num_failed = 0
        self._last_failure = ""
        self._study.recover(self._known)
        # They bound every front, and every sampler learns from them.
        for end in (self._space.smallest, self._space.largest):
            if end.arch_id not in self._known:
                self._study.propose_next(end)

    @property
    def known(self) -> Mapping[str, Values]:
        """Values by arch_id of everything that was evaluated."""
        return self._known

    @property
    def progress(self) -> tuple[int, int]:
        """(evaluated, wanted)."""
        wanted = self._settings.evaluations
        return min(len(self._known), wanted), wanted

    def price(self, arch: Architecture) -> Price:
        """The cheap objectives of an architecture."""
        return self._pricer.price([arch])[0]

    def missing(self) -> int:
        """Evaluations that are neither known nor handed out."""
        return self._settings.evaluations - len(self._known) - len(self._in_flight)

    def wants_more(self) -> bool:
        """Whether another task is to begin: there is something left, and no other budget is used up."""
        if self.missing() <= 0 or self.exhausted:
            return False
        if not self._ended_by and (self._known or self._in_flight):
            self._ended_by = self._used_up() or ""
        return not self._ended_by

    def take(self) -> Proposal | None:
        """The next architecture worth evaluating, or None when there is none left (then `exhausted`)."""
        useless = 0
        while self._num_seen() < self._space.size:
            if useless >= _PATIENCE:
                near = [proposal.architecture for proposal in self._in_flight.values()]
                neighbour = self._neighbours.find(near=near, is_new=self._is_new)
                if neighbour is None:
                    break
                self._study.propose_next(neighbour)
            trial, arch = self._study.ask()
            price = self.price(arch)
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
                proposal = Proposal(architecture=arch, price=price, trials=[trial])
                self._in_flight[arch.arch_id] = proposal
                return proposal
            useless += 1
        self.exhausted = True
        return None

    def tell(self, proposal: Proposal, *, accuracy: float) -> None:
        """Tell every trial that waits for a proposal what was found."""
        values = Values(accuracy=accuracy, latency_ms=proposal.price.latency_predicted_ms)
        arch_id = proposal.architecture.arch_id
        self._known[arch_id] = values
        self._num_told += 1
        del self._in_flight[arch_id]
        for trial in proposal.trials:
            self._study.tell(trial, values)

    def fail(self, failed: Sequence[tuple[Proposal, str]]) -> None:
        """Close proposals that failed; those of their task that did not are told before.

        Args:
            failed: proposals, and the reasons for their trials.

        Raises:
            EvaluationError: more than half of the evaluations failed, after the first five.
        """
        for proposal, reason in failed:
            self._num_failed += 1
            self._last_failure = reason
            self._failed.add(proposal.architecture.arch_id)
            del self._in_flight[proposal.architecture.arch_id]
            for trial in proposal.trials:
                self._study.fail(trial, reason=reason)
            _LOGGER.warning("evaluation of %s failed: %s", proposal.architecture.arch_id, reason)
        if failed and self._num_tried() >= _TRIED_BEFORE_STOP:
            self._require_few_failures()

    def ended(self) -> str:
        """Why the search ended, a short sentence; nothing may be in flight.

        Raises:
            EvaluationError: nothing is left to try, and more than half of the evaluations failed.
        """
        if self.missing() <= 0:
            return f"{len(self._known)} architectures evaluated"
        self._require_few_failures()
        if self._ended_by:
            return f"{len(self._known)} of {self._settings.evaluations} architectures evaluated: {self._ended_by}"
        return f"found no further architecture after {len(self._known)} of {self._settings.evaluations}"

    def _num_seen(self) -> int:
        return len(self._known) + len(self._in_flight) + len(self._failed)

    def _num_tried(self) -> int:
        return self._num_told + self._num_failed

    def _exceeds(self, price: Price) -> bool:
        return any(limit.violation(price.cost(limit.name)) > 0 for limit in self._settings.limits)

    def _is_new(self, arch: Architecture) -> bool:
        return not (arch.arch_id in self._known or arch.arch_id in self._in_flight or arch.arch_id in self._failed)

    def _require_few_failures(self) -> None:
        if self._num_failed * 2 > self._num_tried():
            raise EvaluationError(
                f"{self._num_failed} of {self._num_tried()} evaluations failed; the last one: {self._last_failure}",
                hint="correct the cause and run the same command again: finished evaluations are kept",
            )
