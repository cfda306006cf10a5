"""Whether what another host says about a measurement can be true."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from hardware.backends.backend import Provenance
from hardware.errors import UntrustedError
from hardware.onsite import MeasureJob, OnsiteResult
from hardware.timing import InterleavedTimes, RunnerTimes

# Clocks of two hosts run apart, and the answer itself takes a moment.
_CLOCK_SLACK = 1.01


def require_plausible(
    found: OnsiteResult,
    *,
    job: MeasureJob,
    provenance: Provenance,
    sha256: Mapping[str, object],
    wall_s: float,
    place: str,
) -> None:
    """Refuse a result that cannot be what was asked for. A device that lies within these bounds is not found out.

    Args:
        found: by the host.
        job: what it was asked.
        provenance: of the device's backend, as it is known here.
        sha256: of the files that the host says it measured, by name.
        wall_s: seconds from the question to the answer, by the clock of this machine.
        place: how the message calls the host.

    Raises:
        UntrustedError: the first thing that cannot be.
    """
    for problem in _problems(found, job=job, provenance=provenance, sha256=sha256, wall_s=wall_s):
        raise UntrustedError(
            f"{place} sent a result that cannot be true: {problem}",
            hint="nothing of it is kept; look at the device, then: nas devices check",
        )


def _problems(
    found: OnsiteResult,
    *,
    job: MeasureJob,
    provenance: Provenance,
    sha256: Mapping[str, object],
    wall_s: float,
) -> Iterator[str]:
    expected = {name: artifact.sha256 for name, artifact in job.artifacts.items()}
    if dict(sha256) != expected:
        yield f"it is about the files {sorted(map(str, sha256.values()))}, asked was {sorted(expected.values())}"
    if found.provenance != provenance:
        yield f"it is {found.provenance}, the backend {job.spec.backend} is {provenance}"
    if (found.times is None) == (provenance == "measured"):
        yield f"times are {'missing' if found.times is None else 'there'} on a device that is {provenance}"
    for name, value in (("waited_s", found.waited_s), ("stolen", found.stolen), ("foreign_cores", found.foreign_cores)):
        if value is not None and not 0 <= value < math.inf:
            yield f"{name} is {value}"
    if found.waited_s > wall_s * _CLOCK_SLACK:
        yield f"it waited {found.waited_s:.3f} s for the unit, the whole call took {wall_s:.3f} s"
    if found.lease_token < 1 or not found.unit_name:
        yield f"lease {found.lease_token} of the unit {found.unit_name!r}"
    if found.times is None:
        yield from _problems_of_counts(found, job=job)
    else:
        yield from _problems_of_times(found.times, job=job, wall_s=wall_s - found.waited_s)


def _problems_of_counts(found: OnsiteResult, *, job: MeasureJob) -> Iterator[str]:
    if set(found.counts) != set(job.artifacts):
        yield f"counts of {sorted(found.counts)}, asked was {sorted(job.artifacts)}"
    for name, count in found.counts.items():
        if not 0 < count.value < math.inf or not all(0 <= value < math.inf for value in count.also.values()):
            yield f"{name!r} counts {count.value} {count.unit}, also {dict(count.also)}"


def _problems_of_times(times: InterleavedTimes, *, job: MeasureJob, wall_s: float) -> Iterator[str]:
    protocol = job.protocol
    # The reference is a network of its own, unless its file is one of those that were asked for.
    own = job.reference.sha256 not in [artifact.sha256 for artifact in job.artifacts.values()]
    expected = {*job.artifacts, times.reference} if own else set(job.artifacts)
    if set(times.times) != expected or times.reference not in expected or own == (times.reference in job.artifacts):
        yield f"times of {sorted(times.times)}, reference {times.reference!r}, asked was {sorted(job.artifacts)}"
        return
    rounds = {runner.raw_ns.shape[0] for runner in times.times.values()}
    num_rounds = min(rounds)
    if len(rounds) != 1 or not protocol.min_rounds <= num_rounds <= protocol.max_rounds:
        yield f"{sorted(rounds)} rounds, expected are {protocol.min_rounds} to {protocol.max_rounds}, the same for all"
    for name, runner in times.times.items():
        for problem in _problems_of_runner(runner, num_rounds=num_rounds, runs=protocol.runs_per_round):
            yield f"{name!r} has {problem}"
    # At least one visit of the reference before and after each round.
    if len(times.probes_ns) < 2 * num_rounds or not np.all((times.probes_ns > 0) & np.isfinite(times.probes_ns)):
        yield f"{len(times.probes_ns)} visits of the reference in {num_rounds} rounds, all have to take time"
    # Summed as floats: integers of a liar may overflow.
    total_s = sum(float(runner.raw_ns.sum(dtype=np.float64)) for runner in times.times.values()) / 1e9
    if total_s > wall_s * _CLOCK_SLACK:
        yield f"its runs take {total_s:.3f} s together, the whole call took {wall_s:.3f} s"
    if num_rounds < protocol.max_rounds and wall_s * _CLOCK_SLACK < protocol.min_seconds:
        yield f"it was done after {wall_s:.3f} s, the protocol goes on for {protocol.min_seconds:g} s"


def _problems_of_runner(runner: RunnerTimes, *, num_rounds: int, runs: int) -> Iterator[str]:
    if runner.raw_ns.shape[1] != runs:
        yield f"{runner.raw_ns.shape[1]} runs a round, expected are {runs}"
    elif int(runner.raw_ns.min()) <= 0:
        yield f"a run of {int(runner.raw_ns.min())} ns"
    elif int(runner.raw_ns.min()) == int(runner.raw_ns.max()):
        yield f"{runner.raw_ns.size} runs of exactly {int(runner.raw_ns.min())} ns each"
    if runner.slowdown.shape != (num_rounds,) or not np.all((runner.slowdown > 0) & np.isfinite(runner.slowdown)):
        yield "slowdowns that are not one positive number a round"
    if runner.warmup_runs < 0 or runner.involuntary_switches < 0:
        yield f"{runner.warmup_runs} runs to warm up and {runner.involuntary_switches} involuntary switches"
