"""The simulation of a search with many workers, and the search that is timed; the whole benchmark starts Ray nodes."""

from pathlib import Path

import numpy as np
import optuna
import pytest

from experiments.benchmarks.throughput.searching import make_pricer, search
from experiments.benchmarks.throughput.simulation import Overheads, Simulated, breaking_point, simulate
from experiments.benchmarks.throughput.waiting import Waiting, load, make_waiting
from nas.search.pool import SerialPool
from searchspaces import get_space


def run(
    workers: int, *, driver_s: float = 0.0, pending_s: float = 0.0, task_s: float = 0.0, size: int = 1
) -> Simulated:
    return simulate(
        workers=workers,
        evaluations=64,
        subnets_per_task=size,
        evaluation_s=np.array([1.0]),
        overheads=Overheads(driver_s=lambda _: driver_s, pending_s=pending_s, task_s=task_s),
    )


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_without_overheads_all_workers_are_busy(workers: int) -> None:
    found = run(workers)
    assert found.seconds == pytest.approx(64 / workers)
    assert found.efficiency == pytest.approx(1.0)


def test_the_driver_is_the_limit_of_many_workers() -> None:
    # An evaluation of a second and proposals of a tenth: ten workers are the most that it can feed.
    assert run(4, driver_s=0.1).efficiency > 0.85
    many = run(32, driver_s=0.1)
    assert many.seconds >= 6.4
    assert many.efficiency == pytest.approx(64 / (32 * many.seconds))


def test_tasks_of_several_subnets_share_what_a_task_costs() -> None:
    assert run(1, task_s=0.5).seconds == pytest.approx(64 * 1.5)
    assert run(1, task_s=0.5, size=4).seconds == pytest.approx(64 + 16 * 0.5)


def test_what_waits_for_its_value_makes_proposals_slower() -> None:
    assert run(16, driver_s=0.01, pending_s=0.01).seconds > run(16, driver_s=0.01).seconds


def test_the_breaking_point_is_the_last_good_number() -> None:
    assert breaking_point(lambda num: 1.0 / num, least=0.25, most=100) == 4
    assert breaking_point(lambda _: 1.0, least=0.25, most=100) == 100
    assert breaking_point(lambda _: 0.1, least=0.25, most=100) == 0


def test_the_timed_search_is_a_whole_one(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pricer = make_pricer(get_space("mbconv-small"), num_classes=10)
    pool = SerialPool(load(make_waiting(tmp_path / "run", seconds=[0.0, 0.001])).judge())
    timeline = search(tmp_path / "search", pricer=pricer, pool=pool, evaluations=10, subnets_per_task=4)
    assert len(timeline.at_s) == len(timeline.busy_s) == 10
    assert timeline.at_s == sorted(timeline.at_s)
    assert timeline.seconds > sum(timeline.busy_s)


def test_waiting_scores_follow_from_the_architecture() -> None:
    space = get_space("mbconv-small")
    first, again, other = Waiting([0.0]).judge()([space.smallest, space.smallest, space.largest])
    assert first.accuracy == again.accuracy
    assert first.accuracy.value != other.accuracy.value
    assert 0.5 <= first.accuracy.value <= 1.0
