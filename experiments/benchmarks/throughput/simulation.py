"""A discrete-event simulation of a search with many workers.

The driver does one thing after the other, as `nas.search.loop` does: it proposes the subnets of a task and hands it in,
while fewer tasks are out than there are workers and one more; else it waits for the next result and records it. A
worker that became free gets a waiting task when the driver looks next.

Letters: K workers.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What was measured of a search that is not evaluation.

    Attributes:
        driver_s: driver seconds of one evaluation (proposal, study, table) when so many are known.
        pending_s: further seconds of a proposal for each one that waits for its value.
        task_s: seconds that a worker idles for each task (sending it, receiving its result).
    """

    driver_s: Callable[[int], float]
    pending_s: float
    task_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A simulated search: its length, and the share (0 ... 1) of the workers' time that was evaluation."""

    seconds: float
    efficiency: float


def simulate(
    *, workers: int, evaluations: int, subnets_per_task: int, evaluation_s: np.ndarray, overheads: Overheads
) -> Simulated:
    """Simulate one search.

    Args:
        workers: K.
        evaluations: unique architectures.
        subnets_per_task: as in the recipe.
        evaluation_s: measured times of evaluations, used one after the other.
        overheads: of the driver and of tasks.
    """
    now_s, known, asked, busy_s = 0.0, 0, 0, 0.0
    free = [0.0] * workers
    heapq.heapify(free)
    waiting: deque[tuple[int, float]] = deque()
    running: list[tuple[float, int]] = []

    def assign() -> None:
        while waiting and free and free[0] <= now_s:
            heapq.heappop(free)
            num, task_s = waiting.popleft()
            heapq.heappush(running, (now_s + task_s + overheads.task_s, num))

    finished: deque[int] = deque()

    def collect() -> None:
        while running and running[0][0] <= now_s:
            _, num = heapq.heappop(running)
            finished.append(num)
            heapq.heappush(free, now_s)
        assign()

    while known < evaluations:
        while len(waiting) + len(running) + len(finished) <= workers and asked < evaluations:
            num = min(subnets_per_task, evaluations - asked)
            task_s = 0.0
            for _ in range(num):
                now_s += overheads.driver_s(known) + overheads.pending_s * (asked - known)
                task_s += float(evaluation_s[asked % len(evaluation_s)])
                asked += 1
            busy_s += task_s
            waiting.append((num, task_s))
            collect()
        if not finished:
            now_s = max(now_s, running[0][0])
            collect()
        known += finished.popleft()
    return Simulated(seconds=now_s, efficiency=busy_s / (workers * now_s))


def breaking_point(efficiency: Callable[[int], float], *, least: float, most: int) -> int:
    """The most workers whose efficiency is `least` or better, up to `most`; 0 if one worker's is not.

    Efficiency falls with workers, so the interval is halved.
    """
    if efficiency(1) < least:
        return 0
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if efficiency(middle) >= least else (low, middle)
    return low
