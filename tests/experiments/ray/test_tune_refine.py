"""Fine-tuning as real Ray Tune trials, some of which fail."""

import threading
from pathlib import Path

import numpy as np
import pytest

from experiments.errors import ClusterError, TrackingError
from experiments.ray.tune_refine import refine_on_ray
from searchspaces import get_space
from tests.experiments.ray.conftest import MakeRun
from tests.experiments.ray.fake_workloads import LOADER

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

ARCH = get_space("mbconv-small").sample(np.random.default_rng(0)).to_json()


class Results:
    """As the command line's: holds something that cannot be sent to another process."""

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, float]]] = {}
        self.lock = threading.Lock()

    def add(self, directory: str, metrics: dict[str, float]) -> None:
        with self.lock:
            self.found.setdefault(directory, []).append(metrics)


@pytest.mark.faults
def test_trials_that_fail_do_not_stop_the_others(
    make_run: MakeRun, lock_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(epochs=3)
    names = ("nan", "dies-once", "bug", "good")
    directories = {name: run_dir / "refine" / name for name in names}
    results = Results()
    errors = refine_on_ray(
        run_dir,
        jobs=[(ARCH, directory) for directory in directories.values()],
        max_concurrent=2,
        threads_per_trial=2,
        storage=run_dir / "ray",
        on_result=results.add,
        loader=LOADER,
        lock_directory=lock_directory,
    )
    assert list(errors) == [str(directory) for directory in directories.values()]
    assert errors[str(directories["good"])] is None
    assert errors[str(directories["dies-once"])] is None
    assert errors[str(directories["bug"])] == "RuntimeError: some bug"
    nan = str(errors[str(directories["nan"])])
    assert nan.startswith("the loss of ")
    assert nan.endswith(" is nan; lower refine.learning_rate")
    assert set(results.found) == {str(directories[name]) for name in ("good", "dies-once")}
    for directory, reported in results.found.items():
        epochs = [metrics["epoch"] for metrics in reported]
        assert epochs == [1, 2, 3], directory
        assert reported[0] == {"epoch": 1, "accuracy": 0.5, "threads": 2}
    # Standard output belongs to the command line, which may print JSON there.
    assert capfd.readouterr().out == ""


def test_an_error_of_the_caller_ends_refinement_as_it_was_raised(make_run: MakeRun, lock_directory: Path) -> None:
    run_dir = make_run(epochs=2)

    def refuse(directory: str, metrics: dict[str, float]) -> None:
        raise TrackingError("the tracking server is gone", hint="start it")

    with pytest.raises(TrackingError) as caught:
        refine_on_ray(
            run_dir,
            jobs=[(ARCH, run_dir / "refine" / "good")],
            max_concurrent=1,
            threads_per_trial=1,
            storage=run_dir / "ray",
            on_result=refuse,
            loader=LOADER,
            lock_directory=lock_directory,
        )
    assert type(caught.value) is TrackingError
    assert caught.value.hint == "start it"


def test_no_jobs_need_no_trial(tmp_path: Path) -> None:
    found = refine_on_ray(
        tmp_path,
        jobs=[],
        max_concurrent=1,
        threads_per_trial=1,
        storage=tmp_path / "ray",
        on_result=Results().add,
        loader=LOADER,
    )
    assert found == {}
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_no_machine_has_room_for_is_refused(make_run: MakeRun) -> None:
    run_dir = make_run(epochs=1)
    with pytest.raises(ClusterError, match="refine wants 1 workers of 9 CPUs each"):
        refine_on_ray(
            run_dir,
            jobs=[(ARCH, run_dir / "refine" / "good")],
            max_concurrent=1,
            threads_per_trial=9,
            storage=run_dir / "ray",
            on_result=Results().add,
            loader=LOADER,
        )
