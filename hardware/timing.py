"""Interleaved timing: all networks in every round, in random order, between visits of a reference that shows drift.

Letters of array names: K networks, R rounds, P visits of the reference ("probes").
"""

import gc
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardware.clock import Clock, SystemClock
from hardware.energy import EnergyReader
from hardware.errors import MeasurementError
from hardware.judging import Judged, drift_of, judge
from hardware.protocol import MeasurementProtocol
from searchspaces.errors import Hinted

_NETWORKS_BETWEEN_PROBES = 8
_LEAST_PROBE_RUNS = 3
# Warming up: windows of runs until two neighbours agree, but not for ever.
_WINDOW_RUNS = 5
_STEADY = 0.05
_MOST_WARMUP_RUNS = 100
_MOST_WARMUP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerTimes:
    """The times of one network.

    Attributes:
        raw_ns: int64 (rounds, runs), in the order in which they were taken.
        slowdown: float64 (rounds,): time of the reference around each visit relative to its median over the session.
        warmup_runs: untimed runs before the first round, until the times were steady or the patience was over.
        involuntary_switches: how often the system took the CPU away from this process in its turns.
        energy_mj: millijoules of one run, the mean over all turns, of the whole package or accelerator with whatever
            else ran there; None where the machine does not tell.
    """

    raw_ns: NDArray[np.int64]
    slowdown: NDArray[np.float64]
    warmup_runs: int
    involuntary_switches: int
    energy_mj: float | None = None

    @property
    def round_medians_ns(self) -> NDArray[np.float64]:
        """Median of each round, (rounds,)."""
        medians_ns: NDArray[np.float64] = np.median(self.raw_ns, axis=1)
        return medians_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class InterleavedTimes:
    """The times of networks that were measured together.

    Attributes:
        times: by name, the reference included.
        reference: name of the reference.
        probes_ns: float64 (P,), medians of the reference's visits between the networks, in order.
    """

    times: Mapping[str, RunnerTimes]
    reference: str
    probes_ns: NDArray[np.float64]

    def reference_ms(self, *, corrected: bool) -> float:
        """Median of the reference over the session, of its own turns among the rounds.

        Probes are too short for that: how warm the caches are depends on the networks that take part.

        Args:
            corrected: divide by the host's slowdown beside each turn, as the value to compare with was.
        """
        times = self.times[self.reference]
        return float(np.median(times.round_medians_ns / (times.slowdown if corrected else 1.0))) / 1e6

    @property
    def drift(self) -> float:
        """See `hardware.judging.drift_of`."""
        return drift_of(self.probes_ns)

    def judged(self, *, protocol: MeasurementProtocol, rng: np.random.Generator) -> dict[str, Judged]:
        """What the rounds say, by name."""
        found = judge(
            np.stack([times.round_medians_ns for times in self.times.values()]),
            slowdown_KR=np.stack([times.slowdown for times in self.times.values()]),
            drift=self.drift,
            protocol=protocol,
            rng=rng,
        )
        return dict(zip(self.times, found, strict=True))


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What has been seen of one network so far; `probes` are the numbers of the last probe before each visit."""

    warmup_runs: int
    rounds_ns: list[NDArray[np.int64]] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)
    involuntary_switches: int = 0
    joules: list[float] = field(default_factory=list)
    counted_runs: int = 0

    def busy_s(self) -> float:
        return float(sum(int(runs_ns.sum()) for runs_ns in self.rounds_ns)) / 1e9

    def energy_mj(self) -> float | None:
        return 1e3 * sum(self.joules) / self.counted_runs if self.counted_runs else None


def time_interleaved(
    runners: Mapping[str, Callable[[], None]],
    *,
    reference: str,
    protocol: MeasurementProtocol,
    rng: np.random.Generator,
    clock: Clock | None = None,
    timer_ns: Callable[[], int] = time.perf_counter_ns,
    on_round: Callable[[int], None] | None = None,
    energy: EnergyReader | None = None,
) -> InterleavedTimes:
    """Time callables in interleaved rounds until every median is certain enough or a cap is hit.

    Before the first round every network is warmed up until its times are steady. Each round visits every network in a
    random order, with a short warm-up each; all of them take part until the last one is certain enough, so that round
    n of one network belongs to the same moment as round n of every other. The reference is also run at the beginning
    and the end of every round and after every eight networks. The garbage collector is off during a round.

    Args:
        runners: one inference each, by name.
        reference: the name of the runner in which drift is looked for.
        protocol: numbers of rounds and runs, width of the interval, caps.
        rng: for the order and the bootstrap.
        clock: for the cap on seconds; the system's if None.
        timer_ns: what runs are timed with.
        on_round: called after each round with the number of finished rounds; an exception from it ends the timing.
        energy: counts what each turn uses; None: nobody asks, or the machine does not tell.

    Raises:
        MeasurementError: the reference is not among the runners, a runner failed (the message names it), or the timer
            did not advance.
    """
    if reference not in runners:
        raise MeasurementError(
            f"the reference {reference!r} is not among the {len(runners)} networks to time",
            hint="pass the reference as one of the runners",
        )
    clock = SystemClock() if clock is None else clock
    names = list(runners)
    visits = _Visits(runners, timer_ns=timer_ns, energy=energy)
    # Once, not every round: with everything loaded it takes longer than a round.
    gc.collect()
    with _no_garbage_collection():
        tallies = {name: _Tally(warmup_runs=visits.warm_up(name, clock=clock)) for name in names}
    probes_ns: list[float] = []
    started_s = clock.monotonic_s()
    for num_rounds in range(1, protocol.max_rounds + 1):
        with _no_garbage_collection():
            for position, index in enumerate(rng.permutation(len(names))):
                if position % _NETWORKS_BETWEEN_PROBES == 0:
                    probes_ns.append(visits.probe(reference, protocol=protocol))
                name = names[int(index)]
                visits.visit(name, tally=tallies[name], protocol=protocol)
                tallies[name].probes.append(len(probes_ns) - 1)
            probes_ns.append(visits.probe(reference, protocol=protocol))
        if on_round is not None:
            on_round(num_rounds)
        if num_rounds < protocol.min_rounds:
            continue
        elapsed_s = clock.monotonic_s() - started_s
        late = elapsed_s > protocol.max_seconds
        # Judging costs more with every round, so it is asked less and less often.
        due = num_rounds % max(1, num_rounds // 8) == 0 and elapsed_s >= protocol.min_seconds
        if late or num_rounds == protocol.max_rounds:
            break
        if due and _is_enough(tallies, reference=reference, probes_ns=probes_ns, protocol=protocol, rng=rng):
            break
    return _collected(tallies, reference=reference, probes_ns=probes_ns)


class _Visits:
    """Runs networks and times them."""

    def __init__(
        self, runners: Mapping[str, Callable[[], None]], *, timer_ns: Callable[[], int], energy: EnergyReader | None
    ) -> None:
        self._runners, self._timer_ns, self._energy = runners, timer_ns, energy

    def warm_up(self, name: str, *, clock: Clock) -> int:
        """Run a network until two neighbouring windows agree; returns how often it ran."""
        started_s, last, num_runs = clock.monotonic_s(), float("inf"), 0
        while num_runs < _MOST_WARMUP_RUNS:
            now = float(np.median(self._timed(name, runs=_WINDOW_RUNS, when="while it was warmed up")))
            num_runs += _WINDOW_RUNS
            if abs(now / last - 1) <= _STEADY or clock.monotonic_s() - started_s > _MOST_WARMUP_S:
                break
            last = now
        return num_runs

    def probe(self, name: str, *, protocol: MeasurementProtocol) -> float:
        """Median time of a short visit."""
        runs = 1 + max(_LEAST_PROBE_RUNS, protocol.runs_per_round // 4)
        return float(np.median(self._timed(name, runs=runs, when="as the reference")[1:]))

    def visit(self, name: str, *, tally: _Tally, protocol: MeasurementProtocol) -> None:
        """One visit of a round."""
        when = f"in round {len(tally.rounds_ns) + 1}"
        num_runs = protocol.warmup_runs + protocol.runs_per_round
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        with nullcontext() if self._energy is None else self._energy.interval() as interval:
            times_ns = self._timed(name, runs=num_runs, when=when)
        if interval is not None and interval.joules is not None:
            tally.joules.append(interval.joules)
            tally.counted_runs += num_runs
        tally.involuntary_switches += resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        tally.rounds_ns.append(times_ns[protocol.warmup_runs :])

    def _timed(self, name: str, *, runs: int, when: str) -> NDArray[np.int64]:
        run, timer_ns = self._runners[name], self._timer_ns
        times_ns = np.empty(runs, dtype=np.int64)
        try:
            for index in range(runs):
                start_ns = timer_ns()
                run()
                times_ns[index] = timer_ns() - start_ns
        except Hinted:
            raise
        # Whatever a runtime raises: the caller has to know which network it was.
        except Exception as e:
            raise MeasurementError(
                f"{name!r} failed {when}: {e}",
                hint="leave this network out, or check it alone: nas devices measure",
            ) from e
        if int(times_ns.min()) <= 0:
            raise MeasurementError(
                f"the clock stood still or went backwards {when} of {name!r}: a run took {int(times_ns.min())} ns",
                hint="do not measure on this machine before its clock is repaired: nas devices check",
            )
        return times_ns


def _is_enough(
    tallies: Mapping[str, _Tally],
    *,
    reference: str,
    probes_ns: Sequence[float],
    protocol: MeasurementProtocol,
    rng: np.random.Generator,
) -> bool:
    for tally in tallies.values():
        runs = len(tally.rounds_ns) * protocol.runs_per_round
        if runs < protocol.min_runs or tally.busy_s() < protocol.min_busy_seconds:
            return False
    found = _collected(tallies, reference=reference, probes_ns=probes_ns).judged(protocol=protocol, rng=rng)
    return all(judged.converged for judged in found.values())


def _collected(tallies: Mapping[str, _Tally], *, reference: str, probes_ns: Sequence[float]) -> InterleavedTimes:
    probes_P = np.array(probes_ns)
    around_P = (probes_P + np.append(probes_P[1:], probes_P[-1])) / 2
    slowdown_P = around_P / np.median(around_P)
    return InterleavedTimes(
        times={
            name: RunnerTimes(
                raw_ns=np.stack(tally.rounds_ns),
                slowdown=slowdown_P[tally.probes],
                warmup_runs=tally.warmup_runs,
                involuntary_switches=tally.involuntary_switches,
                energy_mj=tally.energy_mj(),
            )
            for name, tally in tallies.items()
        },
        reference=reference,
        probes_ns=probes_P,
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
