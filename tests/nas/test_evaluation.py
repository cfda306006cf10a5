"""Judging subnets: what is judged on what, and that nothing else has a part in it."""

import threading
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nas import evaluation
from nas.accuracy import Accuracy
from nas.data import DataSplits, Examples
from nas.evaluation import SubnetJudge, batch_size
from nas.recalibration import recalibrate
from nas.search.pool import SubnetScore
from nas.search.stopping import Rival, Stopping, pack_answers, unpack_answers
from nas.training.augmentation import augment
from searchspaces import Architecture
from tests.nas.test_recalibration import batch_norms, statistics
from tests.nas.tiny_run import SEED, SPACE, TinyRun, make_judge


@pytest.fixture(scope="module")
def judge(trained: TinyRun, data: DataSplits) -> SubnetJudge:
    return make_judge(trained.supernet(), data)


def test_recalibration_restores_an_accuracy_that_was_destroyed(judge: SubnetJudge) -> None:
    shape = SPACE.input_shape(SPACE.largest)
    network = judge.network(SPACE.largest)
    good = judge.score_network(network, shape=shape)
    assert good.value > 0.3
    for norm in batch_norms(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.fill_(50.0)
        norm.running_var.fill_(1e-4)
    ruined = judge.score_network(network, shape=shape)
    assert ruined.value < 0.2
    recalibrate(network, judge.recalibration_batches(shape))
    assert judge.score_network(network, shape=shape) == good


def test_recalibration_leaves_weights_momentum_and_hooks_alone(judge: SubnetJudge) -> None:
    network = judge.network(SPACE.smallest)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    recalibrate(network, judge.recalibration_batches(SPACE.input_shape(SPACE.smallest)))
    assert not any(module.training for module in network.modules())
    assert {norm.momentum for norm in batch_norms(network)} == {0.1}
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    settled = statistics(network)
    network(torch.randn(4, 1, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(settled, statistics(network), strict=True))


def test_a_failed_recalibration_leaves_the_network_in_eval_mode(judge: SubnetJudge) -> None:
    network = judge.network(SPACE.smallest)
    before = statistics(network)
    with pytest.raises(RuntimeError):
        recalibrate(network, [torch.randn(4, 1, 8, 8), torch.randn(4, 3, 8, 8)])
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(network), strict=True))
    assert not any(module.training for module in network.modules())
    assert {norm.momentum for norm in batch_norms(network)} == {0.1}


def test_judging_one_subnet_leaves_the_others_and_the_supernet_alone(trained: TinyRun, data: DataSplits) -> None:
    supernet = trained.supernet()
    state = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    judge = make_judge(supernet, data)
    kept = judge.network(SPACE.largest)
    before = statistics(kept)
    alone = judge.judge([SPACE.largest])[0]
    judge.judge([SPACE.smallest])
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(kept), strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in supernet.state_dict().items())
    assert judge.judge([SPACE.largest])[0].accuracy == alone.accuracy


def test_the_order_of_judging_does_not_matter(judge: SubnetJudge, trained: TinyRun, data: DataSplits) -> None:
    archs = [SPACE.largest, SPACE.smallest, middle_architecture()]
    forwards = {score.arch_id: score.accuracy for score in judge.judge(archs)}
    another = make_judge(trained.supernet(), data)
    backwards = {score.arch_id: score.accuracy for score in another.judge(archs[::-1])}
    assert backwards == forwards
    assert len(forwards) == 3


def middle_architecture() -> Architecture:
    return SPACE.architecture({**dict(SPACE.smallest.genes), "resolution": 12, "stage2.block1.kernel": 5})


def test_a_score_is_the_count_of_the_extracted_network_on_the_search_split(
    judge: SubnetJudge, data: DataSplits
) -> None:
    arch = SPACE.largest
    network = judge.network(arch)
    x_NCHW = data.preprocessing.prepare(data.search.inputs, shape=SPACE.input_shape(arch))
    with torch.no_grad():
        expected = int((network(x_NCHW).argmax(dim=1) == data.search.labels_N).sum())
    score = judge.judge([arch])[0]
    assert (score.accuracy.num_correct, score.accuracy.num_images) == (expected, len(data.search))
    assert score.seconds > 0


def test_recalibration_uses_augmented_training_images_and_always_the_same(
    judge: SubnetJudge, trained: TinyRun, data: DataSplits
) -> None:
    shape = (1, 8, 8)
    batches = list(judge.recalibration_batches(shape))
    again = list(make_judge(trained.supernet(), data).recalibration_batches(shape))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))

    plain = replace(data, augmentation="none")
    still = list(make_judge(trained.supernet(), plain).recalibration_batches(shape))
    train_NCHW = data.preprocessing.prepare(data.train.inputs, shape=shape)
    seen = {image.contiguous().numpy().tobytes() for image in train_NCHW}
    assert all(image.contiguous().numpy().tobytes() in seen for x_NCHW in still for image in x_NCHW)
    assert data.augmentation == "shift"
    moved = [image.contiguous().numpy().tobytes() not in seen for x_NCHW in batches for image in x_NCHW]
    assert sum(moved) > len(moved) / 2


def test_recalibration_images_come_in_batches_of_200(trained: TinyRun, data: DataSplits) -> None:
    judge = SubnetJudge(trained.supernet(), data=data, recalibration_images=450, seed=SEED)
    for resolution in (8, 12):
        batches = list(judge.recalibration_batches((1, resolution, resolution)))
        assert [tuple(x_NCHW.shape) for x_NCHW in batches] == [(n, 1, resolution, resolution) for n in (200, 200, 50)]


def test_recalibration_images_are_augmented_when_used_and_the_same_whether_kept_or_not(
    trained: TinyRun, data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SubnetJudge(trained.supernet(), data=data, recalibration_images=450, seed=SEED)
    order = np.random.default_rng((SEED, 4)).permutation(len(data.train))[:450]
    chosen = data.train.inputs[torch.from_numpy(order)].split(200)
    expected = [augment(x, name=data.augmentation, seed=SEED, step=n, rank=0) for n, x in enumerate(chosen)]
    for _ in range(2):
        assert all(map(torch.equal, expected, judge.augmented_batches()))
    shape = (1, 12, 12)
    prepared = [data.preprocessing.batch(x, shape=shape) for x in expected]
    kept = list(judge.recalibration_batches(shape))
    monkeypatch.setattr(evaluation, "_MOST_BYTES", 0)
    anew = list(judge.recalibration_batches(shape))
    for batches in (kept, anew):
        assert len(batches) == 3
        assert all(map(torch.equal, prepared, batches))
        assert all(a.stride() == b.stride() for a, b in zip(prepared, batches, strict=True))


def test_judging_against_a_rival_ends_early_and_counts_what_was_judged(judge: SubnetJudge, data: DataSplits) -> None:
    arch, num_images = SPACE.smallest, len(data.search)
    (whole,) = judge.judge([arch], stopping=Stopping(confidence=0.95, rivals=(None,)))
    (alone,) = judge.judge([arch])
    # the same images in another order
    assert whole.accuracy == alone.accuracy
    assert alone.answers is None
    assert whole.stopped is None
    assert whole.answers is not None
    answers_N = unpack_answers(whole.answers, num_images=num_images)
    assert answers_N.sum() == whole.accuracy.num_correct

    perfect = Rival(arch_id="perfect", answers=pack_answers(np.ones(num_images, dtype=np.bool_)))
    short, equal = judge.judge([arch, arch], stopping=Stopping(confidence=0.95, rivals=(perfect, own_rival(whole))))
    assert short.stopped is not None
    assert (short.stopped.rival, short.stopped.of_images) == ("perfect", num_images)
    assert short.answers is None
    assert short.accuracy.num_images < num_images / 2
    assert short.accuracy.num_correct == answers_N[: short.accuracy.num_images].sum()
    assert equal.accuracy == whole.accuracy
    assert equal.answers == whole.answers


def own_rival(score: SubnetScore) -> Rival:
    assert score.answers is not None
    return Rival(arch_id=score.arch_id, answers=score.answers)


def test_a_device_that_classifies_is_left_as_soon_as_a_candidate_is_beaten(trained: TinyRun, data: DataSplits) -> None:
    judged, closed = [], []

    def wrong(network: torch.nn.Module, *, shape: tuple[int, ...], images: Examples) -> Generator[NDArray[np.int64]]:
        try:
            for labels_n in images.labels_N.split(50):
                judged.append(len(labels_n))
                yield (labels_n.numpy() + 1) % data.num_classes
        finally:
            closed.append(True)

    judge = SubnetJudge(trained.supernet(), data=data, recalibration_images=128, seed=SEED, classify=wrong)
    assert judge.judge([SPACE.smallest])[0].accuracy.num_correct == 0
    assert sum(judged) == len(data.search)
    judged.clear()
    perfect = Rival(arch_id="perfect", answers=pack_answers(np.ones(len(data.search), dtype=np.bool_)))
    (score,) = judge.judge([SPACE.smallest], stopping=Stopping(confidence=0.95, rivals=(perfect,)))
    assert sum(judged) == score.accuracy.num_images < len(data.search) / 2
    assert len(closed) == 2


def test_two_threads_judge_as_one_does(judge: SubnetJudge, trained: TinyRun, data: DataSplits) -> None:
    archs = [SPACE.largest, SPACE.smallest, middle_architecture()]
    expected = [score.accuracy for score in judge.judge(archs)]
    shared = make_judge(trained.supernet(), data)
    found: dict[int, list[Accuracy]] = {}

    def work(turn: int) -> None:
        order = archs[turn:] + archs[:turn]
        scores = {score.arch_id: score.accuracy for score in shared.judge(order)}
        found[turn] = [scores[arch.arch_id] for arch in archs]

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(3), expected)


def test_prepared_images_that_do_not_fit_in_memory_are_prepared_anew(
    trained: TinyRun, data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = [SPACE.largest, SPACE.smallest]
    expected = [score.accuracy for score in make_judge(trained.supernet(), data).judge(archs)]
    one_resolution = len(data.search) * 12 * 12 * 4
    for limit in (one_resolution, 1000):
        monkeypatch.setattr(evaluation, "_MOST_BYTES", limit)
        judge = make_judge(trained.supernet(), data)
        assert [score.accuracy for score in judge.judge(archs + archs)] == expected * 2


def test_batches_shrink_with_the_images_and_never_vanish() -> None:
    assert batch_size((1, 28, 28)) == batch_size((6, 100)) == 128
    assert batch_size((3, 64, 64)) == 32
    assert batch_size((3, 224, 224)) == 8
