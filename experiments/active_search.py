"""The search of `search.measure: active`: after each of its parts the device measures and the predictor learns."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from experiments.reporter import Reporter
from experiments.search_clock import is_over
from experiments.session import Session
from nas.profile import ProfileSettings
from nas.search.active import ROUNDS, ActiveMeasuring
from nas.search.loop import Evaluated, run_search
from nas.search.pool import EvaluationPool
from nas.search.settings import SearchSettings
from nas.search.stopping import Rivals
from nas.search.study import Values, open_study
from predictors import LatencyPredictor


class ActiveSearch:
    """Searches and measures by turns; what is done already is not done again."""

    def __init__(
        self,
        session: Session,
        *,
        settings: SearchSettings,
        profile: ProfileSettings,
        sources: Sequence[LatencyPredictor],
        known: Callable[[], Mapping[str, Values]],
        rivals: Callable[[], Rivals],
        record: Callable[[Sequence[Evaluated]], None],
        used_up: Callable[[], str | None],
        reporter: Reporter,
    ) -> None:
        """Do nothing yet.

        Args:
            session: whose device is profiled.
            settings: of the whole search.
            profile: how subnets are measured and predictors fitted.
            sources: predictors of other devices that the predictor builds on.
            known: reads what is evaluated within the limits, with the latencies that are predicted now.
            rivals: with early stopping, those whose answers are kept.
            record: stores results durably.
            used_up: says that the search's time is over, see `run_search`.
            reporter: hears of progress.
        """
        self._session, self._settings = session, settings
        self._known, self._rivals, self._record = known, rivals, record
        self._used_up, self._reporter = used_up, reporter
        self._total = min(settings.evaluations, session.run.space.size)
        self._measuring = ActiveMeasuring(
            session.bench,
            device_seconds=session.recipe.search.device_seconds,
            settings=profile,
            sources=sources,
            on_progress=reporter.progress,
            on_message=reporter.message,
        )

    def is_done(self) -> bool:
        """Whether everything is evaluated, or as much as there is time for, and measured as far as it shall be."""
        num = len(self._known())
        return self._is_over(num) and self._measuring.is_done(evaluations=num)

    def run(self, *, pool: Callable[[], AbstractContextManager[EvaluationPool]]) -> str:
        """Search and measure.

        Args:
            pool: of workers; entered if something is left to evaluate. It is idle while the device measures.

        Returns:
            How it ended, a short sentence.

        Raises:
            EvaluationError: too many evaluations failed.
            DeviceError: the device is busy, or the run was measured on another machine.
        """
        ended = self._used_up() or f"{self._total} architectures evaluated"
        if not self._is_over(len(self._known())):
            with pool() as workers:
                ended = self._run_parts(workers)
        elif not self.is_done():
            self._measure(share=1.0)
        used, budget = self._measuring.used_s, self._measuring.budget_s
        return f"{ended}, {used:.1f} of {budget:.1f} device seconds used"

    def _is_over(self, num: int) -> bool:
        return is_over(num, wanted=self._total, used_up=self._used_up)

    def _run_parts(self, pool: EvaluationPool) -> str:
        ended = ""
        for part in range(1, ROUNDS + 1):
            wanted = math.ceil(self._total * part / ROUNDS)
            if len(self._known()) < wanted:
                ended = self._evaluate(pool, wanted=wanted)
                if (over := self._used_up()) is not None:
                    self._measure(share=1.0)
                    return over
                self._measure(share=part / ROUNDS)
        # Latencies that are known better may put some beyond a limit.
        return self._evaluate(pool, wanted=self._total) if len(self._known()) < self._total else ended

    def _evaluate(self, pool: EvaluationPool, *, wanted: int) -> str:
        run, pricer, known = self._session.run, self._session.pricer, self._known()
        # Opened anew after each part: with the latencies that are predicted now.
        study = open_study(
            run.study_path,
            name=run.info.name,
            pricer=pricer,
            settings=self._settings,
            elsewhere=self._session.latencies_elsewhere,
        )
        return run_search(
            study,
            pricer=pricer,
            pool=pool,
            settings=replace(self._settings, evaluations=wanted),
            known=known,
            record=self._record,
            on_progress=lambda done, _: self._reporter.progress(done, self._total),
            used_up=self._used_up,
            rivals=self._rivals(),
        )

    def _measure(self, *, share: float) -> None:
        num = len(self._known())
        if not num:
            return
        done = self._measuring.measure(evaluations=num, share=share)
        self._session.forget_prices()
        why = {
            "settled": "the front's ranking is settled",
            "budget": "the budget so far is used",
            "dead": "the device is dead",
        }
        self._reporter.message(
            f"after {num} evaluations {done.measured} subnets measured: {why[done.ended]}, "
            f"{done.device_seconds:.1f} of {self._measuring.budget_s:.1f} device seconds"
        )
