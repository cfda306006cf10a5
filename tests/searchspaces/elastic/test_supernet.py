"""One set of weights: forward, extraction and the operator table describe the same networks."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from searchspaces.architecture import Architecture
from searchspaces.elastic.blocks import Shortcut, SqueezeExcite
from searchspaces.elastic.supernet import Supernet
from searchspaces.errors import SpaceError
from searchspaces.mbconv import FirstBlock, MBConvConfig, MBConvSpace, Stage
from searchspaces.mbconv_small import mbconv_small
from searchspaces.space import SearchSpace
from searchspaces.testing import SupernetContract

SPACE = mbconv_small()
WIDE = MBConvSpace(
    MBConvConfig(
        in_channels=3,
        resolutions=(9, 14),
        stem_channels=12,
        stages=(
            Stage(channels=10, stride=2, depths=(1, 2), kernels=(1, 3, 7), expands=(1, 3)),
            Stage(channels=20, stride=1, depths=(1, 3), kernels=(1, 3, 7), expands=(1, 3)),
        ),
        head_channels=24,
    )
)
# Everything that a family member can have, and no two stages alike.
RICH = MBConvSpace(
    MBConvConfig(
        in_channels=2,
        resolutions=(12, 16),
        stem_channels=8,
        first_block=FirstBlock(channels=8, activation="relu6"),
        stages=(
            Stage(channels=12, stride=2, depths=(1, 2), kernels=(3,), expands=(4, 6), activation="relu6"),
            Stage(channels=16, stride=1, depths=(2, 3), expands=(2, 3, 6), activation="h-swish", se=True),
        ),
        head_channels=24,
        mix_channels=40,
        activation="h-swish",
        norm_eps=1e-3,
        dropout=0.5,
    )
)
SEEDS = st.integers(0, 2**32 - 1)


class TestMBConvSmallSupernet(SupernetContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return mbconv_small()


class TestMBConvSupernetOfOtherShape(SupernetContract):
    """Odd images, widths that are no multiples of eight, kernels with a gap."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        return WIDE


class TestMBConvSupernetWithEverything(SupernetContract):
    """First block, squeeze-excite, feature mix, dropout, all activations."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        return RICH


def randomise(supernet: Supernet) -> Supernet:
    """Random weights, transforms and statistics in eval mode: a wrong slice cannot hide behind ones and zeros."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in supernet.named_buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("var") else 0.0))
    return supernet.eval()


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return randomise(SPACE.build_supernet(num_classes=10))


@pytest.fixture(scope="module")
def wide() -> Supernet:
    return randomise(WIDE.build_supernet(num_classes=3))


@pytest.fixture(scope="module")
def rich() -> Supernet:
    return randomise(RICH.build_supernet(num_classes=4))


def images(space: SearchSpace, arch: Architecture, *, num: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, *space.input_shape(arch), generator=torch.Generator().manual_seed(seed))


def sampled(space: SearchSpace, num: int, *, seed: int = 0) -> list[Architecture]:
    return space.architectures(space.sample_many(num, np.random.default_rng(seed)))


Count = tuple[str, int, int, int, int]  # kind, macs, params, input elements, output elements


@contextmanager
def counting(network: nn.Module) -> Iterator[list[Count]]:
    """Counts what every operator of a plain torch network does for one image, in the order in which it runs.

    A convolution counts with the normalisation after it, a squeeze-excite unit as a whole.
    """
    counts: list[Count] = []

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        taken, made = inputs[0].numel(), output.numel()
        params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d):
            per_output = module.weight[0].numel()
            kind = "depthwise" if module.groups > 1 else "conv"
            counts.append((kind, made * per_output, params, taken, made))
        elif isinstance(module, nn.BatchNorm2d):
            kind, macs, conv_params, conv_taken, conv_made = counts[-1]
            counts[-1] = (kind, macs, conv_params + params, conv_taken, conv_made)
        elif isinstance(module, nn.Linear):
            counts.append(("linear", made * module.in_features, params, taken, made))
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            counts.append(("pool", 0, 0, taken, made))
        elif isinstance(module, SqueezeExcite):
            pool, *convolutions = counts[-3:]
            assert (pool[0], *(count[0] for count in convolutions)) == ("pool", "conv", "conv")
            macs, inner_params = sum(count[1] for count in convolutions), sum(count[2] for count in convolutions)
            counts[-3:] = [("se", macs, inner_params, taken, made)]
        elif isinstance(module, Shortcut):
            counts.append(("add", 0, 0, 2 * taken, made))

    hooks = [module.register_forward_hook(hook) for module in network.modules()]
    try:
        yield counts
    finally:
        for handle in hooks:
            handle.remove()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("which", ["supernet", "wide", "rich"])
def test_extracted_equals_forward_over_sampled_architectures(
    which: str, seed: int, request: pytest.FixtureRequest
) -> None:
    supernet: Supernet = request.getfixturevalue(which)
    for arch in sampled(supernet.space, 12, seed=seed):
        x_NCHW = images(supernet.space, arch, num=3, seed=seed)
        with torch.no_grad():
            inside, outside = supernet(x_NCHW, arch), supernet.extract(arch)(x_NCHW)
        assert inside.abs().max() > 0
        assert (inside - outside).abs().max() / inside.abs().max() <= 1e-5


@pytest.mark.parametrize("which", ["supernet", "wide", "rich"])
def test_the_operator_table_equals_what_hooks_count_on_the_extracted_network(
    which: str, request: pytest.FixtureRequest
) -> None:
    supernet: Supernet = request.getfixturevalue(which)
    space = supernet.space
    archs = [space.smallest, space.largest, *sampled(space, 20, seed=9)]
    table = space.op_table(space.genomes(archs), num_classes=supernet.num_classes)
    for row, arch in enumerate(archs):
        network = supernet.extract(arch)
        with counting(network) as counted, torch.no_grad():
            network(images(space, arch, num=1))
        told = [
            (op.kind, op.macs, op.params, op.input_elements, op.output_elements) for op in table.graph(row).operators
        ]
        assert told == counted
        assert table.params[row].sum() == sum(parameter.numel() for parameter in network.parameters())


def test_different_architectures_compute_different_things(supernet: Supernet) -> None:
    archs = [arch for arch in sampled(SPACE, 40, seed=2) if arch["resolution"] == 16][:8]
    x_NCHW = images(SPACE, archs[0])
    with torch.no_grad():
        outputs = [supernet(x_NCHW, arch) for arch in archs]
    assert len(archs) == 8
    assert all(not torch.allclose(a, b) for n, a in enumerate(outputs) for b in outputs[:n])


@settings(max_examples=15)
@given(seed=SEEDS)
def test_the_order_of_calls_does_not_matter(seed: int) -> None:
    supernet = randomise(WIDE.build_supernet(num_classes=3))
    archs = sampled(WIDE, 4, seed=seed)
    inputs = [images(WIDE, arch) for arch in archs]
    order = np.random.default_rng(seed).permutation(len(archs))
    with torch.no_grad():
        first = [supernet(x_NCHW, arch) for x_NCHW, arch in zip(inputs, archs, strict=True)]
        later = {int(n): supernet(inputs[n], archs[n]) for n in order}
    assert all(torch.equal(first[n], later[n]) for n in range(len(archs)))


def test_threads_with_different_architectures_do_not_disturb_each_other(supernet: Supernet) -> None:
    archs = sampled(SPACE, 12, seed=4)
    inputs = [images(SPACE, arch) for arch in archs]
    with torch.no_grad():
        alone = [supernet(x_NCHW, arch) for x_NCHW, arch in zip(inputs, archs, strict=True)]
    start = threading.Barrier(4)

    def work(worker: int) -> list[tuple[int, torch.Tensor]]:
        order = np.random.default_rng(worker).permutation(len(archs))
        start.wait(timeout=30)
        with torch.no_grad():
            return [(int(n), supernet(inputs[n], archs[n])) for n in order for _ in range(2)]

    with ThreadPoolExecutor(max_workers=4) as pool:
        results = [result for results in pool.map(work, range(4)) for result in results]
    assert len(results) == 4 * 2 * len(archs)
    assert all(torch.equal(alone[n], output) for n, output in results)


def test_an_image_alone_gives_what_it_gives_in_a_batch(supernet: Supernet) -> None:
    for arch in (SPACE.smallest, SPACE.largest):
        x_NCHW = images(SPACE, arch, num=4)
        with torch.no_grad():
            batch, alone = supernet(x_NCHW, arch), supernet(x_NCHW[:1], arch)
            extracted = supernet.extract(arch)(x_NCHW[:1])
        assert alone.shape == extracted.shape == (1, 10)
        torch.testing.assert_close(batch[:1], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(extracted, alone, rtol=1e-5, atol=1e-5)


class Untouchable:
    """Stands where images should be and tells if anybody looks."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the images were touched: {name}")


@pytest.mark.parametrize(
    "arch",
    [
        mbconv_small(resolutions=(16,)).smallest,
        WIDE.smallest,
        Architecture(space_id="mbconv-small", genes=()),
        Architecture(space_id="mbconv-small", genes=(*SPACE.smallest.genes, ("stage1.block2.kernel", 3))),
    ],
    ids=["other-settings", "other-space", "no-genes", "inactive-gene"],
)
def test_a_foreign_architecture_is_refused_before_a_tensor_is_touched(supernet: Supernet, arch: Architecture) -> None:
    with pytest.raises(SpaceError) as refusal:
        supernet(Untouchable(), arch)  # type: ignore[arg-type]
    assert refusal.value.hint
    with pytest.raises(SpaceError):
        supernet.extract(arch)


@pytest.mark.parametrize("shape", [(1, 1, 16, 20), (1, 3, 16, 16), (1, 1, 24, 24), (1, 16, 16), (0,)])
def test_images_of_another_shape_are_refused_with_both_shapes(supernet: Supernet, shape: tuple[int, ...]) -> None:
    with pytest.raises(SpaceError, match=r"\(N, 1, 16, 16\)") as refusal:
        supernet(torch.zeros(shape), SPACE.smallest)
    assert str(shape) in str(refusal.value)


def test_the_largest_subnet_uses_all_weights(supernet: Supernet) -> None:
    shared = [weight for name, weight in supernet.named_parameters() if "transforms" not in name]
    taken = list(supernet.extract(SPACE.largest).parameters())
    assert len(shared) == len(taken)
    assert all(torch.equal(a, b) for a, b in zip(shared, taken, strict=True))


def test_a_smaller_kernel_starts_as_the_centre_of_the_larger_one() -> None:
    supernet = SPACE.build_supernet(num_classes=10).eval()
    genes = dict(SPACE.largest.genes)
    kernels = {}
    for kernel in (3, 5, 7):
        network = supernet.extract(SPACE.architecture({**genes, "stage1.block1.kernel": kernel}))
        kernels[kernel] = next(
            module.weight for module in network.modules() if isinstance(module, nn.Conv2d) and module.groups > 1
        )
    assert kernels[7].shape[-1] == 7
    assert torch.equal(kernels[5], kernels[7][:, :, 1:6, 1:6])
    assert torch.equal(kernels[3], kernels[7][:, :, 2:5, 2:5])


def test_training_reaches_only_what_the_subnet_uses() -> None:
    supernet = WIDE.build_supernet(num_classes=3).train()
    supernet(images(WIDE, WIDE.smallest, num=4), WIDE.smallest).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in supernet.named_parameters()}
    # expand ratio 1 of 12 stem channels: 16 of the 40 hidden channels (rounded to eights) take part
    grad = gradients["stages.0.0.expand.weight"]
    assert grad is not None
    assert grad[:16].abs().sum() > 0
    assert grad[16:].abs().sum() == 0
    assert gradients["stages.0.1.expand.weight"] is None
    # kernel 1 is reached through 7 -> 3 -> 1, so both matrices learn
    for name in ("7to3", "3to1"):
        transform = gradients[f"stages.0.0.depthwise.transforms.{name}"]
        assert transform is not None
        assert transform.abs().sum() > 0


def test_training_normalises_with_the_batch_and_evaluation_with_the_running_statistics() -> None:
    supernet = WIDE.build_supernet(num_classes=3)
    x_NCHW = images(WIDE, WIDE.largest, num=8)
    outputs = {}
    for shift in (0.0, 3.0):
        for name, buffer in supernet.named_buffers():
            buffer.fill_(shift if name.endswith("mean") else 1.0 + shift)
        for mode in (True, False):
            with torch.no_grad():
                outputs[mode, shift] = supernet.train(mode)(x_NCHW, WIDE.largest)
    assert torch.equal(outputs[True, 0.0], outputs[True, 3.0])
    assert not torch.allclose(outputs[False, 0.0], outputs[False, 3.0])


def test_an_extracted_network_is_a_copy(supernet: Supernet) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    network = supernet.extract(SPACE.largest)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.add_(1)
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_an_extracted_network_can_be_trained_on() -> None:
    network = randomise(WIDE.build_supernet(num_classes=3)).extract(WIDE.largest)
    assert not network.training
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in network.parameters())
    network.train()
    network(images(WIDE, WIDE.largest, num=4)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_extracting_leaves_the_mode_of_the_supernet_alone() -> None:
    supernet = WIDE.build_supernet(num_classes=3).train()
    network = supernet.extract(WIDE.smallest)
    assert supernet.training
    assert not any(module.training for module in network.modules())


def test_weights_round_trip_through_a_state_dict(supernet: Supernet) -> None:
    other = SPACE.build_supernet(num_classes=10).eval()
    other.load_state_dict(supernet.state_dict())
    x_NCHW = images(SPACE, SPACE.largest)
    with torch.no_grad():
        assert torch.equal(other(x_NCHW, SPACE.largest), supernet(x_NCHW, SPACE.largest))


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(SpaceError, match=f"got {num_classes}"):
        SPACE.build_supernet(num_classes=num_classes)
