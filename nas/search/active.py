"""Measuring while searching: candidates whose place on the front is undecided, within a budget of device seconds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

from hardware.errors import DeadDeviceError
from hardware.files import read_json, write_json
from hardware.protocol import get_protocol
from nas.device_seconds import device_sessions, seconds_by_purpose
from nas.errors import RunError
from nas.materialise import Workbench
from nas.near_front import NearFront, measure_until_settled
from nas.profile import SEARCH, ProfileSettings
from nas.run import Run
from predictors import LatencyPredictor

ROUNDS = 4
"""Parts of a search; after each one is measured."""

_FILE = "active.json"

Ended = Literal["settled", "budget", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What measuring after a part of the search came to.

    Attributes:
        evaluations: unique architectures that were evaluated by then.
        measured: subnets that were measured.
        device_seconds: used by then, see `nas.device_seconds`.
        ended: the front's ranking is settled, the budget is used, or the device was dead.
    """

    evaluations: int
    measured: int
    device_seconds: float
    ended: Ended


class ActiveMeasuring:
    """Measures and refits between the parts of a search; goes on where a killed one stopped."""

    def __init__(
        self,
        bench: Workbench,
        *,
        device_seconds: float | None,
        settings: ProfileSettings,
        sources: Sequence[LatencyPredictor] = (),
        on_progress: Callable[[int, int], None],
        on_message: Callable[[str], None],
    ) -> None:
        """Measure nothing yet.

        Args:
            bench: makes artifacts; its device was profiled.
            device_seconds: the budget, for all calls on this run together; None: as many as profiling took.
            settings: of the profile.
            sources: predictors of other devices that the predictor builds on.
            on_progress: called with (rounds done, most rounds) of a batch.
            on_message: told what a user should know.
        """
        self._bench, self._settings, self._sources = bench, settings, tuple(sources)
        self._on_progress, self._on_message = on_progress, on_message
        spent = self._spent()
        profiled = sum(seconds for purpose, seconds in spent.items() if purpose.startswith("profile"))
        self.budget_s = profiled if device_seconds is None else device_seconds

    @property
    def used_s(self) -> float:
        """Device seconds of the run's search so far."""
        return self._spent().get(SEARCH, 0.0)

    def is_done(self, *, evaluations: int) -> bool:
        """Whether measuring after so many evaluations would find nothing to do."""
        rounds = read_rounds(self._bench.run)
        if not rounds or rounds[-1].evaluations != evaluations:
            return False
        return rounds[-1].ended == "settled" or (rounds[-1].ended == "budget" and not self._room(1, share=1.0))

    def measure(self, *, evaluations: int, share: float) -> Round:
        """Measure until the front's ranking is settled or `share` of the budget is used; predictors are fitted anew.

        A device that is dead is told of, and the search goes on with the predictor that it has.

        Args:
            evaluations: unique architectures that are evaluated by now.
            share: of the budget, above 0 and up to 1.

        Raises:
            DeviceError: the device is busy, or the run was measured on another machine.
        """
        before = self._num_measured()
        found: NearFront | None = None
        try:
            found = measure_until_settled(
                self._bench,
                room=lambda wanted, _: self._room(wanted, share=share),
                purpose=SEARCH,
                settings=self._settings,
                on_progress=self._on_progress,
                on_message=self._on_message,
                sources=self._sources,
            )
        except DeadDeviceError as e:
            self._on_message(f"{e}: the search goes on with predicted latencies ({e.hint})")
        ended: Ended = "dead" if found is None else "settled" if found.settled else "budget"
        done = Round(
            evaluations=evaluations,
            measured=self._num_measured() - before,
            device_seconds=self.used_s,
            ended=ended,
        )
        run = self._bench.run
        write_json(run.path / _FILE, {"rounds": [asdict(one) for one in (*read_rounds(run), done)]})
        return done

    def _room(self, wanted: int, *, share: float) -> int:
        """All that are wanted, if a session with them is likely to end within the budget; else none."""
        sessions = self._sessions()
        earlier = sessions[sessions["purpose"] == SEARCH]["seconds"]
        expected_s = float(earlier.iloc[-1]) if len(earlier) else get_protocol(self._settings.protocol).min_seconds
        return wanted if self.used_s + expected_s <= share * self.budget_s else 0

    def _num_measured(self) -> int:
        return int((self._records()["purpose"] == SEARCH).sum())

    def _spent(self) -> dict[str, float]:
        return seconds_by_purpose(self._sessions())

    def _sessions(self) -> pd.DataFrame:
        return device_sessions(self._records(), taken=self._bench.run.sessions_table.read())

    def _records(self) -> pd.DataFrame:
        return self._bench.run.measurements_table(self._bench.device.spec.device_id).read()


def read_rounds(run: Run) -> tuple[Round, ...]:
    """The rounds of measuring that a run's searches had; none if they had none.

    Raises:
        RunError: the file is damaged.
    """
    path = run.path / _FILE
    if not path.exists():
        return ()
    try:
        content = read_json(path)
        assert isinstance(content, dict)
        return tuple(Round(**one) for one in content["rounds"])
    except (AssertionError, KeyError, TypeError) as e:
        raise RunError(f"{path} is damaged: {e!r}", hint=f"delete {path}: measurements are in their table") from e
