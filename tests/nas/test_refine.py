"""Fine-tuning: which candidates, how it resumes, what it refuses."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardware.errors import StorageError
from nas.accuracy import Accuracy
from nas.data import DataSplits
from nas.errors import CheckpointError, TrainingError
from nas.evaluation import SubnetJudge
from nas.refine import FineTuning, RefineSettings, choose_for_refinement, read_refined
from nas.training.settings import OptimizerName
from searchspaces import Architecture
from tests.nas.tiny_run import REFINE, SPACE, TinyRun, ignore, make_judge

ARCH = SPACE.architecture({**dict(SPACE.largest.genes), "resolution": 8, "stage1.depth": 1})

Tune = Callable[..., FineTuning]


@pytest.fixture(scope="module")
def judge(trained: TinyRun, data: DataSplits) -> SubnetJudge:
    return make_judge(trained.supernet(), data)


@pytest.fixture
def small_data(data: DataSplits) -> DataSplits:
    """The first 96 training images."""
    return replace(data, train=data.train.first(96))


@pytest.fixture
def tune(judge: SubnetJudge, small_data: DataSplits, run_copy: TinyRun) -> Tune:
    def make(settings: RefineSettings = REFINE, data: DataSplits = small_data) -> FineTuning:
        return FineTuning(judge=judge, space=SPACE, data=data, store=run_copy.candidates, settings=settings)

    return make


class KillError(Exception):
    """A kill, as near as a test in one process gets."""


def test_candidates_are_spread_over_the_inherited_front(searched: TinyRun) -> None:
    rows = searched.evaluations()
    front = searched.front()
    chosen = choose_for_refinement(rows, device_id="onnxruntime-cpu", num=len(front.points))
    assert {arch.arch_id for arch in chosen} == {point.arch_id for point in front.points}
    assert chosen[0].arch_id == front.points[0].arch_id
    more = choose_for_refinement(rows, device_id="onnxruntime-cpu", num=1000)
    assert [arch.arch_id for arch in more[: len(chosen)]] == [arch.arch_id for arch in chosen]
    assert len({arch.arch_id for arch in more}) == len(more) == rows["arch_id"].nunique()
    assert choose_for_refinement(rows, device_id="toaster", num=3) == []


def test_fine_tuned_rows_do_not_change_the_choice(refined: TinyRun, searched: TinyRun) -> None:
    assert (refined.evaluations()["weights_kind"] == "fine-tuned").sum() == REFINE.candidates
    chosen: list[list[Architecture]] = [
        choose_for_refinement(run.evaluations(), device_id="onnxruntime-cpu", num=4) for run in (refined, searched)
    ]
    assert chosen[0] == chosen[1]


def test_fine_tuning_stores_a_candidate_with_the_accuracy_of_its_weights(
    tune: Tune, judge: SubnetJudge, run_copy: TinyRun, tmp_path: Path
) -> None:
    reports: list[dict[str, float]] = []
    tune().run(ARCH, directory=tmp_path / "refine", on_epoch=reports.append)
    found = read_refined(tmp_path / "refine")
    assert found is not None
    assert found.candidate.weights_kind == "fine-tuned"
    assert found.candidate.architecture == ARCH
    network = run_copy.candidates.load(found.candidate)
    assert judge.score_network(network, shape=SPACE.input_shape(ARCH)) == found.accuracy
    assert [report["epoch"] for report in reports] == [1, 2]
    assert reports[-1]["accuracy"] == found.accuracy.value
    assert list(found.curve) == [report["accuracy"] for report in reports]
    assert Accuracy.from_row({**reports[-1], "metric": "top1"}) == found.accuracy
    assert all(math.isfinite(report["loss"]) for report in reports)
    assert found.seconds > 0


def test_fine_tuning_changes_the_inherited_weights_and_helps_on_the_training_images(
    tune: Tune, judge: SubnetJudge, small_data: DataSplits, run_copy: TinyRun, tmp_path: Path
) -> None:
    def train_loss(network: torch.nn.Module) -> float:
        x_NCHW = small_data.preprocessing.prepare(small_data.train.inputs, shape=SPACE.input_shape(ARCH))
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(network(x_NCHW), small_data.train.labels_N).item()

    tune(replace(REFINE, epochs=6)).run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)
    found = read_refined(tmp_path / "refine")
    assert found is not None
    assert train_loss(run_copy.candidates.load(found.candidate)) < train_loss(judge.network(ARCH))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fine_tuning_goes_on_from_its_checkpoint_to_the_very_same_weights(
    tune: Tune, tmp_path: Path, name: OptimizerName
) -> None:
    settings = replace(REFINE, optimizer=name)
    tune(settings).run(ARCH, directory=tmp_path / "whole", on_epoch=ignore)
    whole = read_refined(tmp_path / "whole")

    def interrupt(report: dict[str, float]) -> None:
        raise KillError

    with pytest.raises(KillError):
        tune(settings).run(ARCH, directory=tmp_path / "parts", on_epoch=interrupt)
    assert read_refined(tmp_path / "parts") is None
    reports: list[dict[str, float]] = []
    tune(settings).run(ARCH, directory=tmp_path / "parts", on_epoch=reports.append)
    assert [report["epoch"] for report in reports] == [2]
    parts = read_refined(tmp_path / "parts")
    assert whole is not None
    assert parts is not None
    assert (parts.candidate, parts.accuracy, parts.curve) == (whole.candidate, whole.accuracy, whole.curve)


def test_a_kill_just_before_the_result_repeats_no_epoch(tune: Tune, tmp_path: Path) -> None:
    tune().run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)
    before = read_refined(tmp_path / "refine")
    (tmp_path / "refine" / "result.json").unlink()
    reports: list[dict[str, float]] = []
    tune().run(ARCH, directory=tmp_path / "refine", on_epoch=reports.append)
    after = read_refined(tmp_path / "refine")
    assert reports == []
    assert before is not None
    assert after is not None
    assert (after.candidate, after.accuracy) == (before.candidate, before.accuracy)


def test_a_checkpoint_of_other_settings_is_refused_with_the_key(tune: Tune, tmp_path: Path) -> None:
    tune(replace(REFINE, epochs=1)).run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)
    with pytest.raises(CheckpointError, match=r"settings\.epochs=1, this run has 2"):
        tune().run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)
    with pytest.raises(CheckpointError, match="architecture="):
        tune(replace(REFINE, epochs=1)).run(SPACE.smallest, directory=tmp_path / "refine", on_epoch=ignore)


def test_a_damaged_checkpoint_is_refused_with_its_file(tune: Tune, tmp_path: Path) -> None:
    tune(replace(REFINE, epochs=1)).run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)
    weights = tmp_path / "refine" / "epoch-0001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=str(weights)):
        tune(replace(REFINE, epochs=1)).run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)


def test_a_loss_that_is_no_number_names_architecture_step_and_way_out(
    tune: Tune, small_data: DataSplits, tmp_path: Path
) -> None:
    images_NCHW = torch.full(small_data.train.inputs.shape, float("nan"))
    spoilt = replace(small_data, train=replace(small_data.train, inputs=images_NCHW))
    with pytest.raises(TrainingError, match=f"{ARCH.arch_id} is nan at step 0") as caught:
        tune(REFINE, spoilt).run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)
    assert "refine.learning_rate (now 0.02)" in caught.value.hint
    assert read_refined(tmp_path / "refine") is None


def test_an_absurd_learning_rate_ends_with_a_training_error(tune: Tune, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is nan at step"):
        tune(replace(REFINE, learning_rate=1e30)).run(ARCH, directory=tmp_path / "refine", on_epoch=ignore)


def test_an_unfinished_directory_has_no_result(tmp_path: Path) -> None:
    assert read_refined(tmp_path) is None
    assert read_refined(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "change",
    [{"accuracy": {}}, {"accuracy": 0.5}, {"candidate": {}}, {"candidate": None}, {"seconds": "soon"}],
)
def test_a_result_that_makes_no_sense_is_refused(refined: TinyRun, tmp_path: Path, change: dict[str, object]) -> None:
    arch_id = choose_for_refinement(refined.evaluations(), device_id="onnxruntime-cpu", num=1)[0].arch_id
    content = json.loads((refined.refine_dir(arch_id) / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(CheckpointError, match=r"result\.json is damaged") as caught:
        read_refined(tmp_path)
    assert "nas refine" in caught.value.hint


def test_a_torn_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"candidate": {')
    with pytest.raises(StorageError, match=r"result\.json"):
        read_refined(tmp_path)
