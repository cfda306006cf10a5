"""The depthwise convolution with a backward pass of its own computes what PyTorch's computes."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

from searchspaces.elastic.depthwise import depthwise_conv2d

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain_conv2d(x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, *, stride: int) -> torch.Tensor:
    """What PyTorch makes of it."""
    channels, _, kernel, _ = weight_C1KK.shape
    return functional.conv2d(x_NCHW, weight_C1KK, stride=stride, padding=kernel // 2, groups=channels)


def operands(
    shape: tuple[int, int, int, int], *, kernel: int, dtype: torch.dtype, layout: torch.memory_format, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random input and weights that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    x_NCHW = torch.randn(shape, generator=generator, dtype=dtype).contiguous(memory_format=layout)
    weight_C1KK = torch.randn(shape[1], 1, kernel, kernel, generator=generator, dtype=dtype)
    return x_NCHW.requires_grad_(), weight_C1KK.requires_grad_()


def assert_same(x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, *, stride: int, tolerance: float) -> None:
    """Compare values and both gradients with PyTorch's, differences relative to the largest entry."""
    results = []
    for convolve in (plain_conv2d, depthwise_conv2d):
        y_NCHW = convolve(x_NCHW, weight_C1KK, stride=stride)
        direction = torch.randn(y_NCHW.shape, generator=torch.Generator().manual_seed(1)).to(y_NCHW.dtype)
        results.append((y_NCHW, *torch.autograd.grad(y_NCHW, (x_NCHW, weight_C1KK), direction)))
    for expected, found in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        scale = expected.abs().max().clamp(min=1e-3)
        assert ((found - expected).abs().max() / scale).item() <= tolerance


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients_equal_those_of_conv2d_over_random_shapes(layout: torch.memory_format) -> None:
    rng = np.random.default_rng(0)
    for seed in range(60):
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 40)), int(rng.integers(1, 20)), int(rng.integers(1, 20)))
        kernel, stride = int(rng.choice([1, 3, 5, 7, 9])), int(rng.integers(1, 4))
        x_NCHW, weight_C1KK = operands(shape, kernel=kernel, dtype=torch.float32, layout=layout, seed=seed)
        assert_same(x_NCHW, weight_C1KK, stride=stride, tolerance=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [5, 7])
def test_a_batch_of_several_pieces_gives_the_gradient_of_all_its_images(kernel: int, stride: int) -> None:
    """About 5 MB of input where a piece has 4 MiB, and the last piece is smaller than the others."""
    x_NCHW, weight_C1KK = operands((23, 96, 24, 20), kernel=kernel, dtype=torch.float32, layout=torch.channels_last)
    assert_same(x_NCHW, weight_C1KK, stride=stride, tolerance=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 1, 2), (3, 2, 2), (5, 1, 6), (5, 2, 5), (7, 1, 4), (7, 2, 8)]
)
def test_gradients_agree_with_finite_differences(kernel: int, stride: int, size: int) -> None:
    x_NCHW, weight_C1KK = operands(
        (2, 3, size, size), kernel=kernel, dtype=torch.float64, layout=torch.channels_last, seed=3
    )
    assert torch.autograd.gradcheck(lambda x, w: depthwise_conv2d(x, w, stride=stride), (x_NCHW, weight_C1KK))


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_autocast_to_bfloat16_is_respected(kernel: int, stride: int) -> None:
    x_NCHW, weight_C1KK = operands((4, 32, 12, 12), kernel=kernel, dtype=torch.float32, layout=torch.channels_last)
    exact = torch.autograd.grad(plain_conv2d(x_NCHW, weight_C1KK, stride=stride).sum(), (x_NCHW, weight_C1KK))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_NCHW = depthwise_conv2d(x_NCHW, weight_C1KK, stride=stride)
    assert y_NCHW.dtype == torch.bfloat16
    found = torch.autograd.grad(y_NCHW.float().sum(), (x_NCHW, weight_C1KK))
    for gradient, expected in zip(found, exact, strict=True):
        assert gradient.dtype == torch.float32
        # Eight bits of mantissa, and sums over a few hundred pixels.
        torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.02 * expected.abs().max().item())


def test_two_runs_give_identical_bits() -> None:
    x_NCHW, weight_C1KK = operands((23, 96, 24, 20), kernel=7, dtype=torch.float32, layout=torch.channels_last)
    first, second = (
        torch.autograd.grad(depthwise_conv2d(x_NCHW, weight_C1KK).square().sum(), (x_NCHW, weight_C1KK))
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("wanted", ["input", "weight"])
def test_only_the_gradient_that_is_wanted_is_computed(wanted: str) -> None:
    x_NCHW, weight_C1KK = operands((2, 8, 9, 9), kernel=5, dtype=torch.float32, layout=torch.channels_last)
    (weight_C1KK if wanted == "input" else x_NCHW).requires_grad_(False)
    depthwise_conv2d(x_NCHW, weight_C1KK).sum().backward()
    assert (x_NCHW.grad is not None) == (wanted == "input")
    assert (weight_C1KK.grad is not None) == (wanted == "weight")


def test_outside_training_it_is_conv2d_itself() -> None:
    x_NCHW, weight_C1KK = operands((2, 8, 9, 9), kernel=7, dtype=torch.float32, layout=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(depthwise_conv2d(x_NCHW, weight_C1KK, stride=2), plain_conv2d(x_NCHW, weight_C1KK, stride=2))
    with torch.inference_mode():
        assert depthwise_conv2d(x_NCHW, weight_C1KK).shape == x_NCHW.shape
    frozen = depthwise_conv2d(x_NCHW.detach(), weight_C1KK.detach())
    assert frozen.grad_fn is None


def test_a_slow_case_of_pytorch_takes_the_own_backward_pass_and_a_fast_one_does_not() -> None:
    """A guard for the rule: were it to turn false everywhere, all tests of equality would still pass."""

    def backward_name(kernel: int, *, stride: int = 1, size: int = 12, dtype: torch.dtype = torch.float32) -> str:
        x_NCHW, weight_C1KK = operands((2, 16, size, size), kernel=kernel, dtype=dtype, layout=torch.channels_last)
        node = depthwise_conv2d(x_NCHW, weight_C1KK, stride=stride).grad_fn
        assert node is not None
        return type(node).__name__

    assert "Depthwise" in backward_name(5)
    assert "Depthwise" in backward_name(7, stride=2)
    assert "Depthwise" in backward_name(3, size=2)
    assert "Depthwise" in backward_name(3, stride=2, dtype=torch.bfloat16)
    assert "Depthwise" not in backward_name(3)
    assert "Depthwise" not in backward_name(3, stride=2)
    assert "Depthwise" not in backward_name(3, dtype=torch.bfloat16)
