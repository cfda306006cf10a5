"""Training on two real Ray Train workers that talk through gloo."""

import json
import threading
import time
from pathlib import Path

import pytest
import ray

from experiments.errors import ClusterError
from experiments.ray.cluster import Cluster
from experiments.ray.trainer import train_on_ray
from hardware.lease import UnitLock
from nas.errors import TrainingError
from tests.experiments.ray.conftest import MakeRun
from tests.experiments.ray.fake_workloads import LOADER, unit_of_this_host

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def train(run_dir: Path, *, num_workers: int = 2, threads: int = 1) -> None:
    train_on_ray(
        run_dir,
        num_workers=num_workers,
        threads_per_worker=threads,
        storage=run_dir / "ray",
        loader=LOADER,
        lock_directory=run_dir.parent / "locks",
    )


@pytest.mark.faults
def test_two_workers_go_on_after_one_died_and_share_their_gradients_and_the_host(
    make_run: MakeRun, lock_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(train="dies_once averages epochs", epochs=12)
    lock = UnitLock(unit_of_this_host(), directory=lock_directory)
    done = threading.Event()
    seen: list[tuple[int, list[str]]] = []

    def measure() -> None:
        while not done.is_set():
            with lock.measuring(owner="the measurer", ttl_s=60) as lease:
                time.sleep(0.02)
                seen.append((lease.token, sorted(path.name for path in run_dir.glob("busy-*"))))
                lease.check()
            time.sleep(0.05)

    measurer = threading.Thread(target=measure)
    measurer.start()
    try:
        train(run_dir, threads=2)
    finally:
        done.set()
        measurer.join()
    assert capfd.readouterr().out == ""
    require_went_on(run_dir, num_workers=2)
    # The measurer got its turns, none of them while a worker computed.
    assert len(seen) > 12
    assert [busy for _, busy in seen if busy] == []
    ranks = [json.loads((run_dir / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1]
    assert ranks[0]["world_size"] == 2
    assert ranks[0]["everywhere"] == [[1.5, 1.5], [1.5, 1.5]]
    assert ranks[0]["on_one"] == [[2.5, 2.5], [2.5, 2.5]]
    assert ranks[0]["nowhere"] is None
    assert ranks[0]["mean"] == 0.5
    assert ranks[0]["nan"] == "nan"
    assert ranks[0]["threads"] == 2
    assert ranks[0]["environment"] == "2"


@pytest.mark.faults
def test_a_single_worker_goes_on_after_it_died_and_keeps_its_gradients(
    make_run: MakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(train="dies_once averages")
    train(run_dir, num_workers=1)
    assert capfd.readouterr().out == ""
    require_went_on(run_dir, num_workers=1)
    found = json.loads((run_dir / "rank-0.json").read_text())
    assert found["everywhere"] == [[1.0, 1.0], [1.0, 1.0]]
    assert found["on_one"] is None
    assert found["mean"] == 0.0
    assert found["threads"] == 1


def require_went_on(run_dir: Path, *, num_workers: int) -> None:
    assert (run_dir / "died").exists()
    assert len(list(run_dir.glob("finished-*.json"))) == num_workers


def test_an_error_of_ours_reaches_the_caller_as_it_was_raised(make_run: MakeRun) -> None:
    run_dir = make_run(train="nan")
    with pytest.raises(TrainingError) as caught:
        train(run_dir)
    assert type(caught.value) is TrainingError
    assert str(caught.value) == "the training loss is nan at step 3"
    assert caught.value.hint == "lower train.learning_rate (now 9.0)"


def test_a_bug_in_a_worker_is_told_in_one_line_and_not_tried_again(make_run: MakeRun) -> None:
    run_dir = make_run(train="bug")
    with pytest.raises(ClusterError, match=r"training failed in a Ray worker: KeyError: 'stage1.depth'$") as caught:
        train(run_dir)
    assert "run the same command again" in caught.value.hint
    assert len(list(run_dir.glob("began-0-*"))) == 1


def test_more_workers_than_the_cluster_has_room_for_are_refused(make_run: MakeRun, cluster: Cluster) -> None:
    run_dir = make_run(train="averages")
    with pytest.raises(ClusterError, match=r"train wants 3 workers of 2 CPUs each, but the 4 CPUs .* room for 2") as e:
        train(run_dir, num_workers=3, threads=2)
    assert e.value.hint == "set train.workers to 2 or less"
    with pytest.raises(ClusterError, match="room for 0") as e:
        train(run_dir, num_workers=1, threads=5)
    assert e.value.hint == "lower train.threads_per_worker"


def test_gpus_that_the_cluster_does_not_have_are_refused(make_run: MakeRun) -> None:
    run_dir = make_run(train="averages")
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ClusterError, match=r"a GPU for each of 1 workers, but the Ray cluster has 0 GPUs") as e:
        train_on_ray(run_dir, num_workers=1, threads_per_worker=1, use_gpu=True, storage=run_dir / "ray", loader=LOADER)
    assert "train.use_gpu to false" in e.value.hint
