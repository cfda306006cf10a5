"""Depthwise convolution whose backward pass is fast on a CPU.

In a training step of a small MBConv network on a CPU most of the time is the backward pass of its depthwise
convolutions. PyTorch gives it to oneDNN, which has a good kernel for the weight gradient only up to three kernel
columns, and for maps that are not smaller than the kernel; everything else is computed as a dense convolution of 16 x
16 channels of which the diagonal is kept. bfloat16 meets the same fallback in the input gradient at stride 2. Three
exact rewritings avoid it:

- weight gradient: kernel columns are independent, so two or three at a time are asked for, with the padding written out
  and a few images at a time, which keeps the copies in the cache;
- input gradient at stride 1: the forward convolution of the output gradient with the kernel turned by 180 degrees;
- input gradient at a larger stride in bfloat16: computed in float32.

PyTorch's time divided by ours, measured with PyTorch 2.13, channels-last, one thread of an AMD EPYC with AVX-512, as
processor time, median of 9 interleaved pairs; "-": PyTorch's own function is taken. In the whole step of the largest
MobileNetV3 of once-for-all (batch 16, 128 px) that is 1.4 in float32 and 2.5 in bfloat16.

    images x channels x map,        float32           bfloat16
    kernel / stride               weight    input   weight    input
    128 x 96 x 28 px, 3 / 2               -        -        -     15.5
    128 x 48 x 28 px, 5 / 1             3.2      1.7      7.9      0.8
    128 x 96 x 14 px, 7 / 1             2.2      1.8      4.0      1.5
    128 x 96 x 28 px, 5 / 2             1.5        -      7.7     24.3
    128 x 144 x 7 px, 5 / 1             1.7      1.4      7.4      1.6
    128 x 240 x 4 px, 7 / 1             2.0      1.0      5.9      1.4
    32 x 96 x 64 px, 7 / 2              2.4        -      8.9     19.4
    32 x 144 x 32 px, 5 / 1             3.3      1.6     11.2      1.5
    32 x 240 x 16 px, 7 / 1             2.4      1.7      4.2      1.5
    32 x 672 x 8 px, 7 / 1              2.6      2.1      7.4      2.1
    32 x 960 x 4 px, 5 / 1              2.7      2.2     18.1      1.7

Tensor letters: N images, C channels, H height, W width, K kernel.
"""

from itertools import pairwise
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

# oneDNN's depthwise weight gradient takes at most this many kernel columns.
_MOST_COLUMNS = 3
# Bytes of padded input in one piece of the weight gradient: 2 to 4 MiB were best for all shapes, in the L2 or L3 cache.
_PIECE_BYTES = 4 * 2**20


def depthwise_conv2d(x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, *, stride: int = 1) -> torch.Tensor:
    """Convolve each channel with its own kernel, without bias and with "same" padding.

    The same as `functional.conv2d(x, weight, stride=stride, padding=K // 2, groups=C)`, to which it falls back outside
    training and off the CPU; gradients differ by rounding only. Autocast is respected. No second derivative.

    Args:
        x_NCHW: input, in any memory format.
        weight_C1KK: one kernel of odd size a channel.
        stride: of both axes.
    """
    if not _is_slow(x_NCHW, weight_C1KK, stride=stride):
        return _forward(x_NCHW, weight_C1KK, stride=stride)
    if torch.is_autocast_enabled("cpu"):
        # Cast here, where autograd sees it: an autograd function would keep the inputs' own type.
        dtype = torch.get_autocast_dtype("cpu")
        x_NCHW, weight_C1KK = x_NCHW.to(dtype), weight_C1KK.to(dtype)
    y_NCHW: torch.Tensor = _DepthwiseConv2d.apply(x_NCHW, weight_C1KK, stride)  # type: ignore[no-untyped-call]
    return y_NCHW


def _is_slow(x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, *, stride: int) -> bool:
    """Whether PyTorch's backward pass meets a slow case."""
    needs_grad = torch.is_grad_enabled() and (x_NCHW.requires_grad or weight_C1KK.requires_grad)
    if not needs_grad or x_NCHW.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    kernel = weight_C1KK.shape[-1]
    if kernel > _MOST_COLUMNS or min(x_NCHW.shape[2:]) < kernel:
        return True
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_NCHW.dtype
    return stride > 1 and dtype.itemsize < torch.float32.itemsize


def _forward(x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, *, stride: int) -> torch.Tensor:
    channels, _, kernel, _ = weight_C1KK.shape
    return functional.conv2d(x_NCHW, weight_C1KK, stride=stride, padding=kernel // 2, groups=channels)


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, stride: int) -> torch.Tensor:  # noqa: ANN401
        ctx.save_for_backward(x_NCHW, weight_C1KK)
        ctx.stride = stride
        return _forward(x_NCHW, weight_C1KK, stride=stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCHW: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:  # noqa: ANN401
        x_NCHW, weight_C1KK = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        return (
            _input_gradient(grad_NCHW, x_NCHW, weight_C1KK, ctx.stride) if need_x else None,
            _weight_gradient(grad_NCHW, x_NCHW, weight_C1KK, ctx.stride) if need_weight else None,
            None,
        )


def _input_gradient(
    grad_NCHW: torch.Tensor, x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, stride: int
) -> torch.Tensor:
    kernel = weight_C1KK.shape[-1]
    if stride == 1:
        return _forward(grad_NCHW, weight_C1KK.flip(2, 3), stride=1)
    wide = torch.promote_types(x_NCHW.dtype, torch.float32)
    # Only the shape and the memory format of the input are used: memory that is not touched costs nothing.
    like_x = torch.empty_like(x_NCHW, dtype=wide)
    gradient = _convolution_backward(
        grad_NCHW.to(wide), like_x, weight_C1KK.to(wide), stride=stride, padding=kernel // 2, of_input=True
    )
    return gradient.to(x_NCHW.dtype)


def _weight_gradient(
    grad_NCHW: torch.Tensor, x_NCHW: torch.Tensor, weight_C1KK: torch.Tensor, stride: int
) -> torch.Tensor:
    channels, _, kernel, _ = weight_C1KK.shape
    height, width = x_NCHW.shape[2:]
    pad = kernel // 2
    if kernel <= _MOST_COLUMNS and min(height, width) >= kernel:
        return _convolution_backward(grad_NCHW, x_NCHW, weight_C1KK, stride=stride, padding=pad, of_input=False)
    total_C1KK = torch.zeros_like(weight_C1KK, dtype=torch.promote_types(weight_C1KK.dtype, torch.float32))
    # Groups of columns of about the same size: a single column would be another slow case at stride 2.
    groups = -(-kernel // _MOST_COLUMNS)
    # Padded just as far as the output needs it; negative: cut off what no output pixel uses.
    rows, columns = (stride * (size - 1) for size in grad_NCHW.shape[2:])
    below, right = rows + kernel - height - pad, columns + kernel - width - pad
    images = max(1, _PIECE_BYTES // (channels * (rows + kernel) * (columns + kernel) * x_NCHW.itemsize))
    for x_piece, grad_piece in zip(x_NCHW.split(images), grad_NCHW.split(images), strict=True):
        padded = functional.pad(x_piece, (pad, right, pad, below))
        for first, end in pairwise(kernel * group // groups for group in range(groups + 1)):
            total_C1KK[..., first:end] += _convolution_backward(
                grad_piece,
                padded[..., first : columns + end],
                weight_C1KK[..., first:end],
                stride=stride,
                padding=0,
                of_input=False,
            )
    return total_C1KK.to(weight_C1KK.dtype)


def _convolution_backward(
    grad_NCHW: torch.Tensor,
    x_NCHW: torch.Tensor,
    weight_C1KK: torch.Tensor,
    *,
    stride: int,
    padding: int,
    of_input: bool,
) -> torch.Tensor:
    """PyTorch's own gradient of the input, or else of the weight."""
    gradients = torch.ops.aten.convolution_backward(
        grad_NCHW,
        x_NCHW,
        weight_C1KK,
        None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        weight_C1KK.shape[0],
        [of_input, not of_input, False],
    )
    gradient: torch.Tensor = gradients[0 if of_input else 1]
    return gradient
