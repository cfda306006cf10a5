"""The rows of the training history."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas.training.history import TrainHistory
from nas.training.phases import phases_of
from nas.training.progress import ProgressLog
from tests.nas.training.gloo_child import PROGRESSIVE, SMALL

PHASES = phases_of(SMALL, PROGRESSIVE)
STEPS = 10  # an epoch


class Watch:
    """`time.perf_counter` by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("nas.training.progress.time.perf_counter", lambda: self.now)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def make_log(path: Path) -> tuple[ProgressLog, TrainHistory]:
    history = TrainHistory(path / "history.jsonl")
    return ProgressLog(history, phases=PHASES, steps_an_epoch=STEPS, batch_size=16), history


def test_a_row_is_due_at_once_and_then_every_second(tmp_path: Path, watch: Watch) -> None:
    log, _ = make_log(tmp_path)
    assert log.is_due()
    log.write(step=1, index=0, values={})
    watch.now += 0.9
    assert not log.is_due()
    watch.now += 0.2
    assert log.is_due()


def test_the_extremes_are_looked_at_with_the_first_row_and_then_every_ten_seconds(tmp_path: Path, watch: Watch) -> None:
    log, _ = make_log(tmp_path)
    assert log.wants_extremes()
    log.write(step=1, index=0, values={})
    watch.now += 9.0
    assert log.is_due()
    assert not log.wants_extremes()
    watch.now += 2.0
    assert log.wants_extremes()


def test_the_speed_is_that_since_the_last_row(tmp_path: Path, watch: Watch) -> None:
    log, history = make_log(tmp_path)
    for step, seconds in ((1, 2.0), (2, 0.5)):
        log.count(PHASES[0])
        watch.now += seconds
        log.write(step=step, index=0, values={"loss": 1.5})
    assert [row["images_per_second"] for row in history.rows()] == [8.0, 32.0]
    assert history.rows()[1]["loss"] == 1.5


def test_the_time_left_counts_the_subnets_of_the_phases_to_come(tmp_path: Path, watch: Watch) -> None:
    """A second a forward and backward pass: the estimate must be right from the first step on."""
    log, history = make_log(tmp_path)
    left = sum(phase.passes * phase.epochs * STEPS for phase in PHASES)
    step = 0
    for index, phase in enumerate(PHASES):
        for _ in range(phase.epochs * STEPS):
            log.count(phase)
            watch.now += phase.passes
            left -= phase.passes
            step += 1
            log.write(step=step, index=index, values={})
            assert history.rows()[-1]["eta_seconds"] == pytest.approx(left, abs=1e-6)
    row = history.rows()[-1]
    assert (row["step"], row["num_steps"], row["epoch"], row["phase"]) == (50, 50, 5, 4)
    assert history.rows()[10]["epoch"] == 2


def test_a_row_says_how_busy_the_machine_is(tmp_path: Path) -> None:
    log, history = make_log(tmp_path)
    log.write(step=1, index=0, values={})
    row = history.rows()[0]
    assert 0 <= row["system/cpu_utilization_percentage"] <= 100
    assert row["system/system_memory_usage_megabytes"] > 100
    assert row["system/process_memory_usage_megabytes"] > 50
    assert not [name for name in row if "gpu" in name] or torch.cuda.is_initialized()


def fail_like_torch_without_nvml() -> int:
    raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")


@pytest.mark.parametrize(("utilization", "shown"), [(lambda: 37, 37.0), (fail_like_torch_without_nvml, None)])
def test_a_row_says_how_busy_the_gpu_is_where_nvml_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utilization: Callable[[], int], shown: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60_000_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 5_000_000_000)
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    log, history = make_log(tmp_path)
    log.write(step=1, index=0, values={})
    row = history.rows()[0]
    assert row["system/gpu_0_memory_usage_megabytes"] == 20_000
    assert row["system/process_gpu_memory_usage_megabytes"] == 5_000
    assert row.get("system/gpu_0_utilization_percentage") == shown
