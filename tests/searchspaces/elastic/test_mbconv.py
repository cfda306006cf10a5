"""The supernets of the once-for-all spaces, and the order of channels in all inverted-residual blocks."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from searchspaces import get_space
from searchspaces.architecture import Architecture, Value
from searchspaces.channels import round_channels, squeeze_channels
from searchspaces.elastic.blocks import ElasticMBConv, Shortcut, SqueezeExcite
from searchspaces.elastic.layers import Cut
from searchspaces.elastic.mbconv import MBConvSupernet
from searchspaces.elastic.supernet import Supernet
from searchspaces.errors import SpaceError
from searchspaces.mbconv import FirstBlock, MBConvConfig, MBConvSpace, Stage
from searchspaces.space import SearchSpace
from searchspaces.testing import SupernetContract

OFA = ["ofa-mobilenetv3-w1.0", "ofa-mobilenetv3-w1.2", "ofa-proxyless-w1.3"]
PIXELS = 36  # the smallest images of which the once-for-all networks leave more than one pixel are 33 wide
SMALL = MBConvSpace(
    MBConvConfig(
        in_channels=3,
        resolutions=(16,),
        first_block=FirstBlock(channels=8),
        stages=(
            Stage(channels=8, stride=1, depths=(1, 2)),
            Stage(channels=16, stride=2, depths=(1, 2), se=True, activation="h-swish"),
        ),
        head_channels=32,
        mix_channels=16,
        activation="h-swish",
    )
)


class OfaContract(SupernetContract):
    name: str

    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space(self.name, resolutions=[PIXELS])

    @pytest.fixture
    def archs(self, space: SearchSpace) -> list[Architecture]:
        return [space.smallest, space.largest, space.sample(np.random.default_rng(3))]


class TestOfaMobileNetV3Supernet(OfaContract):
    name = OFA[0]


class TestOfaMobileNetV3WideSupernet(OfaContract):
    name = OFA[1]


class TestOfaProxylessSupernet(OfaContract):
    name = OFA[2]


@pytest.fixture(params=OFA)
def ofa(request: pytest.FixtureRequest) -> MBConvSupernet:
    space = get_space(request.param, resolutions=[PIXELS, 50])
    supernet = space.build_supernet(num_classes=1000)
    assert isinstance(supernet, MBConvSupernet)
    return supernet.eval()


@pytest.fixture
def small() -> MBConvSupernet:
    """Random weights and statistics, so that a channel that is moved without its statistics shows."""
    supernet = SMALL.build_supernet(num_classes=4)
    assert isinstance(supernet, MBConvSupernet)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in supernet.named_buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("var") else 0.0))
    return supernet.eval()


def architecture(space: SearchSpace, **values: Value) -> Architecture:
    """The largest architecture with another value for all choices of some kinds."""
    return space.architecture({choice.name: values.get(choice.kind, choice.values[-1]) for choice in space.choices})


def images(space: SearchSpace, arch: Architecture, *, num: int = 3) -> torch.Tensor:
    return torch.randn(num, *space.input_shape(arch), generator=torch.Generator().manual_seed(0))


def logits(supernet: MBConvSupernet, arch: Architecture) -> torch.Tensor:
    with torch.no_grad():
        return supernet(images(supernet.space, arch), arch)


def blocks(supernet: MBConvSupernet) -> Iterator[ElasticMBConv]:
    for stage in supernet.stages:
        assert isinstance(stage, nn.ModuleList)
        for block in stage:
            assert isinstance(block, ElasticMBConv)
            yield block


def test_the_operator_table_equals_the_extracted_networks(ofa: MBConvSupernet) -> None:
    space = ofa.space
    archs = [space.smallest, space.largest, *space.architectures(space.sample_many(4, np.random.default_rng(6)))]
    table = space.op_table(space.genomes(archs), num_classes=1000)
    for row, arch in enumerate(archs):
        network = ofa.extract(arch)
        macs: list[int] = []

        def count(module: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor, macs: list[int] = macs) -> None:
            assert isinstance(module, nn.Conv2d | nn.Linear)
            macs.append(output.numel() * module.weight[0].numel())

        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        with torch.no_grad():
            network(images(space, arch, num=1))
        assert sum(macs) == table.macs[row].sum()
        assert sum(parameter.numel() for parameter in network.parameters()) == table.params[row].sum()


def layers_of(supernet: Supernet) -> list[nn.Module]:
    """The top layers of the largest network."""
    return list(supernet.extract(supernet.space.largest).children())


def epsilons(supernet: Supernet) -> set[float]:
    modules = supernet.extract(supernet.space.largest).modules()
    return {module.eps for module in modules if isinstance(module, nn.BatchNorm2d)}


def test_mobilenetv3_is_built_of_the_published_layers() -> None:
    supernet = get_space(OFA[0], resolutions=[PIXELS]).build_supernet(num_classes=10)
    stem, first, *body, head, pool, mix, act, flatten, dropout, classifier = layers_of(supernet)
    assert isinstance(first, Shortcut)
    assert [type(layer) for layer in stem.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.Hardswish]
    assert [type(layer) for layer in head.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.Hardswish]
    kinds = [type(layer) for layer in (pool, mix, act, flatten, dropout, classifier)]
    assert kinds == [nn.AdaptiveAvgPool2d, nn.Conv2d, nn.Hardswish, nn.Flatten, nn.Dropout, nn.Linear]
    assert isinstance(mix, nn.Conv2d)
    assert mix.bias is None
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.1
    assert [isinstance(block, Shortcut) for block in body] == [False, True, True, True] * 5
    for number, block in enumerate(body):
        layers = {type(module) for module in block.modules()}
        stage = number // 4
        assert (nn.Hardswish in layers) == (stage >= 2)
        assert (SqueezeExcite in layers) == (stage in (1, 3, 4))
        assert (nn.ReLU in layers) == (stage < 2 or stage in (3, 4))  # squeeze-excite has one of its own
    assert epsilons(supernet) == {1e-5}


def test_proxyless_is_built_of_the_published_layers() -> None:
    supernet = get_space(OFA[2], resolutions=[PIXELS]).build_supernet(num_classes=10)
    network = supernet.extract(supernet.space.largest)
    _, first, *body, head, pool, flatten, dropout, classifier = layers_of(supernet)
    assert not isinstance(first, Shortcut)
    assert [type(layer) for layer in head.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU6]
    kinds = [type(layer) for layer in (pool, flatten, dropout, classifier)]
    assert kinds == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear]
    assert [isinstance(block, Shortcut) for block in body] == [False, True, True, True] * 5 + [False]
    assert {type(module) for module in network.modules()}.isdisjoint({nn.ReLU, nn.Hardswish, SqueezeExcite})
    assert epsilons(supernet) == {1e-3}


def test_hard_activations_equal_their_definitions_by_relu6() -> None:
    x = torch.linspace(-5, 5, 1001)
    torch.testing.assert_close(nn.Hardswish()(x), x * functional.relu6(x + 3) / 6)
    torch.testing.assert_close(nn.Hardsigmoid()(x), functional.relu6(x + 3) / 6)


def test_squeeze_excite_is_computed_by_hand(small: MBConvSupernet) -> None:
    block = next(block for block in blocks(small) if block.se is not None)
    assert block.se is not None
    hidden, squeezed = 24, squeeze_channels(24)
    x_NCHW = torch.randn(2, hidden, 5, 5, generator=torch.Generator().manual_seed(1))
    weights = {name: parameter.detach() for name, parameter in block.se.named_parameters()}
    mean_NC = x_NCHW.mean(dim=(2, 3))
    middle = mean_NC @ weights["reduce.weight"][:squeezed, :hidden, 0, 0].T + weights["reduce.bias"][:squeezed]
    scores = middle.relu() @ weights["expand.weight"][:hidden, :squeezed, 0, 0].T + weights["expand.bias"][:hidden]
    gate_NC = functional.relu6(scores + 3) / 6
    cut = Cut(in_channels=hidden, out_channels=hidden)
    with torch.no_grad():
        torch.testing.assert_close(block.se(x_NCHW, cut), x_NCHW * gate_NC[:, :, None, None])
        torch.testing.assert_close(block.se.extract(cut)(x_NCHW), x_NCHW * gate_NC[:, :, None, None])


def test_dropout_acts_in_training_only() -> None:
    space = MBConvSpace(MBConvConfig(dropout=0.5))
    supernet = space.build_supernet(num_classes=10)
    x_NCHW = images(space, space.largest, num=8)
    with torch.no_grad():
        assert not torch.equal(supernet.train()(x_NCHW, space.largest), supernet(x_NCHW, space.largest))
        assert torch.equal(supernet.eval()(x_NCHW, space.largest), supernet(x_NCHW, space.largest))


def test_subnets_share_the_storage_of_the_supernet(small: MBConvSupernet) -> None:
    for block in blocks(small):
        weight = block.depthwise.weight
        for channels in (8, len(weight)):
            kernel = block.depthwise.kernel(Cut(in_channels=channels, out_channels=channels, kernel=7))
            assert kernel.data_ptr() == weight.data_ptr()
            assert kernel.shape[0] == channels


# Channel sorting


def sorted_copy(supernet: MBConvSupernet, *, expands_open: int) -> dict[str, torch.Tensor]:
    """Sort and return the weights from before."""
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    supernet.sort_channels(opened={"expand": expands_open, "kernel": 3})
    return before


def test_sorting_keeps_the_largest_network_and_moves_channels(small: MBConvSupernet) -> None:
    archs = [architecture(SMALL, kernel=kernel, depth=depth) for kernel in (3, 5, 7) for depth in (1, 2)]
    before = [logits(small, arch) for arch in archs]
    smaller = logits(small, architecture(SMALL, expand=3))
    weights = sorted_copy(small, expands_open=1)
    for arch, expected in zip(archs, before, strict=True):
        torch.testing.assert_close(logits(small, arch), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(small, architecture(SMALL, expand=3)), smaller, rtol=1e-2, atol=1e-2)
    assert not torch.equal(weights["stages.1.0.expand.weight"], small.state_dict()["stages.1.0.expand.weight"])


def test_sorting_without_a_word_about_expand_ratios_keeps_all_subnets(small: MBConvSupernet) -> None:
    archs = [architecture(SMALL, expand=expand) for expand in (3, 4, 6)]
    before = [logits(small, arch) for arch in archs]
    small.sort_channels(opened={})
    for arch, expected in zip(archs, before, strict=True):
        torch.testing.assert_close(logits(small, arch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("expands_open", "kept", "changed"), [(2, (4, 6), (3,)), (3, (3, 4, 6), ())])
def test_sorting_keeps_every_opened_subnet(
    small: MBConvSupernet, expands_open: int, kept: tuple[int, ...], changed: tuple[int, ...]
) -> None:
    before = {expand: logits(small, architecture(SMALL, expand=expand)) for expand in (3, 4, 6)}
    rng = np.random.default_rng(0)
    mixed = [arch for arch in SMALL.architectures(SMALL.sample_many(40, rng)) if _uses_only(arch, kept)]
    assert mixed
    expected = [logits(small, arch) for arch in mixed]
    sorted_copy(small, expands_open=expands_open)
    after = {expand: logits(small, architecture(SMALL, expand=expand)) for expand in (3, 4, 6)}
    for expand in kept:
        torch.testing.assert_close(after[expand], before[expand], rtol=1e-5, atol=1e-5)
    for expand in changed:
        assert not torch.allclose(after[expand], before[expand], rtol=1e-2, atol=1e-2)
    for arch, logits_before in zip(mixed, expected, strict=True):
        torch.testing.assert_close(logits(small, arch), logits_before, rtol=1e-5, atol=1e-5)


def _uses_only(arch: Architecture, expands: tuple[int, ...]) -> bool:
    return all(value in expands for name, value in arch.genes if name.endswith(".expand"))


@pytest.mark.parametrize("expands_open", [1, 2, 3])
def test_importance_falls_inside_the_groups_of_opened_sizes(small: MBConvSupernet, expands_open: int) -> None:
    sorted_copy(small, expands_open=expands_open)
    inputs = [c_in for number in range(2) for c_in in SMALL.config.block_inputs(number)]
    for block, c_in in zip(blocks(small), inputs, strict=True):
        sizes = [round_channels(c_in * expand) for expand in (3, 4, 6)[-expands_open:]]
        weights = [(block.project.weight, sizes)]
        if block.se is not None:
            weights.append((block.se.expand.weight, [squeeze_channels(size) for size in sizes]))
        for weight, borders in weights:
            norm_C = weight.detach().abs().sum(dim=(0, 2, 3))
            assert len(norm_C) == borders[-1]
            for start, end in zip([0, *borders], borders, strict=False):
                group = norm_C[start:end]
                assert (group[:-1] >= group[1:]).all()


def test_sorting_twice_changes_nothing_more(small: MBConvSupernet) -> None:
    sorted_copy(small, expands_open=2)
    once = sorted_copy(small, expands_open=2)
    assert all(torch.equal(value, once[name]) for name, value in small.state_dict().items())


def test_sorting_is_a_permutation_that_leaves_all_else_alone(small: MBConvSupernet) -> None:
    before = sorted_copy(small, expands_open=1)
    for name, value in small.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
        if not name.startswith("stages.") or "transforms" in name or ".project_norm." in name:
            assert torch.equal(value, before[name]), name


def test_a_sorted_supernet_can_be_trained_on(small: MBConvSupernet) -> None:
    sorted_copy(small, expands_open=1)
    arch = architecture(SMALL, expand=3)
    small.train()(images(SMALL, arch), arch).square().sum().backward()
    grads = [parameter.grad for name, parameter in small.named_parameters() if name.endswith("project.weight")]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_no_open_expand_ratio_is_refused(small: MBConvSupernet) -> None:
    with pytest.raises(SpaceError, match=r"opened\['expand'\] is 0"):
        small.sort_channels(opened={"expand": 0})
