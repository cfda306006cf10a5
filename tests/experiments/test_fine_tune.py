"""Fine-tuning architectures that somebody asks for, in this process instead of on Ray."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import stages
from experiments.pipeline import fine_tune
from experiments.recipe import load_recipe
from experiments.reporter import SilentReporter
from experiments.session import Session, open_session
from experiments.workload import load_workload
from hardware.cost import analytic_costs
from nas.errors import CheckpointError, RunError
from nas.search.training import TrainingSearch
from nas.specialize import Specialist
from nas.training.checkpoints import Checkpoint, save_checkpoint
from predictors import fit_latency_predictor
from tests.experiments.conftest import InProcess
from tests.nas.tiny_run import ignore

RECIPE = """
name: small
data: {dataset: digits, search: 300, verify: 400, report: 300}
space: {name: mbconv-small, settings: {resolutions: [8, 12], width: 0.25, stem_stride: 1}}
train: {epochs: 1, recalibration_images: 100}
refine: {epochs: 1}
"""


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("experiments.pipeline.connect", lambda *_, **__: nullcontext())
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return open_session(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")


@pytest.fixture
def session(untrained: Session) -> Session:
    """A run with a checkpoint of fresh weights and a predictor that only looks at MACs."""
    run = untrained.run
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = run.space.build_supernet(num_classes=10).state_dict()
    save_checkpoint(
        run.train_dir / "checkpoints",
        Checkpoint(epoch=1, step=1, weights=weights, optimizer={}, details={"space_id": run.space.space_id}),
    )
    genomes_NG = np.unique(run.space.sample_many(20, np.random.default_rng(0)), axis=0)
    macs_N = analytic_costs(run.space.op_table(genomes_NG)).macs_N
    archs = [arch.to_json() for arch in run.space.architectures(genomes_NG)]
    table = pd.DataFrame({"architecture": archs, "latency_ms": 0.01 + 1e-7 * macs_N})
    fit_latency_predictor(table, space=run.space, device_id="onnxruntime-cpu").save(
        run.predictor_dir("onnxruntime-cpu")
    )
    return untrained


def in_process(
    run_dir: Path, *, jobs: Sequence[tuple[str, Path]], on_result: Callable[[str, dict[str, float]], None], **_: object
) -> dict[str, str | None]:
    workload = load_workload(run_dir)
    for arch, directory in jobs:
        workload.fine_tune(arch, directory=directory, on_epoch=partial(on_result, str(directory)))
    return {}


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
    first = Specialist(
        architecture=arch,
        accuracy=0.5,
        accuracy_interval=(0.4, 0.6),
        latency=1.0,
        latency_interval=(0.9, 1.1),
        unit="ms",
        in_range=True,
        within_limits=True,
        evaluated=None,
        macs=1,
        params=1,
        peak_memory_bytes=1,
        others={},
    )
    monkeypatch.setattr("nas.specialize.specialize", lambda *_, **__: [first])
    document = json.loads(nas("specialize", session.run.path, "--fine-tune", "--format", "json").out)
    (row,) = session.run.evaluations().to_dict("records")
    assert document["fine_tuned"]["candidate"] == row["candidate_id"]
    assert document["fine_tuned"]["accuracy"] == row["accuracy"]
    table = nas("specialize", session.run.path, "--fine-tune")
    assert f"fine-tuned {arch.arch_id}" in table.out
    assert "finished before" in table.err


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
        return stages.search(session, cluster=nullcontext, reporter=SilentReporter(), on_rows=ignore)

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
