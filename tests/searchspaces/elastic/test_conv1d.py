"""The supernet of time series: slicing, kernels, dilations, extraction."""

import numpy as np
import pytest
import torch
from torch import nn

from nas.recalibration import recalibrate
from searchspaces.architecture import Architecture, Value
from searchspaces.conv1d_sensor import conv1d_sensor
from searchspaces.elastic.conv1d import ElasticBatchNorm1d, ElasticConv1d
from searchspaces.elastic.layers import Cut
from searchspaces.elastic.supernet import Supernet
from searchspaces.space import SearchSpace
from searchspaces.testing import SupernetContract

SPACE = conv1d_sensor(
    in_channels=3, length=41, stem_channels=8, stem_stride=2, widths=[[6, 10], [8, 12]], strides=[1, 2]
)  # fmt: skip


class TestConv1dSupernet(SupernetContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SPACE


class TestConv1dSupernetForShortSeries(SupernetContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return conv1d_sensor(in_channels=12, length=12, widths=[[4, 8], [8]])


def series(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_smaller_kernel_starts_as_the_centre_of_the_larger_one() -> None:
    conv = ElasticConv1d(4, 6, kernels=(3, 5, 9))
    with torch.no_grad():
        kernels = {k: conv.kernel(Cut(in_channels=3, out_channels=5, kernel=k)) for k in (3, 5, 9)}
    assert kernels[9].shape == (5, 3, 9)
    assert torch.equal(kernels[5], kernels[9][:, :, 2:7])
    assert torch.equal(kernels[3], kernels[9][:, :, 3:6])


def test_the_transforms_are_chained() -> None:
    conv = ElasticConv1d(1, 1, kernels=(3, 5, 9))
    cut = Cut(in_channels=1, out_channels=1, kernel=3)
    conv(series(2, 1, 20), cut).square().sum().backward()
    for name in ("9to5", "5to3"):
        gradient = conv.transforms[name].grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_dilated_convolution_is_the_sum_over_its_taps(kernel: int, dilation: int, stride: int) -> None:
    conv = ElasticConv1d(3, 4, kernels=(3, 5), stride=stride)
    cut = Cut(in_channels=2, out_channels=3, kernel=kernel, dilation=dilation)
    x_NCT = series(2, 2, 23)
    reach = dilation * (kernel // 2)
    padded = nn.functional.pad(x_NCT, (reach, reach))
    with torch.no_grad():
        weight_OCK = conv.kernel(cut)
        taps = [padded[:, :, k * dilation : k * dilation + 23 : stride] for k in range(kernel)]
        expected = sum(torch.einsum("oc,nct->not", weight_OCK[:, :, k], tap) for k, tap in enumerate(taps))
        found = conv(x_NCT, cut)
    assert isinstance(expected, torch.Tensor)
    assert found.shape == (2, 3, -(-23 // stride))
    torch.testing.assert_close(found, expected)


def test_training_reaches_only_what_the_subnet_uses() -> None:
    supernet = SPACE.build_supernet(num_classes=3).train()
    supernet(series(4, 3, 41), SPACE.smallest).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in supernet.named_parameters()}
    grad = gradients["stages.1.0.conv.weight"]
    assert grad is not None
    # 6 of the 10 channels of stage 1 go into 8 of the 12 of stage 2
    assert grad[:8, :6].abs().sum() > 0
    assert grad[8:].abs().sum() == 0
    assert grad[:, 6:].abs().sum() == 0
    assert gradients["stages.0.1.conv.weight"] is None


def test_the_extracted_batch_normalisation_is_a_one_dimensional_copy() -> None:
    norm = ElasticBatchNorm1d(6, eps=1e-3)
    with torch.no_grad():
        for number, tensor in enumerate(norm.tensors()):
            tensor.copy_(torch.arange(6) + 1 + number)
    plain = norm.extract(Cut(in_channels=4, out_channels=4))
    assert isinstance(plain, nn.BatchNorm1d)
    assert plain.eps == 1e-3
    x_NCT = series(2, 4, 9)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x_NCT), norm.eval()(x_NCT, Cut(in_channels=4, out_channels=4)))


def test_a_deeper_stage_adds_blocks_with_shortcuts() -> None:
    supernet = SPACE.build_supernet(num_classes=3)
    genes: dict[str, Value] = dict(SPACE.largest.genes)
    shallow = supernet.extract(SPACE.architecture({**genes, "stage1.depth": 1, "stage2.depth": 1}))
    deep = supernet.extract(SPACE.largest)
    convolutions = [sum(isinstance(m, nn.Conv1d) for m in network.modules()) for network in (shallow, deep)]
    assert convolutions == [3, 7]


def test_recalibration_gives_the_statistics_of_the_series() -> None:
    network = SPACE.build_supernet(num_classes=3).extract(SPACE.largest)
    x_NCT = 5 + 3 * series(64, 3, 41)
    recalibrate(network, x_NCT.split(16))
    stem = next(module for module in network.modules() if isinstance(module, nn.BatchNorm1d))
    conv = next(module for module in network.modules() if isinstance(module, nn.Conv1d))
    with torch.no_grad():
        y_NCT = conv(x_NCT)
    assert stem.running_mean is not None
    torch.testing.assert_close(stem.running_mean, y_NCT.mean(dim=(0, 2)), rtol=1e-3, atol=1e-3)


def test_dropout_is_active_in_training_only() -> None:
    supernet = SPACE.build_supernet(num_classes=3)
    x_NCT = series(4, 3, 41)
    with torch.no_grad():
        trained = [supernet.train()(x_NCT, SPACE.largest) for _ in range(2)]
        evaluated = [supernet.eval()(x_NCT, SPACE.largest) for _ in range(2)]
    assert not torch.equal(*trained)
    assert torch.equal(*evaluated)


THREE_WIDTHS = conv1d_sensor(in_channels=2, length=24, stem_channels=6, widths=[[4, 7, 10], [5, 9, 12]])


def randomised(seed: int = 0) -> Supernet:
    """A supernet in eval mode in which no two channels are equal."""
    torch.manual_seed(seed)
    supernet = THREE_WIDTHS.build_supernet(num_classes=3)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            tensor.add_(torch.rand_like(tensor) if name.endswith("var") else 0.3 * torch.randn_like(tensor))
    return supernet.eval()


def logits(supernet: Supernet, arch: Architecture) -> torch.Tensor:
    with torch.no_grad():
        return supernet(series(5, 2, 24), arch)


@pytest.mark.parametrize("num_open", [1, 2, 3])
def test_sorting_channels_leaves_open_subnets_alone(num_open: int) -> None:
    supernet, opened = randomised(), {"width": num_open}
    lowest_G = THREE_WIDTHS.lowest_positions(opened)
    genomes_NG = THREE_WIDTHS.sample_many(12, np.random.default_rng(1), lowest_G=lowest_G)
    archs = [THREE_WIDTHS.largest, *THREE_WIDTHS.architectures(genomes_NG)]
    before = [logits(supernet, arch) for arch in archs]
    weights = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.sort_channels(opened=opened)
    for arch, was in zip(archs, before, strict=True):
        torch.testing.assert_close(logits(supernet, arch), was, rtol=1e-4, atol=1e-5)
    moved = {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert "classifier.weight" in moved
    assert {name for name in moved if name.startswith("stem")} == set()


def test_sorting_channels_puts_those_that_count_first_and_changes_narrow_subnets() -> None:
    supernet = randomised()
    narrow = logits(supernet, THREE_WIDTHS.smallest)
    supernet.sort_channels(opened={"width": 1})
    assert not torch.allclose(logits(supernet, THREE_WIDTHS.smallest), narrow, rtol=1e-2, atol=1e-2)
    state = supernet.state_dict()
    for stage, after in ((0, "stages.1.0.conv.weight"), (1, "classifier.weight")):
        readers = [state[f"stages.{stage}.{block}.conv.weight"] for block in (1, 2)] + [state[after]]
        importance_I = torch.stack([r.abs().transpose(0, 1).flatten(1).sum(dim=1) for r in readers]).sum(dim=0)
        assert (importance_I.diff() <= 0).all()
    again = {name: tensor.clone() for name, tensor in state.items()}
    supernet.sort_channels(opened={"width": 1})
    assert all(torch.equal(tensor, again[name]) for name, tensor in supernet.state_dict().items())


def test_without_widths_to_open_all_are_open() -> None:
    supernet = randomised()
    narrow = logits(supernet, THREE_WIDTHS.smallest)
    supernet.sort_channels(opened={"kernel": 1})
    torch.testing.assert_close(logits(supernet, THREE_WIDTHS.smallest), narrow, rtol=1e-4, atol=1e-5)
