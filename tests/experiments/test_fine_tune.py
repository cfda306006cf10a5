"""Fine-tuning architectures that somebody asks for, in this process instead of on Ray."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import search_stage, stages
from experiments.pipeline import fine_tune
from experiments.reporter import SilentReporter
from experiments.session import Session
from experiments.workload import load_workload
from nas.errors import CheckpointError, RunError, TrainingError
from nas.search.training import TrainingSearch
from nas.soup import read_soup
from nas.specialize import Specialist
from nas.verify import choose_for_verification
from predictors.scores import LeftOutAccuracies
from searchspaces import Architecture
from tests.experiments.conftest import InProcess
from tests.experiments.small_session import give_weights, open_untrained
from tests.fakes.reporters import Heard
from tests.nas.tiny_run import ignore


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("experiments.pipeline.connect", lambda *_, **__: nullcontext())
    return open_untrained(tmp_path)


@pytest.fixture
def session(untrained: Session) -> Session:
    """A run with a checkpoint of fresh weights and a predictor that only looks at MACs."""
    give_weights(untrained)
    return untrained


def in_process(
    run_dir: Path, *, jobs: Sequence[tuple[str, Path]], on_result: Callable[[str, dict[str, float]], None], **_: object
) -> dict[str, str | None]:
    workload = load_workload(run_dir)
    for arch, directory in jobs:
        workload.fine_tune(arch, directory=directory, on_epoch=partial(on_result, str(directory)))
    return {}


def answer_first(monkeypatch: pytest.MonkeyPatch, arch: Architecture) -> None:
    """`nas specialize` answers with this one, whatever was evaluated."""
    left_out = LeftOutAccuracies(kendall=0.5, rmse_points=1.0, noise_points=0.5, num=10)
    monkeypatch.setattr("nas.run_accuracy.run_accuracy_predictor", lambda _: SimpleNamespace(left_out=left_out))
    monkeypatch.setattr("nas.specialize.specialize", lambda *_, **__: [first_answer(arch)])


def first_answer(arch: Architecture) -> Specialist:
    return Specialist(
        architecture=arch,
        accuracy=0.5,
        accuracy_interval=(0.4, 0.6),
        latency=1.0,
        latency_interval=(0.9, 1.1),
        unit="ms",
        in_range=True,
        within_limits=True,
        evaluated=None,
        measured=None,
        macs=1,
        params=1,
        peak_memory_bytes=1,
        others={},
    )


def test_an_architecture_that_is_asked_for_is_fine_tuned_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.stages.refine_on_ray", in_process)
    arch = session.run.space.smallest
    fine_tune(session, [arch], reporter=SilentReporter())
    (row,) = session.run.evaluations().to_dict("records")
    assert (row["arch_id"], row["weights_kind"], row["split"]) == (arch.arch_id, "fine-tuned", "search")
    assert (session.run.path / "candidates" / row["candidate_id"]).is_dir()
    (kept,) = session.run.stages_table.read().to_dict("records")
    assert (kept["stage"], kept["ended"]) == ("refine", "done")
    fine_tune(session, [arch], reporter=SilentReporter())
    assert len(session.run.evaluations()) == 1
    assert len(session.run.stages_table) == 1


def test_the_command_fine_tunes_the_first_answer(
    session: Session, monkeypatch: pytest.MonkeyPatch, nas: InProcess
) -> None:
    monkeypatch.setattr("experiments.stages.refine_on_ray", in_process)
    arch = session.run.space.smallest
    answer_first(monkeypatch, arch)
    run = session.run
    document = json.loads(nas("specialize", run.path, "--fine-tune", "--format", "json").out)
    row, added = run.evaluations().to_dict("records")
    assert document["fine_tuned"]["candidate"] == row["candidate_id"]
    assert document["fine_tuned"]["accuracy"] == row["accuracy"]
    # Both are verified, however few others are.
    asked = choose_for_verification(run.evaluations(), space=run.space, device_id=session.device_id, num=0)
    assert {one.candidate_id for one in asked} == {row["candidate_id"], added["candidate_id"]}
    assert (row["weights_kind"], added["weights_kind"]) == ("fine-tuned", "inherited")
    commands = f"nas verify {run.path} && nas export {run.path} --arch {arch.arch_id}"
    assert document["fine_tuned"]["next"] == commands
    table = nas("specialize", run.path, "--fine-tune")
    assert f"fine-tuned {arch.arch_id}" in table.out
    assert "finished before" in table.err
    assert commands in table.err.replace("\n", " ")
    assert len(run.evaluations()) == 2
    elsewhere = nas("specialize", run.path, "--fine-tune", "--device", "torch-cpu", "--format", "json")
    assert f"&& nas verify {run.path} --device torch-cpu &&" in json.loads(elsewhere.out)["fine_tuned"]["next"]


def test_copies_are_averaged_once_and_the_better_mean_is_a_candidate(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.stages.refine_on_ray", in_process)
    run, arch = session.run, session.run.space.smallest
    heard = Heard()
    fine_tune(session, [arch], reporter=heard, copies=3)
    soup = read_soup(run.refine_dir(arch.arch_id))
    assert soup is not None
    rows = run.evaluations()
    tuned = rows[rows["weights_kind"] == "fine-tuned"]
    assert set(tuned["candidate_id"]) == set(soup.copies)
    assert len(soup.copies) == 3
    assert soup.best_copy.value == tuned["accuracy"].max()
    averaged = rows[rows["weights_kind"] == "averaged"]["candidate_id"].tolist()
    assert averaged == ([] if soup.candidate is None else [soup.candidate.candidate_id])
    assert "of 3 copies" in heard.messages[-1]
    fine_tune(session, [arch], reporter=heard, copies=3)
    assert len(run.evaluations()) == len(rows)
    assert read_soup(run.refine_dir(arch.arch_id)) == soup


def test_the_command_says_what_averaging_came_to(
    session: Session, monkeypatch: pytest.MonkeyPatch, nas: InProcess
) -> None:
    monkeypatch.setattr("experiments.stages.refine_on_ray", in_process)
    answer_first(monkeypatch, session.run.space.smallest)
    found = json.loads(nas("specialize", session.run.path, "--fine-tune", "--copies", "2", "--format", "json").out)
    tuned = found["fine_tuned"]
    assert len(tuned["soup"]["copies"]) == 2
    assert tuned["accuracy"] == max(tuned["soup"][name]["accuracy"] for name in ("best_copy", "greedy"))
    assert "2 copies, the best" in nas("specialize", session.run.path, "--fine-tune", "--copies", "2").out
    assert nas("specialize", session.run.path, "--copies", "2").code == 2


def test_trials_that_all_fail_say_why(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: Path, *, jobs: Sequence[tuple[str, Path]], **__: object) -> dict[str, str | None]:
        return {str(directory): "the disk is full" for _, directory in jobs}

    monkeypatch.setattr("experiments.stages.refine_on_ray", failing)
    with pytest.raises(CheckpointError, match="the disk is full"):
        fine_tune(session, [session.run.space.smallest], reporter=SilentReporter())
    assert session.run.evaluations().empty


def test_without_a_supernet_there_is_nothing_to_fine_tune(untrained: Session) -> None:
    with pytest.raises(RunError, match="has 0 of 1 epochs"):
        fine_tune(untrained, [untrained.run.space.smallest], reporter=SilentReporter())


def train_in_process(run_dir: Path, *, search: TrainingSearch, epochs: int, **_: object) -> None:
    workload = load_workload(run_dir)
    while not search.is_over:
        job = search.take()
        assert job is not None
        workload.fine_tune(job.architecture.to_json(), directory=job.directory, on_epoch=ignore, epochs=epochs)
        search.end(job.directory)


def test_a_search_that_trains_its_candidates_records_them_fine_tuned_and_leaves_nothing_to_refine(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.train_candidates.train_on_ray_tune", train_in_process)
    changed = {"candidates": "train", "epochs": 1, "evaluations": 2, "sampler": "random"}
    search = session.recipe.search.model_copy(update=changed)
    session = replace(session, recipe=session.recipe.model_copy(update={"search": search}))

    def run_search() -> bool:
        return search_stage.search(session, cluster=nullcontext, reporter=SilentReporter(), on_rows=ignore)

    assert run_search()
    rows = session.run.evaluations()
    assert set(rows["arch_id"]) == {session.run.space.smallest.arch_id, session.run.space.largest.arch_id}
    assert set(rows["weights_kind"]) == {"fine-tuned"}
    assert (rows["trial_number"] >= 0).all()
    assert not stages.refine(session, cluster=nullcontext, reporter=SilentReporter())
    assert not run_search()
    # A row that a kill prevented is made up for from the candidate's own directory.
    for part in session.run.evaluations_table.directory.iterdir():
        part.unlink()
    assert run_search()
    again = session.run.evaluations()
    assert set(again["candidate_id"]) == set(rows["candidate_id"])


def test_a_gpu_that_torch_cannot_use_is_named_before_anything_is_computed(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    workload = load_workload(session.run.path)
    arch, directory = session.run.space.smallest.to_json(), tmp_path / "candidate"
    with pytest.raises(TrainingError, match="a share of a GPU, but torch finds none") as caught:
        workload.fine_tune(arch, directory=directory, on_epoch=lambda _: None, epochs=1, use_gpu=True)
    assert "search.gpus_per_trial to 0" in caught.value.hint
    assert not directory.exists()
