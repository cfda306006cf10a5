"""What the tracker shows while stages run and how they end, whatever becomes of the tracker."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import pipeline
from experiments.pipeline import Outcome, _Mirror, reaching_device, run_stages
from experiments.recipe import DeviceSettings, load_recipe
from experiments.session import Session, open_session
from nas.errors import RunError, TrainingError
from nas.tracking import MemoryTracker, RunView, Tracker
from nas.training.history import TrainHistory
from tests.fakes.reporters import Heard
from tests.fakes.trackers import FlakyTracker

RECIPE = """
name: small
data: {dataset: digits, search: 300, verify: 400, report: 300}
space: {name: mbconv-small, settings: {resolutions: [8, 12], width: 0.25, stem_stride: 1}}
"""

Training = Callable[[TrainHistory], None]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.setattr(pipeline, "_SYNC_SECONDS", 0.01)
    monkeypatch.setattr(pipeline, "_LARGEST_SHARE", 1.0)
    return open_session(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")


@pytest.fixture
def train(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs the stage `train` on workers that do what they are told, without Ray."""
    monkeypatch.setattr("experiments.pipeline.connect", lambda *_, **__: nullcontext())

    def run(training: Training, *, tracker: Tracker, reporter: Heard | None = None) -> Outcome:
        def train_on_ray(run_dir: Path, **_: object) -> None:
            training(TrainHistory(run_dir / "train" / "history.jsonl"))

        monkeypatch.setattr("experiments.stages.train_on_ray", train_on_ray)
        return run_stages(session, names=["train"], reporter=reporter or Heard(), tracker=tracker)

    return run


def row(step: int) -> dict[str, float]:
    return {"step": step, "num_steps": 9, "phase": 1, "epoch": 1, "loss": 1.0 / step, "rollbacks": 0,
            "images_per_second": 1.0, "eta_seconds": 1.0}  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for 20 s"
        time.sleep(0.005)


def test_the_tracker_shows_the_training_while_it_runs(session: Session, train: Callable[..., Outcome]) -> None:
    tracker = MemoryTracker()
    run_id = session.run.info.run_id

    def training(history: TrainHistory) -> None:
        assert tracker.views[run_id].status == "running"
        for step in (1, 2):
            history.append(row(step))
            wait_for(lambda step=step: len(tracker.views[run_id].history) == step)  # type: ignore[misc]

    assert train(training, tracker=tracker).tracked
    view = tracker.views[run_id]
    assert (view.status, view.error, len(view.history)) == ("running", None, 2)


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (TrainingError("the loss is nan", hint="lower train.learning_rate"), "failed", "the loss is nan"),
        (KeyError("stage1.depth"), "failed", "KeyError: 'stage1.depth'"),
        (KeyboardInterrupt(), "killed", None),
    ],
)
def test_a_training_that_did_not_reach_its_end_is_shown_as_such_with_all_its_rows(
    session: Session, train: Callable[..., Outcome], error: BaseException, status: str, shown: str | None
) -> None:
    tracker = MemoryTracker()

    def training(history: TrainHistory) -> None:
        for step in (1, 2, 3):
            history.append(row(step))
        raise error

    with pytest.raises(type(error)) as caught:
        train(training, tracker=tracker)
    assert caught.value is error
    view = tracker.views[session.run.info.run_id]
    assert (view.status, view.error, len(view.history)) == (status, shown, 3)
    train(lambda history: history.append(row(4)), tracker=tracker)
    view = tracker.views[session.run.info.run_id]
    assert (view.status, view.error, len(view.history)) == ("running", None, 4)


def test_a_stage_that_cannot_begin_changes_nothing_in_the_tracker(session: Session) -> None:
    tracker = MemoryTracker()
    with pytest.raises(RunError, match="has 0 of"):
        run_stages(session, names=["search"], reporter=Heard(), tracker=tracker)
    assert not tracker.views


def test_a_tracker_that_is_down_is_told_once_and_training_goes_on(train: Callable[..., Outcome]) -> None:
    tracker, heard = FlakyTracker(MemoryTracker(), broken=True), Heard()

    def training(history: TrainHistory) -> None:
        history.append(row(1))
        wait_for(lambda: len(tracker.calls) > 3)

    assert not train(training, tracker=tracker, reporter=heard).tracked
    assert len(heard.messages) == 1
    assert "tracker is switched off" in heard.messages[0]
    assert "nas sync" in heard.messages[0]


def test_a_tracker_that_comes_back_shows_everything(session: Session, train: Callable[..., Outcome]) -> None:
    inner = MemoryTracker()
    tracker = FlakyTracker(inner, broken=True)

    def training(history: TrainHistory) -> None:
        history.append(row(1))
        tracker.broken = False
        wait_for(lambda: session.run.info.run_id in inner.views)

    assert train(training, tracker=tracker).tracked


def test_the_trainings_own_error_is_raised_when_the_tracker_fails_too(train: Callable[..., Outcome]) -> None:
    def training(_: TrainHistory) -> None:
        raise TrainingError("the loss is nan", hint="lower train.learning_rate")

    with pytest.raises(TrainingError, match="the loss is nan"):
        train(training, tracker=FlakyTracker(MemoryTracker(), broken=True))


@pytest.mark.parametrize(
    ("error", "ended"),
    [(None, "done"), (TrainingError("nan", hint="lower it"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_what_a_stage_took_is_kept_however_it_ends(
    session: Session,
    train: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
    ended: str,
) -> None:
    monkeypatch.setattr("experiments.stage_costs.LEAST_SECONDS", 0.0)

    def training(history: TrainHistory) -> None:
        history.append(row(1))
        if error is not None:
            raise error

    with nullcontext() if error is None else pytest.raises(type(error)):
        train(training, tracker=MemoryTracker())
    (kept,) = session.run.stages_table.read().to_dict("records")
    assert (kept["stage"], kept["ended"], kept["cores"], kept["gpus"]) == ("train", ended, 2, 0)
    assert kept["seconds"] > 0


def test_a_stage_that_had_nothing_to_do_is_not_kept(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.stages.profile", lambda *_, **__: False)
    run_stages(session, names=["profile"], reporter=Heard(), tracker=MemoryTracker())
    assert len(session.run.stages_table) == 0


class Buggy(MemoryTracker):
    """Raises what no tracker should raise."""

    def sync(self, view: RunView) -> None:
        if not view.artifacts:
            raise ZeroDivisionError("division by zero")
        super().sync(view)


def test_a_bug_in_live_tracking_does_not_end_the_training(train: Callable[..., Outcome]) -> None:
    heard = Heard()
    assert train(lambda history: history.append(row(1)), tracker=Buggy(), reporter=heard).tracked
    assert "ZeroDivisionError: division by zero" in heard.messages[0]


class Hanging(MemoryTracker):
    """Answers once, then not before it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.released = threading.Event(), threading.Event()

    def sync(self, view: RunView) -> None:
        if self.views:
            self.hangs.set()
            self.released.wait(20)
        super().sync(view)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    tracker = Hanging()
    yield tracker
    tracker.released.set()


def test_a_tracker_that_hangs_is_not_waited_for(
    train: Callable[..., Outcome], hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_PATIENCE_SECONDS", 0.05)
    heard = Heard()

    def training(history: TrainHistory) -> None:
        history.append(row(1))
        assert hanging.hangs.wait(20)

    assert not train(training, tracker=hanging, reporter=heard).tracked
    assert not hanging.released.is_set()
    assert "has not answered" in heard.messages[0]


def test_a_slow_first_sync_does_not_put_off_the_next_one(
    session: Session, train: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It imports MLflow and makes its tables."""
    monkeypatch.setattr(pipeline, "_LARGEST_SHARE", 1e-9)
    tracker = MemoryTracker()

    def training(history: TrainHistory) -> None:
        history.append(row(1))
        wait_for(lambda: bool(tracker.views[session.run.info.run_id].history))

    assert train(training, tracker=tracker).tracked


class SlowTracker(MemoryTracker):
    """Every sync takes two seconds of a clock that is moved by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.num_syncs = 100.0, 0

    def sync(self, view: RunView) -> None:
        self.now += 2.0
        self.num_syncs += 1
        super().sync(view)


def test_syncs_are_rarer_the_longer_they_take(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = SlowTracker()
    monkeypatch.setattr("experiments.pipeline.time.monotonic", lambda: tracker.now)
    monkeypatch.setattr(pipeline, "_SYNC_SECONDS", 15.0)
    monkeypatch.setattr(pipeline, "_LARGEST_SHARE", 0.05)
    mirror = _Mirror(session, tracker=tracker, reporter=Heard())
    seen = []
    for _ in range(100):
        tracker.now += 1.0
        mirror.sync_now_and_then()
        seen.append(tracker.num_syncs)
    # The first after 15 s, the others 40 s after the one before.
    assert [seen.index(num) + 1 for num in (1, 2, 3)] == [16, 57, 98]


def test_a_cluster_is_connected_at_once_only_where_the_device_is(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices.yaml").write_text(
        'devices:\n  - {id: far, backend: onnxruntime-cpu, where: {ray: {resource: "device:far"}}}\n', encoding="utf-8"
    )
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(tmp_path / "devices.yaml"))
    connected: list[str] = []

    def connect(address: str) -> AbstractContextManager[None]:
        connected.append(address)
        return nullcontext()

    monkeypatch.setattr("experiments.pipeline.connect", connect)
    here = session.recipe
    far = here.model_copy(update={"device": here.device.model_copy(update={"id": "far"})})
    for recipe, address, left in ((here, "head:6379", "head:6379"), (far, None, None), (far, "head:6379", None)):
        with reaching_device(recipe, address=address) as found:
            assert found == left
    assert connected == ["head:6379"]


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, ["onnxruntime-cpu", "torch-cpu"]), ("torch-cpu-int8", ["torch-cpu-int8"])]
)
@pytest.mark.parametrize("name", ["profile", "verify"])
def test_a_stage_goes_to_all_devices_of_the_recipe_or_to_the_one_asked_for(
    session: Session, monkeypatch: pytest.MonkeyPatch, name: str, asked: str | None, expected: list[str]
) -> None:
    seen: list[str] = []

    def stage(one: Session, *, reporter: object) -> bool:
        seen.append(one.device_id)
        return True

    monkeypatch.setattr(f"experiments.stages.{name}", stage)
    more = replace(session, recipe=session.recipe.model_copy(update={"devices": (DeviceSettings(id="torch-cpu"),)}))
    run_stages(more, names=[name], reporter=Heard(), device=asked, tracker=MemoryTracker())
    assert seen == expected


@pytest.mark.parametrize(("candidates", "expected"), [("train", 6), ("inherit", 4)])
def test_an_embedded_cluster_has_room_for_all_trials_of_a_training_search(
    session: Session, monkeypatch: pytest.MonkeyPatch, candidates: str, expected: int
) -> None:
    asked: list[int | None] = []

    def connect(_: str | None, *, num_cpus: int | None) -> AbstractContextManager[None]:
        asked.append(num_cpus)
        return nullcontext()

    def search(_: Session, *, cluster: Callable[[], object], **__: object) -> bool:
        cluster()
        return False

    monkeypatch.setattr("experiments.pipeline.connect", connect)
    monkeypatch.setattr("experiments.search_stage.search", search)
    changes = {
        "train": {"workers": 1, "threads_per_worker": 1},
        "search": {"candidates": candidates, "workers": 2, "cpus_per_trial": 3},
        "refine": {"workers": 4},
    }
    sections = {name: getattr(session.recipe, name).model_copy(update=change) for name, change in changes.items()}
    more = replace(session, recipe=session.recipe.model_copy(update=sections))
    run_stages(more, names=["search"], reporter=Heard(), tracker=MemoryTracker())
    assert asked == [expected]
