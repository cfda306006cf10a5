"""What one evaluation costs beside itself: on one worker with real subnets, and in the driver alone."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.throughput.searching import make_pricer, new_study, search, settings_for
from experiments.benchmarks.throughput.simulation import Overheads
from experiments.benchmarks.throughput.waiting import LOADER, Waiting, make_waiting
from experiments.ray.cluster import connect
from experiments.ray.pool import RayEvaluationPool
from experiments.workload import Workload
from nas.pricing import Pricer
from nas.search.pool import SerialPool

_MOST_PERCENT = 10.0
_SEARCH, _TASKS, _PENDING = 120, 200, 128
_WINDOW = 20


def add_overhead(report: BenchmarkReport, workload: Workload, *, quick: bool) -> np.ndarray:
    """One worker and the search around it, for three sizes of task; returns what evaluations took, in seconds."""
    pricer = make_pricer(workload.run.space, num_classes=workload.data.num_classes)
    evaluations = 12 if quick else _SEARCH
    rows, busy_s = [], np.empty(0)
    # A CPU more than the worker has: the driver has its own.
    with connect(num_cpus=1), tempfile.TemporaryDirectory() as folder:
        for subnets_per_task in (1, 4) if quick else (1, 4, 16):
            pool = RayEvaluationPool(workload.run.path, num_workers=1, weights=workload.run.supernet_weights())
            try:
                timeline = search(
                    Path(folder) / str(subnets_per_task),
                    pricer=pricer,
                    pool=pool,
                    evaluations=evaluations,
                    subnets_per_task=subnets_per_task,
                )
            finally:
                pool.close()
            # The first task loads data and supernet; its worker does that once.
            first = timeline.at_s.count(timeline.at_s[0])
            wall_s = timeline.at_s[-1] - timeline.at_s[0]
            busy_s = np.array(timeline.busy_s[first:])
            overhead = 100.0 * (wall_s / float(busy_s.sum()) - 1.0)
            key = f"overhead/subnets_per_task_{subnets_per_task}"
            report.add(f"{key}/percent", overhead, at_most=_MOST_PERCENT if subnets_per_task == 4 else None)
            report.add(f"{key}/evaluation_seconds", float(np.median(busy_s)))
            rows.append([str(subnets_per_task), f"{1e3 * np.median(busy_s):.0f} ms", f"{overhead:+.1f} %"])
    report.show(
        "One worker, our sampler: time beside the evaluations", headings=["subnets a task", "one", "beside"], rows=rows
    )
    return busy_s


def measure_overheads(report: BenchmarkReport, pricer: Pricer, *, quick: bool) -> Overheads:
    """The driver alone, with evaluations that take no time, and the way of a task to a worker and back."""
    evaluations = 40 if quick else 2 * _SEARCH
    with tempfile.TemporaryDirectory() as folder:
        timeline = search(
            Path(folder), pricer=pricer, pool=SerialPool(Waiting([0.0]).judge()), evaluations=evaluations,
            subnets_per_task=1,
        )  # fmt: skip
        each_N = np.diff(timeline.at_s)
        pending_s = _pending(Path(folder) / "pending", pricer, num=8 if quick else _PENDING)
    smooth_N = np.convolve(each_N, np.ones(_WINDOW) / _WINDOW, mode="valid")
    task_s = _task(num=20 if quick else _TASKS, pricer=pricer)
    for number in (1, len(smooth_N)):
        report.add(f"driver/after_{number + _WINDOW - 1}/milliseconds", 1e3 * float(smooth_N[number - 1]))
    report.add("driver/pending/milliseconds_each", 1e3 * pending_s)
    report.add("driver/task/milliseconds", 1e3 * task_s)
    report.say(
        f"driver: {1e3 * smooth_N[0]:.1f} ms an evaluation at first, {1e3 * smooth_N[-1]:.1f} ms after {evaluations}; "
        f"{1e3 * pending_s:.2f} ms for each pending one; {1e3 * task_s:.1f} ms a task"
    )
    return Overheads(driver_s=_curve(smooth_N), pending_s=pending_s, task_s=task_s)


def _curve(smooth_N: np.ndarray) -> Callable[[int], float]:
    """Seconds by evaluations known; beyond the measured ones as at their end."""
    return lambda known: float(smooth_N[min(known, len(smooth_N) - 1)])


def _pending(folder: Path, pricer: Pricer, *, num: int) -> float:
    """By how much each pending proposal makes the next one slower: the slope over `num` of them."""
    evaluations = 40
    search(folder, pricer=pricer, pool=SerialPool(Waiting([0.0]).judge()), evaluations=evaluations, subnets_per_task=1)
    study = new_study(folder, pricer=pricer, settings=settings_for(evaluations, subnets_per_task=1))
    study.ask()
    seconds = []
    for _ in range(num):
        started_s = time.perf_counter()
        study.ask()
        seconds.append(time.perf_counter() - started_s)
    slope = float(np.polyfit(np.arange(num), seconds, 1)[0])
    return max(slope, 0.0)


def _task(*, num: int, pricer: Pricer) -> float:
    """Seconds from handing in an evaluation that takes no time to its result."""
    archs = pricer.space.architectures(pricer.space.sample_many(1, np.random.default_rng(0)))
    with connect(num_cpus=1), tempfile.TemporaryDirectory() as folder:
        pool = RayEvaluationPool(make_waiting(Path(folder), seconds=[0.0]), num_workers=1, loader=LOADER)
        try:
            seconds = []
            for number in range(num):
                started_s = time.perf_counter()
                pool.submit(number, architectures=archs)
                pool.next_result()
                seconds.append(time.perf_counter() - started_s)
        finally:
            pool.close()
    return float(np.median(seconds[1:]))
