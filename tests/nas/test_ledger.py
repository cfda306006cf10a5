"""The ledger of a run, from small tables."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from hardware.files import JSON
from nas.errors import RunError
from nas.ledger import BreakEven, StageCost, break_even, device_costs, ledger, stage_costs
from nas.run import Run
from nas.tables import NO_TRIAL
from nas.training.checkpoints import Checkpoint, save_checkpoint
from nas.training.starting import start_sha256
from tests.nas.predicted_run import NUM, empty_run, predicted_run


def call(stage: str, seconds: float, **more: object) -> dict[str, object]:
    return {
        "stage": stage,
        "device_id": "d",
        "seconds": seconds,
        "cores": 1,
        "gpus": 0,
        "joules": None,
        "ended": "done",
        "utc_time": "2026-01-01T00:00:00+00:00",
        **more,
    }


def cost(stage: str, core_seconds: float, *, gpu_seconds: float = 0.0) -> StageCost:
    return StageCost(
        stage=stage,
        calls=1,
        seconds=core_seconds,
        core_seconds=core_seconds,
        gpu_seconds=gpu_seconds,
        joules=0.0,
        energy_provenance="estimated",
    )


SHARED = [cost("train", 80.0), cost("profile", 15.0), cost("search", 5.0), cost("verify", 1000.0)]


def test_calls_of_a_stage_are_added_up_and_energy_says_where_it_comes_from() -> None:
    rows = pd.DataFrame(
        [
            call("train", 10.0, cores=2, joules=50.0),
            call("train", 5.0, cores=2, ended="interrupted"),
            call("profile", 4.0, joules=7.0),
            call("search", 3.0, cores=4, gpus=1, joules=1.0),
        ]
    )
    train, profile, search = stage_costs(rows, watts_per_core=10.0, watts_per_gpu=100.0)
    assert (train.calls, train.seconds, train.core_seconds) == (2, 15.0, 30.0)
    assert (train.joules, train.energy_provenance) == (50.0 + 5 * 2 * 10.0, "estimated")
    assert (profile.joules, profile.energy_provenance) == (7.0, "measured")
    # The processor's counters know nothing of a GPU.
    assert (search.gpu_seconds, search.joules) == (3.0, 3 * 4 * 10.0 + 3 * 100.0)


def test_devices_are_charged_for_timed_runs() -> None:
    rows = pd.DataFrame(
        {
            "device_id": ["a", "a", "a", "b"],
            "session_id": ["1", "1", "2", "3"],
            "purpose": ["reference", "search", "verify", "verify"],
            "unit": ["ms", "ms", "ms", "instructions"],
            "raw_ms": [[[500.0, 500.0], [1000.0]], [[0.5]], [[1.0]], [[1e9]]],
        }
    )
    taken = pd.DataFrame({"session_id": ["2", "3"], "seconds": [7.0, 5.0]})
    a, b = device_costs(rows, taken=taken)
    assert (a.measurements, a.sessions) == (3, 2)
    assert a.timed_seconds == pytest.approx(2.0015)
    # Nobody recorded how long the device was taken for the first session.
    assert a.seconds_by_purpose == {"search": pytest.approx(2.0005), "verify": 7.0}
    assert (b.device_id, b.timed_seconds, b.seconds_by_purpose) == ("b", 0.0, {"verify": 5.0})


def test_the_supernet_pays_for_itself_once_the_saved_seconds_reach_its_own() -> None:
    even = break_even(SHARED, tuned=[(4.0, 2), (6.0, 2)], epochs_alone=10)
    assert isinstance(even, BreakEven)
    assert (even.shared_core_seconds, even.core_seconds_per_network, even.core_seconds_alone) == (100.0, 5.0, 25.0)
    assert even.networks == 5.0


def test_what_the_search_fine_tuned_is_not_shared() -> None:
    even = break_even(SHARED, tuned=[(2.0, 2)], epochs_alone=10, seconds_in_search=2.0)
    assert isinstance(even, BreakEven)
    assert even.shared_core_seconds == 98.0
    assert even.core_seconds_per_network == 2.0


def test_there_is_no_break_even_where_training_alone_is_cheaper() -> None:
    even = break_even(SHARED, tuned=[(4.0, 2)], epochs_alone=2)
    assert isinstance(even, BreakEven)
    assert even.networks is None


def test_what_a_break_even_lacks_is_said() -> None:
    assert (
        break_even(SHARED[:1], tuned=[(1.0, 1)], epochs_alone=1) == "the run did not record its stages profile, search"
    )
    assert "no network was fine-tuned" in str(break_even(SHARED, tuned=[], epochs_alone=1))
    on_gpu = [cost("train", 80.0, gpu_seconds=80.0), *SHARED[1:]]
    assert "do not compare" in str(break_even(on_gpu, tuned=[(1.0, 1)], epochs_alone=1))


def test_a_run_of_an_older_version_shows_what_its_tables_hold(tmp_path: Path) -> None:
    found = ledger(predicted_run(tmp_path / "run"))
    assert (found.stages, found.joules, found.evaluations, found.fine_tunings) == ((), 0.0, NUM, 0)
    assert found.break_even is None
    assert found.break_even_missing == "the supernet is not trained"
    assert found.to_json()["break_even"] is None


def train(run: Run, *, epochs: int, start: Path | None = None, seconds: float | None = None) -> Path:
    """A checkpoint of weights like no others, from `start`, that took so many seconds."""
    run.recipe_path.write_text(f"train: {{from_checkpoint: {start or 'null'}}}", encoding="utf-8")
    if seconds is not None:
        run.stages_table.append([call("train", seconds)])
    details: JSON = {"start_sha256": None if start is None else start_sha256(start)}
    weights = {"bias": torch.rand(8)}
    checkpoint = Checkpoint(epoch=epochs, step=1, weights=weights, optimizer={}, details={"settings": details})
    return save_checkpoint(run.train_dir / "checkpoints", checkpoint)


def fine_tuned(run: Run) -> Run:
    """With one network fine-tuned for two epochs in 4 s."""
    first = {str(key): value for key, value in run.evaluations().iloc[0].items()}
    run.evaluations_table.append([{**first, "weights_kind": "fine-tuned", "trial_number": NO_TRIAL, "seconds": 4.0}])
    checkpoint = Checkpoint(epoch=2, step=1, weights={}, optimizer={}, details={})
    save_checkpoint(run.refine_dir(str(first["arch_id"])), checkpoint)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = fine_tuned(predicted_run(tmp_path / "run"))
    made.stages_table.append([call("train", 0.5), call("profile", 15.0), call("search", 5.0)])
    return made


def test_the_trainings_that_a_supernet_started_from_are_added_where_they_are_known(tmp_path: Path, run: Run) -> None:
    first, second = empty_run(tmp_path / "first"), empty_run(tmp_path / "second")
    start = train(first, epochs=40, seconds=500.0)
    train(run, epochs=0, start=train(second, epochs=10, start=start, seconds=70.0))
    found = ledger(run)
    assert (found.start_runs, found.start_core_seconds) == ((str(second.path), str(first.path)), 570.0)
    assert [cost.core_seconds for cost in found.stages] == [0.5, 15.0, 5.0]
    even = found.break_even
    assert even is not None
    assert (even.shared_core_seconds, even.epochs_alone, even.networks) == (590.5, 50, 590.5 / (50 * 2.0 - 4.0))
    # Other weights at the place of the first one's: who trained those is not known.
    train(first, epochs=40)
    found = ledger(run, epochs_alone=40)
    assert (found.start_runs, found.start_core_seconds) == ((str(second.path),), None)
    assert found.break_even is None


def test_a_supernet_from_no_run_says_that_its_cost_is_not_known(tmp_path: Path, run: Run) -> None:
    elsewhere = Checkpoint(epoch=3, step=1, weights={"bias": torch.rand(8)}, optimizer={}, details={})
    train(run, epochs=0, start=save_checkpoint(tmp_path / "elsewhere", elsewhere))
    found = ledger(run)
    assert (found.start_runs, found.start_core_seconds, found.break_even) == ((), None, None)
    assert "is not known" in found.break_even_missing
    assert found.to_json()["start_core_seconds"] is None


def test_a_start_whose_run_recorded_no_stages_has_no_known_cost(tmp_path: Path, run: Run) -> None:
    train(run, epochs=0, start=train(empty_run(tmp_path / "older"), epochs=40))
    found = ledger(run)
    assert (len(found.start_runs), found.start_core_seconds, found.break_even) == (1, None, None)


def test_a_supernet_from_fresh_weights_started_from_nothing(run: Run) -> None:
    train(run, epochs=10)
    found = ledger(run)
    assert (found.start_runs, found.start_core_seconds) == ((), 0.0)
    assert found.break_even is not None
    assert found.break_even.shared_core_seconds == 20.5


def test_assumptions_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    with pytest.raises(RunError, match="watts_per_core is -1"):
        ledger(run, watts_per_core=-1.0)
    with pytest.raises(RunError, match="watts_per_gpu is inf"):
        ledger(run, watts_per_gpu=float("inf"))
    with pytest.raises(RunError, match="epochs_alone is 0"):
        ledger(run, epochs_alone=0)
