"""The evaluation pool on real Ray actors, some of which die."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import ray
from optuna.trial import TrialState

from experiments.errors import ClusterError
from experiments.ray.loading import Weights
from experiments.ray.pool import RayEvaluationPool
from hardware.lease import UnitLock
from nas.errors import CheckpointError
from nas.search.loop import Evaluated, run_search
from nas.search.pool import EvaluationPool, TaskResult
from nas.search.study import SearchStudy
from searchspaces import Architecture, get_space
from tests.experiments.ray.conftest import MakeRun
from tests.experiments.ray.fake_workloads import LOADER, unit_of_this_host
from tests.nas.tiny_run import SEARCH, SPACE, ignore, price_by_macs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def archs() -> list[Architecture]:
    rng = np.random.default_rng(0)
    space = get_space("mbconv-small")
    return [space.sample(rng) for _ in range(12)]


class Pools:
    def __init__(self) -> None:
        self.made: list[RayEvaluationPool] = []

    def make(
        self, run_dir: Path, *, num_workers: int = 1, threads: int = 1, weights: Weights | None = None
    ) -> RayEvaluationPool:
        pool = RayEvaluationPool(
            run_dir,
            num_workers=num_workers,
            threads_per_worker=threads,
            loader=LOADER,
            lock_directory=run_dir.parent / "locks",
            weights=weights,
        )
        self.made.append(pool)
        return pool


@pytest.fixture
def pools() -> Iterator[Pools]:
    made = Pools()
    yield made
    for pool in made.made:
        pool.close()


def submit_each(pool: EvaluationPool, archs: list[Architecture]) -> None:
    for number, arch in enumerate(archs):
        pool.submit(number, architectures=[arch])


def results(pool: EvaluationPool, num: int) -> dict[int, TaskResult]:
    found = [pool.next_result() for _ in range(num)]
    return {result.task_id: result for result in found}


def test_every_task_comes_back_with_a_score_for_each_of_its_subnets(
    make_run: MakeRun, pools: Pools, archs: list[Architecture]
) -> None:
    pool = pools.make(make_run(meet=2), num_workers=2, threads=2)
    assert pool.num_workers == 2
    for number in range(6):
        pool.submit(number, architectures=archs[2 * number : 2 * number + 2])
    found = results(pool, 6)
    assert sorted(found) == list(range(6))
    for number, result in found.items():
        assert result.error is None
        assert [score.arch_id for score in result.scores] == [arch.arch_id for arch in archs[2 * number :][:2]]
    # Both actors took part, and each loaded the workload once: it counts whom it judged.
    scores = [score for result in found.values() for score in result.scores]
    counts: dict[float, int] = {}
    for score in scores:
        counts[score.seconds] = max(counts.get(score.seconds, 0), score.accuracy.num_correct)
    assert len(counts) == 2
    assert sum(counts.values()) == 12
    assert {score.accuracy.num_images for score in scores} == {2}


@pytest.mark.faults
def test_a_worker_that_dies_costs_its_task_and_is_replaced(
    make_run: MakeRun, pools: Pools, archs: list[Architecture]
) -> None:
    weights = {"w": np.full(4, 0.0625)}
    pool = pools.make(make_run(**{archs[1].arch_id: "dies"}), num_workers=2, weights=weights)
    submit_each(pool, archs[:6])
    found = results(pool, 6)
    assert [number for number, result in found.items() if result.error is not None] == [1]
    assert "the worker's process died" in str(found[1].error)
    assert (found[1].scores, found[1].worker_died) == ((), True)
    # The replacement judges, too, also what failed before.
    submit_each(pool, archs[2:6])
    again = results(pool, 4).values()
    assert all(result.error is None for result in again)
    # From the object store, also in the actor that came later.
    assert {score.accuracy.value for result in again for score in result.scores} == {0.25}


@pytest.mark.faults
def test_a_search_loses_only_whom_no_worker_survives(make_run: MakeRun, pools: Pools) -> None:
    pool = pools.make(make_run(**{SPACE.smallest.arch_id: "dies once", SPACE.largest.arch_id: "dies"}))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    rows: list[Evaluated] = []
    pricer = price_by_macs(SPACE, SPACE.sample_many(40, np.random.default_rng(0)))
    ended = run_search(
        SearchStudy(study, pricer=pricer, limits=()),
        pricer=pricer,
        pool=pool,
        settings=replace(SEARCH, evaluations=6, subnets_per_task=3),
        known={},
        record=rows.extend,
        on_progress=ignore,
    )
    assert ended == "6 architectures evaluated"
    assert SPACE.smallest in [row.architecture for row in rows]
    # The third one of the task that both have cost a worker, too.
    assert {0, 2} <= {row.trial_number for row in rows}
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert failed.user_attrs["arch_id"] == SPACE.largest.arch_id
    assert "the worker's process died" in failed.user_attrs["not_evaluated"]


@pytest.mark.faults
def test_workers_that_keep_dying_end_the_search_with_a_hint(
    make_run: MakeRun, pools: Pools, archs: list[Architecture]
) -> None:
    pool = pools.make(make_run(**{arch.arch_id: "dies" for arch in archs}))
    submit_each(pool, archs)
    with pytest.raises(ClusterError, match=r"evaluation workers died 3 times in a row") as caught:
        results(pool, len(archs))
    assert "lower search.workers" in caught.value.hint


def test_a_bug_fails_its_architecture_only_and_an_error_of_ours_reaches_the_caller_as_it_was_raised(
    make_run: MakeRun, pools: Pools, archs: list[Architecture]
) -> None:
    pool = pools.make(make_run(**{archs[0].arch_id: "bug", archs[2].arch_id: "checkpoint"}))
    pool.submit(0, architectures=archs[:2])
    found = pool.next_result()
    assert (found.error, found.worker_died) == (None, False)
    assert found.failures == {archs[0].arch_id: "RuntimeError: mat1 and mat2 shapes cannot be multiplied"}
    assert [score.arch_id for score in found.scores] == [archs[1].arch_id]
    submit_each(pool, archs[2:3])
    with pytest.raises(CheckpointError) as caught:
        pool.next_result()
    assert type(caught.value) is CheckpointError
    assert (str(caught.value), caught.value.hint) == ("weights are damaged", "train again")


def test_a_run_that_cannot_be_loaded_is_an_error_of_ours(
    tmp_path: Path, pools: Pools, archs: list[Architecture]
) -> None:
    pool = pools.make(tmp_path / "nothing")
    submit_each(pool, archs[:1])
    with pytest.raises(CheckpointError, match="has no supernet"):
        pool.next_result()


def test_a_loader_that_does_not_exist_is_named(make_run: MakeRun, archs: list[Architecture]) -> None:
    pool = RayEvaluationPool(make_run(), num_workers=1, loader="experiments.nowhere:load")
    submit_each(pool, archs[:1])
    with pytest.raises(ClusterError, match=r"cannot load 'experiments\.nowhere:load'"):
        pool.next_result()
    pool.close()


def test_nothing_is_judged_while_somebody_measures(
    make_run: MakeRun, pools: Pools, archs: list[Architecture], lock_directory: Path
) -> None:
    run_dir = make_run(seconds=0.2)
    pool = pools.make(run_dir, num_workers=2)
    submit_each(pool, archs)
    pool.next_result()
    lock = UnitLock(unit_of_this_host(), directory=lock_directory)
    with lock.measuring(owner="the measurer", ttl_s=60):
        for _ in range(5):
            time.sleep(0.1)
            assert list(run_dir.glob("busy-*")) == []
    assert len(results(pool, len(archs) - 1)) == len(archs) - 1


def test_closing_ends_the_workers_and_waiting_for_nothing_is_refused(
    make_run: MakeRun, pools: Pools, archs: list[Architecture]
) -> None:
    pool = pools.make(make_run(), num_workers=2, threads=2)
    with pytest.raises(ClusterError, match="no task was handed in"):
        pool.next_result()
    submit_each(pool, archs[:1])
    pool.next_result()
    pool.close()
    pool.close()
    with pytest.raises(ClusterError, match="the evaluation pool is closed"):
        pool.submit(7, architectures=archs[:1])
    # All CPUs are free again: another pool of all of them comes up.
    again = pools.make(pool_run(pool), num_workers=2, threads=2)
    submit_each(again, archs[:1])
    assert again.next_result().error is None


def pool_run(pool: RayEvaluationPool) -> Path:
    return Path(pool._run_dir)


def test_more_workers_than_the_cluster_has_room_for_are_refused(make_run: MakeRun) -> None:
    assert ray.is_initialized()
    with pytest.raises(ClusterError, match="search wants 5 workers of 1 CPUs each"):
        RayEvaluationPool(make_run(), num_workers=5, loader=LOADER)
