"""Supernet of the once-for-all ResNet50D space: sharing, shapes of the published weights, channel sorting."""

from collections import Counter

import numpy as np
import pytest
import torch

from searchspaces.architecture import Architecture
from searchspaces.elastic.resnet import ElasticBottleneck, ResNet50DSupernet
from searchspaces.ofa_resnet50d import ResNet50DSpace, ofa_resnet50d
from searchspaces.space import SearchSpace
from searchspaces.testing import SupernetContract
from tests.searchspaces.hooks import counted, num_params, told

SMALL = ofa_resnet50d(resolutions=[48, 64], width=0.25)
# the narrowest in which every width multiplier gives other channels
WIDE = ofa_resnet50d(resolutions=[40], width=0.75)


class TestResNet50DSupernet(SupernetContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SMALL

    @pytest.fixture
    def archs(self, space: SearchSpace) -> list[Architecture]:
        return [space.smallest, space.largest, *sampled(space, 3)]


def sampled(space: SearchSpace, num: int, *, opened: dict[str, int] | None = None) -> list[Architecture]:
    lowest_G = space.lowest_positions(opened or {})
    return space.architectures(space.sample_many(num, np.random.default_rng(4), lowest_G=lowest_G))


def randomised(space: ResNet50DSpace) -> ResNet50DSupernet:
    """Random weights and statistics in eval mode: a wrong order cannot hide behind ones and zeros."""
    supernet = space.build_supernet(num_classes=4)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.ndim == 1:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            else:
                # uneven channels, so that importance has something to order
                scale = torch.rand(tensor.shape[:2], generator=generator) / tensor[0].numel() ** 0.5
                weight = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(weight * scale.view(*scale.shape, *[1] * (tensor.ndim - 2)))
    return supernet.eval()


@pytest.fixture(scope="module")
def wide() -> ResNet50DSupernet:
    return randomised(WIDE)


def logits(supernet: ResNet50DSupernet, arch: Architecture) -> torch.Tensor:
    x_NCHW = torch.randn(2, *supernet.space.input_shape(arch), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return supernet(x_NCHW, arch)


def blocks(supernet: ResNet50DSupernet) -> list[ElasticBottleneck]:
    return [module for module in supernet.modules() if isinstance(module, ElasticBottleneck)]


def test_the_weights_have_the_shapes_of_the_published_supernet() -> None:
    # (blocks, input channels, inner channels, output channels) of the published largest network
    stages = [(4, 64, 88, 256), (4, 256, 176, 512), (6, 512, 360, 1024), (4, 1024, 720, 2048)]
    weights = [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]
    for num_blocks, c_in, hidden, c_out in stages:
        weights.append((c_out, c_in, 1, 1))
        for block in range(num_blocks):
            weights.append((hidden, c_in if block == 0 else c_out, 1, 1))
            weights += [(hidden, hidden, 3, 3), (c_out, hidden, 1, 1)]
    tensors = ofa_resnet50d().build_supernet(num_classes=1000).state_dict()
    assert Counter(tuple(t.shape) for t in tensors.values() if t.ndim == 4) == Counter(weights)
    # a normalisation after every convolution has four vectors, in the published file also a number of batches
    assert len(tensors) + len(weights) == 61 * (1 + 5) + 2 == 368
    assert sum(t.numel() for t in tensors.values()) + len(weights) == 48_173_189


def test_the_operator_table_equals_what_hooks_count_on_the_extracted_network() -> None:
    supernet = SMALL.build_supernet(num_classes=7)
    odd = ofa_resnet50d(resolutions=[51], width=0.1)
    for space, net in ((SMALL, supernet), (odd, odd.build_supernet(num_classes=7))):
        archs = [space.smallest, space.largest, *sampled(space, 6)]
        table = space.op_table(space.genomes(archs), num_classes=7)
        for row, arch in enumerate(archs):
            network = net.extract(arch)
            assert told(table, row) == counted(network, torch.randn(1, *space.input_shape(arch)))
            assert table.params[row].sum() == num_params(network)


def test_a_narrow_subnet_uses_the_leading_channels_of_every_weight() -> None:
    supernet = randomised(SMALL)
    network = supernet.extract(SMALL.smallest)
    block = blocks(supernet)[0]
    conv2 = next(
        m
        for m in network.modules()
        if isinstance(m, torch.nn.Conv2d)
        and m.weight.shape[-1] == 3
        and m.stride == (1, 1)
        and m.in_channels == m.out_channels
    )
    channels = conv2.out_channels
    assert channels < len(block.conv2.weight)
    assert torch.equal(conv2.weight, block.conv2.weight[:channels, :channels])
    linear = next(m for m in network.modules() if isinstance(m, torch.nn.Linear))
    assert torch.equal(linear.weight, supernet.classifier.weight[:, : linear.in_features])
    assert torch.equal(linear.bias, supernet.classifier.bias)


def test_a_wide_network_runs_as_its_operator_table_says(wide: ResNet50DSupernet) -> None:
    network = wide.extract(WIDE.smallest)
    x_NCHW = torch.randn(1, *WIDE.input_shape(WIDE.smallest))
    with torch.no_grad():
        inside, outside = wide(x_NCHW, WIDE.smallest), network(x_NCHW)
    assert (inside - outside).abs().max() <= 1e-5 * inside.abs().max()
    table = WIDE.op_table(WIDE.genomes([WIDE.smallest]), num_classes=4)
    assert told(table, 0) == counted(network, x_NCHW)
    assert table.params.sum() == num_params(network)


def test_every_gene_changes_what_is_computed(wide: ResNet50DSupernet) -> None:
    reference = logits(wide, WIDE.largest)
    for choice in WIDE.choices:
        arch = WIDE.architecture({**dict(WIDE.largest.genes), choice.name: choice.values[0]})
        if choice.kind != "resolution":
            difference = (logits(wide, arch) - reference).abs().max()
            assert difference > 1e-4 * reference.abs().max(), choice.name


def test_training_a_subnet_reaches_only_what_it_uses() -> None:
    supernet = SMALL.build_supernet(num_classes=4).train()
    x_NCHW = torch.randn(2, *SMALL.input_shape(SMALL.smallest))
    supernet(x_NCHW, SMALL.smallest).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in supernet.named_parameters()}
    assert gradients["stem.conv2.conv.weight"] is None
    assert gradients["stages.2.4.conv1.weight"] is None
    used = gradients["stages.3.1.conv3.weight"]
    assert used is not None
    features, hidden = SMALL.config.stage_channels(3, 0.65), 64
    assert used[:features, :hidden].abs().sum() > 0
    assert used[features:].abs().sum() == used[:, hidden:].abs().sum() == 0


@pytest.mark.parametrize(
    "opened", [{"expand": 1, "width": 1}, {"expand": 2, "width": 1}, {"expand": 1, "width": 3}, {"expand": 2}, {}]
)
def test_sorting_channels_leaves_open_subnets_alone(opened: dict[str, int]) -> None:
    supernet = randomised(SMALL)
    archs = [SMALL.largest, *sampled(SMALL, 5, opened=opened)]
    before = [logits(supernet, arch) for arch in archs]
    weights = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.sort_channels(opened=opened)
    for arch, was in zip(archs, before, strict=True):
        torch.testing.assert_close(logits(supernet, arch), was, rtol=1e-4, atol=1e-4)
    moved = {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert {name.split(".")[-2] for name in moved} == {"conv1", "norm1", "conv2", "norm2", "conv3"}


def test_sorting_channels_changes_subnets_that_are_not_open_yet() -> None:
    supernet = randomised(SMALL)
    before = logits(supernet, SMALL.smallest)
    supernet.sort_channels(opened={"expand": 1, "width": 1})
    assert not torch.allclose(logits(supernet, SMALL.smallest), before, rtol=1e-3, atol=1e-3)


def test_channels_are_ordered_by_the_weights_that_read_them() -> None:
    supernet = randomised(SMALL)
    supernet.sort_channels(opened={"expand": 1, "width": 1})
    for block in blocks(supernet):
        for reader in (block.conv3, block.conv2):
            importance_I = reader.weight.abs().sum(dim=(0, 2, 3))
            assert (importance_I.diff() <= 0).all()
    supernet = randomised(SMALL)
    supernet.sort_channels(opened={"expand": 2, "width": 1})
    # stage 4 has 512 channels: ratio .25 cuts its 176 inner channels off at 128
    importance_I = blocks(supernet)[-1].conv3.weight.abs().sum(dim=(0, 2, 3))
    assert len(importance_I) == 176
    assert (importance_I[:128].diff() <= 0).all()
    assert (importance_I[128:].diff() <= 0).all()
    assert (importance_I.diff() > 0).any()


def test_sorting_twice_is_sorting_once() -> None:
    supernet = randomised(SMALL)
    supernet.sort_channels(opened={"expand": 1, "width": 1})
    once = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.sort_channels(opened={"expand": 1, "width": 1})
    assert all(torch.equal(tensor, once[name]) for name, tensor in supernet.state_dict().items())
