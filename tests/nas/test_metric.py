"""A run whose metric is macro F1: search, refinement, runtime and front all use it and say so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score

from hardware.device import Device
from nas.accuracy import predict_classes
from nas.data import DataSplits
from nas.evaluation import SubnetJudge
from nas.refine import FineTuning, read_refined
from tests.nas.tiny_run import REFINE, SPACE, TinyRun, make_bench, make_judge, make_point


@pytest.fixture(scope="module")
def macro(data: DataSplits) -> DataSplits:
    return replace(data, metric="macro-f1")


@pytest.fixture(scope="module")
def judge(trained: TinyRun, macro: DataSplits) -> SubnetJudge:
    return make_judge(trained.supernet(), macro)


def test_the_search_judges_by_the_metric_of_the_data(judge: SubnetJudge, macro: DataSplits) -> None:
    arch = SPACE.largest
    x_NCHW = macro.preprocessing.prepare(macro.search.inputs, shape=SPACE.input_shape(arch))
    with torch.no_grad():
        predictions_N = judge.network(arch)(x_NCHW).argmax(dim=1)
    expected = f1_score(macro.search.labels_N, predictions_N, average="macro", zero_division=0)
    found = judge.judge([arch])[0].accuracy
    assert found.metric == "macro-f1"
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.value != found.num_correct / found.num_images


def test_the_runtime_is_scored_by_the_metric_of_the_data(run_copy: TinyRun, macro: DataSplits, device: Device) -> None:
    bench = make_bench(run_copy, data=macro, device=device)
    candidate = bench.inherit(SPACE.smallest)
    found = bench.accuracy(bench.artifact(candidate), macro.verify)
    with torch.no_grad():
        predictions_N = predict_classes(bench.deployable(candidate), macro.verify)
    expected = f1_score(macro.verify.labels_N, predictions_N, average="macro", zero_division=0)
    assert found.metric == "macro-f1"
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_a_fine_tuned_candidate_keeps_its_metric_on_disk(
    judge: SubnetJudge, macro: DataSplits, run_copy: TinyRun, tmp_path: Path
) -> None:
    small = replace(
        macro, train=replace(macro.train, inputs=macro.train.inputs[:64], labels_N=macro.train.labels_N[:64])
    )
    settings = replace(REFINE, epochs=1)
    tuning = FineTuning(judge=judge, space=SPACE, data=small, store=run_copy.candidates, settings=settings)
    told: list[dict[str, float]] = []
    tuning.run(SPACE.smallest, directory=tmp_path, on_epoch=told.append)
    found = read_refined(tmp_path)
    assert found is not None
    assert found.accuracy.metric == "macro-f1"
    assert found.accuracy.value == told[-1]["accuracy"]


def test_a_point_of_the_front_says_its_metric() -> None:
    assert make_point(metric="macro-f1").to_json()["metric"] == "macro-f1"
