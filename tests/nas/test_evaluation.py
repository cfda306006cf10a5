"""Judging subnets: intervals, recalibration, accuracy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nas.data import DataSplits
from nas.evaluation import Accuracy, SubnetJudge, accuracy_row, count_correct, recalibrate
from searchspaces import Architecture
from tests.nas.tiny_run import SPACE, TinyRun, make_judge


@pytest.fixture(scope="module")
def judge(trained: TinyRun, data: DataSplits) -> SubnetJudge:
    return make_judge(trained.supernet(), data)


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def statistics(network: nn.Module) -> list[torch.Tensor]:
    found = []
    for norm in batch_norms(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found += [norm.running_mean.clone(), norm.running_var.clone()]
    return found


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [
        # (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n) with z = 1.959963984540054, in 30 digits
        (8, 10, 0.4901624715, 0.9433178485),
        (0, 10, 0.0, 0.2775327999),
        (10, 10, 0.7224672001, 1.0),
        (95, 100, 0.8882495308, 0.9784563208),
        (1, 2, 0.0945312057, 0.9054687943),
    ],
)
def test_the_interval_is_wilsons(correct: int, images: int, low: float, high: float) -> None:
    interval = Accuracy(num_correct=correct, num_images=images).interval
    assert interval == pytest.approx((low, high), abs=1e-9)


def test_another_level_widens_the_interval() -> None:
    accuracy = Accuracy(num_correct=8, num_images=10, level=0.99)
    assert accuracy.interval == pytest.approx((0.4008186965, 0.9598688475), abs=1e-9)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_value_and_mirrors(counts: tuple[int, int]) -> None:
    correct, images = counts
    accuracy = Accuracy(num_correct=correct, num_images=images)
    low, high = accuracy.interval
    assert 0.0 <= low <= accuracy.value + 1e-12
    assert accuracy.value - 1e-12 <= high <= 1.0
    mirrored = Accuracy(num_correct=images - correct, num_images=images).interval
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_row_of_an_accuracy_has_value_counts_and_interval() -> None:
    row = accuracy_row(Accuracy(num_correct=8, num_images=10))
    assert row["accuracy"] == 0.8
    assert (row["num_correct"], row["num_images"]) == (8, 10)
    assert row["accuracy_low"] < 0.8 < row["accuracy_high"]


def test_recalibration_averages_batch_means_and_biased_variances_by_hand() -> None:
    torch.manual_seed(3)
    first = nn.Conv2d(1, 4, 3, bias=False)
    network = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3))
    batches = [5.0 + 2.0 * torch.randn(8, 1, 7, 7), torch.randn(3, 1, 7, 7)]
    with torch.no_grad():
        recalibrate(network, batches)
        inputs = [first(x_NCHW) for x_NCHW in batches]
        means = [y.mean(dim=(0, 2, 3)) for y in inputs]
        variances = [y.var(dim=(0, 2, 3), unbiased=False) for y in inputs]
        # the second layer sees what the first one makes of each batch with that batch's own statistics
        normal = [
            (y - m[:, None, None]) / torch.sqrt(v[:, None, None] + 1e-5)
            for y, m, v in zip(inputs, means, variances, strict=True)
        ]
        deeper = [network[3](y.relu()) for y in normal]
    outer, inner = batch_norms(network)[0], batch_norms(network)[1]
    torch.testing.assert_close(outer.running_mean, (8 * means[0] + 3 * means[1]) / 11)
    torch.testing.assert_close(outer.running_var, (8 * variances[0] + 3 * variances[1]) / 11)
    means = [y.mean(dim=(0, 2, 3)) for y in deeper]
    variances = [y.var(dim=(0, 2, 3), unbiased=False) for y in deeper]
    torch.testing.assert_close(inner.running_mean, (8 * means[0] + 3 * means[1]) / 11)
    torch.testing.assert_close(inner.running_var, (8 * variances[0] + 3 * variances[1]) / 11)


def test_recalibration_restores_an_accuracy_that_was_destroyed(judge: SubnetJudge) -> None:
    resolution = SPACE.resolution(SPACE.largest)
    network = judge.network(SPACE.largest)
    good = judge.score_network(network, resolution=resolution)
    assert good.value > 0.3
    for norm in batch_norms(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.fill_(50.0)
        norm.running_var.fill_(1e-4)
    ruined = judge.score_network(network, resolution=resolution)
    assert ruined.value < 0.2
    recalibrate(network, judge.recalibration_batches(resolution))
    assert judge.score_network(network, resolution=resolution) == good


def test_recalibration_leaves_weights_momentum_and_hooks_alone(judge: SubnetJudge) -> None:
    network = judge.network(SPACE.smallest)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    recalibrate(network, judge.recalibration_batches(SPACE.resolution(SPACE.smallest)))
    assert not any(module.training for module in network.modules())
    assert {norm.momentum for norm in batch_norms(network)} == {0.1}
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    settled = statistics(network)
    network(torch.randn(4, 1, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(settled, statistics(network), strict=True))


def test_a_failed_recalibration_leaves_the_network_in_eval_mode(judge: SubnetJudge) -> None:
    network = judge.network(SPACE.smallest)
    with pytest.raises(RuntimeError):
        recalibrate(network, [torch.randn(4, 1, 8, 8), torch.randn(4, 3, 8, 8)])
    assert not any(module.training for module in network.modules())
    assert {norm.momentum for norm in batch_norms(network)} == {0.1}


def test_a_network_without_norms_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    recalibrate(network, [torch.randn(3, 1, 2, 2)])
    assert not network.training


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
    assert judge.judge([SPACE.largest])[0].num_correct == alone.num_correct


def test_the_order_of_judging_does_not_matter(judge: SubnetJudge, trained: TinyRun, data: DataSplits) -> None:
    archs = [SPACE.largest, SPACE.smallest, middle_architecture()]
    forwards = {score.arch_id: score.num_correct for score in judge.judge(archs)}
    another = make_judge(trained.supernet(), data)
    backwards = {score.arch_id: score.num_correct for score in another.judge(archs[::-1])}
    assert backwards == forwards
    assert len(forwards) == 3


def middle_architecture() -> Architecture:
    return SPACE.architecture({**dict(SPACE.smallest.genes), "resolution": 12, "stage2.block1.kernel": 5})


def test_a_score_is_the_count_of_the_extracted_network_on_the_search_split(
    judge: SubnetJudge, data: DataSplits
) -> None:
    arch = SPACE.largest
    network = judge.network(arch)
    x_NCHW = data.preprocessing.prepare(data.search.images_NCHW, resolution=SPACE.resolution(arch))
    with torch.no_grad():
        expected = int((network(x_NCHW).argmax(dim=1) == data.search.labels_N).sum())
    score = judge.judge([arch])[0]
    assert (score.num_correct, score.num_images) == (expected, len(data.search))
    assert score.seconds > 0


def test_recalibration_uses_training_images_only_and_always_the_same(
    judge: SubnetJudge, trained: TinyRun, data: DataSplits
) -> None:
    batches = judge.recalibration_batches(8)
    assert sum(len(x_NCHW) for x_NCHW in batches) == 128
    train_NCHW = data.preprocessing.prepare(data.train.images_NCHW, resolution=8)
    seen = {image.numpy().tobytes() for image in train_NCHW}
    assert all(image.numpy().tobytes() in seen for x_NCHW in batches for image in x_NCHW.contiguous())
    again = make_judge(trained.supernet(), data).recalibration_batches(8)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_correct_predictions_are_counted_over_batches_of_any_size(data: DataSplits) -> None:
    def always_three(x_NCHW: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(torch.full((len(x_NCHW),), 3), 10)

    expected = int((data.search.labels_N == 3).sum())
    assert expected > 0
    for batch in (1, 7, 400, 1000):
        assert count_correct(always_three, data.search, batch=batch) == expected
