"""Supernet of NAS-Bench-Macro: one block for each operator of a layer, nothing sliced."""

import numpy as np
import pytest
import torch

from searchspaces.architecture import Architecture
from searchspaces.nas_bench_macro import nas_bench_macro
from searchspaces.space import SearchSpace
from searchspaces.testing import SupernetContract
from tests.searchspaces.hooks import counted, num_params, told

SMALL = nas_bench_macro(resolutions=[12, 17], width=0.25, in_channels=1)


class TestMacroSupernet(SupernetContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SMALL


def images(space: SearchSpace, arch: Architecture, *, num: int = 2) -> torch.Tensor:
    return torch.randn(num, *space.input_shape(arch), generator=torch.Generator().manual_seed(0))


def test_the_operator_table_equals_what_hooks_count_on_the_extracted_network() -> None:
    published = nas_bench_macro()
    for space, num in ((SMALL, 20), (published, 3)):
        supernet = space.build_supernet(num_classes=7)
        sampled = space.architectures(space.sample_many(num, np.random.default_rng(0)))
        archs = [space.smallest, space.largest, *sampled]
        table = space.op_table(space.genomes(archs), num_classes=7)
        for row, arch in enumerate(archs):
            network = supernet.extract(arch)
            assert told(table, row) == counted(network, images(space, arch, num=1))
            assert table.params[row].sum() == num_params(network)


def test_training_reaches_only_the_chosen_operators() -> None:
    supernet = SMALL.build_supernet(num_classes=3).train()
    arch = SMALL.from_key("01200012")
    supernet(images(SMALL, arch), arch).square().sum().backward()
    reached = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None}
    parts = {".".join(name.split(".")[:4]) for name in reached if name.startswith("layers.")}
    assert {part for part in parts if "blocks" in part} == {
        "layers.1.blocks.mbconv-e3-k3",
        "layers.2.blocks.mbconv-e6-k5",
        "layers.6.blocks.mbconv-e3-k3",
        "layers.7.blocks.mbconv-e6-k5",
    }
    assert {part for part in parts if "downsample" in part} == {
        f"layers.{layer}.{name}"
        for layer in (0, 5)
        for name in ("downsample.weight", "downsample_norm.weight", "downsample_norm.bias")
    }


def test_two_operators_of_a_layer_share_no_weight() -> None:
    supernet = SMALL.build_supernet(num_classes=3).eval()
    one, other = SMALL.from_key("10000000"), SMALL.from_key("20000000")
    before = supernet(images(SMALL, other), other)
    with torch.no_grad():
        for parameter in supernet.get_submodule("layers.0.blocks.mbconv-e3-k3").parameters():
            parameter.add_(1.0)
        changed = supernet(images(SMALL, one), one)
    assert torch.equal(supernet(images(SMALL, other), other), before)
    assert changed.shape == before.shape


def test_every_operator_of_every_layer_computes_something_else() -> None:
    supernet = SMALL.build_supernet(num_classes=3).train()
    for layer in range(8):
        outputs = []
        for digit in "012":
            arch = SMALL.from_key("1" * layer + digit + "1" * (7 - layer))
            with torch.no_grad():
                outputs.append(supernet(images(SMALL, arch, num=4), arch))
        assert not torch.allclose(outputs[0], outputs[1])
        assert not torch.allclose(outputs[0], outputs[2])
        assert not torch.allclose(outputs[1], outputs[2])


def test_sorting_channels_has_nothing_to_do() -> None:
    supernet = SMALL.build_supernet(num_classes=3)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.sort_channels(opened={"op": 1})
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_a_few_steps_of_training_reduce_the_loss() -> None:
    torch.manual_seed(0)
    supernet = SMALL.build_supernet(num_classes=2).train()
    arch = SMALL.from_key("10120102", resolution=12)
    labels_N = torch.tensor([0, 1] * 8)
    x_NCHW = torch.randn(16, *SMALL.input_shape(arch)) + labels_N.view(-1, 1, 1, 1)
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(supernet(x_NCHW, arch), labels_N)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
