"""Interleaved timing: all networks in every round, in random order, beside a reference that shows drift.

Letters of array names: K networks, R rounds, B bootstrap samples.

Single runs that follow each other are correlated (clock, caches, neighbours), so the median of all runs looks far
more certain than it is. The medians of rounds that lie seconds apart are not: the interval rests on them.
"""

import gc
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardware.clock import Clock, SystemClock
from hardware.errors import MeasurementError
from hardware.protocol import MeasurementProtocol
from searchspaces.errors import Hinted

NUM_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerTimes:
    """The times of one network.

    Attributes:
        raw_ns: int64 (rounds, runs), in the order in which they were taken.
        low_ns, high_ns: bootstrap interval of the median of the round medians.
        converged: whether the interval became as narrow as the protocol asks.
        involuntary_switches: how often the system took the CPU away from this process in its turns.
    """

    raw_ns: NDArray[np.int64]
    low_ns: float
    high_ns: float
    converged: bool
    involuntary_switches: int

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
        drift: relative change of the reference's median from the first half of the rounds to the second.
    """

    times: Mapping[str, RunnerTimes]
    reference: str
    drift: float


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What has been seen of one network so far."""

    rounds_ns: list[NDArray[np.int64]] = field(default_factory=list)
    medians_ns: list[float] = field(default_factory=list)
    low_ns: float = 0.0
    high_ns: float = float("inf")
    converged: bool = False
    involuntary_switches: int = 0


def time_interleaved(
    runners: Mapping[str, Callable[[], None]],
    *,
    reference: str,
    protocol: MeasurementProtocol,
    rng: np.random.Generator,
    clock: Clock | None = None,
    timer_ns: Callable[[], int] = time.perf_counter_ns,
    on_round: Callable[[int], None] | None = None,
) -> InterleavedTimes:
    """Time callables in interleaved rounds until every median is certain enough or a cap is hit.

    Each round visits every network in a random order, with a short warm-up each; all of them take part until the last
    one is certain enough, so that round n of one network belongs to the same moment as round n of every other. The
    garbage collector is off during a round.

    Args:
        runners: one inference each, by name.
        reference: the name of the runner in which drift is looked for.
        protocol: numbers of rounds and runs, width of the interval, caps.
        rng: for the order and the bootstrap.
        clock: for the cap on seconds; the system's if None.
        timer_ns: what runs are timed with.
        on_round: called after each round with the number of finished rounds; an exception from it ends the timing.

    Raises:
        MeasurementError: the reference is not among the runners, or a runner failed (the message names it).
    """
    if reference not in runners:
        raise MeasurementError(
            f"the reference {reference!r} is not among the {len(runners)} networks to time",
            hint="pass the reference as one of the runners",
        )
    clock = SystemClock() if clock is None else clock
    names = list(runners)
    tallies = {name: _Tally() for name in names}
    # Once, not every round: with everything loaded it takes longer than a round.
    gc.collect()
    started_s = clock.monotonic_s()
    for num_rounds in range(1, protocol.max_rounds + 1):
        with _no_garbage_collection():
            for index in rng.permutation(len(names)):
                name = names[int(index)]
                _visit(name, run=runners[name], tally=tallies[name], protocol=protocol, timer_ns=timer_ns)
        if on_round is not None:
            on_round(num_rounds)
        elapsed_s = clock.monotonic_s() - started_s
        late = num_rounds >= protocol.min_rounds and elapsed_s > protocol.max_seconds
        # The bootstrap costs more with every round, so it is asked less and less often.
        due = num_rounds >= protocol.min_rounds and num_rounds % max(1, num_rounds // 8) == 0
        if (due and elapsed_s >= protocol.min_seconds) or late or num_rounds == protocol.max_rounds:
            _judge(list(tallies.values()), protocol=protocol, rng=rng)
            if late or all(tally.converged for tally in tallies.values()):
                break
    return InterleavedTimes(
        times={
            name: RunnerTimes(
                raw_ns=np.stack(tally.rounds_ns),
                low_ns=tally.low_ns,
                high_ns=tally.high_ns,
                converged=tally.converged,
                involuntary_switches=tally.involuntary_switches,
            )
            for name, tally in tallies.items()
        },
        reference=reference,
        drift=_drift(tallies[reference].medians_ns),
    )


def bootstrap_median_interval(
    round_medians: NDArray[np.float64], *, level: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the median of `round_medians`.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Args:
        round_medians: (R,) finite values, at least 2.
        level: confidence level, between 0 and 1.
        rng: draws the samples.

    Raises:
        MeasurementError: fewer than 2 values, another shape, or values that are not finite.
    """
    if round_medians.ndim != 1 or len(round_medians) < 2 or not np.isfinite(round_medians).all():
        raise MeasurementError(
            f"an interval needs at least 2 finite round medians, got {round_medians.tolist()}",
            hint="measure more rounds",
        )
    low_K, high_K = _intervals(round_medians[np.newaxis], level=level, rng=rng)
    return float(low_K[0]), float(high_K[0])


def _intervals(
    medians_KR: NDArray[np.float64], *, level: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    num_rounds = medians_KR.shape[1]
    draws_BR = rng.integers(num_rounds, size=(NUM_RESAMPLES, num_rounds))
    # The same draws serve all networks: rounds are what is drawn, and they share them.
    # One network at a time: all together would be gigabytes after a thousand rounds.
    samples_KB = np.stack([np.median(medians_R[draws_BR], axis=1) for medians_R in medians_KR])
    low_K, high_K = np.quantile(samples_KB, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return low_K, high_K


def _visit(
    name: str,
    *,
    run: Callable[[], None],
    tally: _Tally,
    protocol: MeasurementProtocol,
    timer_ns: Callable[[], int],
) -> None:
    times_ns = np.empty(protocol.runs_per_round, dtype=np.int64)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    try:
        for _ in range(protocol.warmup_runs):
            run()
        for index in range(protocol.runs_per_round):
            start_ns = timer_ns()
            run()
            times_ns[index] = timer_ns() - start_ns
    except Hinted:
        raise
    # Whatever a runtime raises: the caller has to know which network it was.
    except Exception as e:
        raise MeasurementError(
            f"{name!r} failed in round {len(tally.rounds_ns) + 1}: {e}",
            hint="leave this network out, or check it alone: nas devices measure",
        ) from e
    tally.involuntary_switches += resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
    tally.rounds_ns.append(times_ns)
    tally.medians_ns.append(float(np.median(times_ns)))


def _judge(tallies: Sequence[_Tally], *, protocol: MeasurementProtocol, rng: np.random.Generator) -> None:
    medians_KR = np.array([tally.medians_ns for tally in tallies])
    low_K, high_K = _intervals(medians_KR, level=protocol.level, rng=rng)
    for tally, low_ns, high_ns in zip(tallies, low_K, high_K, strict=True):
        tally.low_ns, tally.high_ns = float(low_ns), float(high_ns)
        tally.converged = tally.high_ns - tally.low_ns <= protocol.interval_width * float(np.median(tally.medians_ns))


def _drift(medians_ns: list[float]) -> float:
    half = len(medians_ns) // 2
    first, second = float(np.median(medians_ns[:half])), float(np.median(medians_ns[half:]))
    return second / first - 1 if first > 0 else 0.0


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
