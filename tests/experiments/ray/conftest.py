"""One embedded Ray instance for all tests of this directory, and switchable workloads for its workers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.ray.cluster import Cluster, connect
from experiments.ray.environment import temporary_environment
from hardware.files import JSON, write_json
from tests.experiments.ray.fake_workloads import BEHAVIOUR

ROOT = Path(__file__).resolve().parents[3]

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Workers import tests.experiments.ray.fake_workloads, wherever pytest was started. Four CPUs are given out on any
    # machine: tests look at who does what, not at how fast.
    with (
        temporary_environment({"PYTHONPATH": str(ROOT), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}),
        connect(num_cpus=4) as connected,
    ):
        yield connected


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run directory whose fake workload behaves as told."""

    def make(**behaviour: JSON) -> Path:
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        write_json(run_dir / BEHAVIOUR, behaviour)
        return run_dir

    return make


@pytest.fixture
def lock_directory(tmp_path: Path) -> Path:
    """Locks of this test's own: the host's are held by whoever else works on this machine."""
    return tmp_path / "locks"
