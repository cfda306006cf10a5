"""The torch functions that a program file may call, by name: what is not listed here cannot be loaded.

Every one computes tensors from tensors; none reads files, imports modules or runs code, so a file from a stranger can
at worst compute something useless.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

TorchFunction: TypeAlias = Callable[..., Any]

_TORCH = """
abs add addmm amax amin baddbmm bmm cat chunk clamp concat cos div einsum erf exp flatten ge gt hardshrink le log log1p
logsumexp lt masked_fill matmul max max_pool1d max_pool2d maximum mean min minimum mm mul ne neg permute pow
quantize_per_tensor relu relu_ reshape rsqrt sigmoid sin softmax split sqrt square squeeze stack std sub sum tanh
transpose unbind unsqueeze var where
"""
_FUNCTIONAL = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d batch_norm celu
conv1d conv2d dropout dropout1d dropout2d elu gelu glu group_norm hardsigmoid hardswish hardtanh instance_norm
interpolate layer_norm leaky_relu linear log_softmax logsigmoid max_pool1d max_pool2d mish normalize pad pixel_shuffle
pixel_unshuffle prelu relu relu6 rms_norm scaled_dot_product_attention selu sigmoid silu softmax softplus softsign tanh
unfold upsample
"""
_TENSOR = """
__getitem__ __pow__ __rsub__ __rtruediv__ abs add add_ amax amin bmm chunk clamp clamp_ clone contiguous dequantize
detach div div_ eq erf exp expand expand_as flatten float ge gt le log lt masked_fill matmul max mean min mul mul_ ne
neg permute pow relu relu_ repeat reshape rsqrt sigmoid sigmoid_ softmax split sqrt square squeeze std sub sub_ sum tanh
to transpose type_as unbind unflatten unsqueeze var view view_as
"""


def torch_functions() -> Mapping[str, TorchFunction]:
    """The allowed functions of torch's Python interface, by the names that files use."""
    import torch
    from torch.nn import functional

    return {
        **{f"torch.{name}": getattr(torch, name) for name in _TORCH.split()},
        **{f"functional.{name}": getattr(functional, name) for name in _FUNCTIONAL.split()},
        **{f"Tensor.{name}": getattr(torch.Tensor, name) for name in _TENSOR.split()},
    }


def int8_functions() -> Mapping[str, TorchFunction]:
    """Functions of quantised tensors (quint8), called like the others."""
    import torch

    return {"int8.add": torch.ops.quantized.add.default, "int8.hardswish": torch.ops.quantized.hardswish.default}


def int8_layers() -> Mapping[str, TorchFunction]:
    """Layers on quantised tensors: called once with their constants, they return the function of the input.

    Packing the weights takes long, and a deployed network has done it when its first input comes.
    """
    return {"int8.conv1d": _conv1d, "int8.conv2d": _conv2d, "int8.linear": _linear}


def _conv1d(
    weight_q: "torch.Tensor",
    scales: "torch.Tensor",
    bias: "torch.Tensor",
    geometry: Sequence[Sequence[int]],
    groups: int,
    scale: float,
    zero_point: int,
    relu: bool,
) -> TorchFunction:
    import torch

    kernels = torch.ops.quantized
    packed = kernels.conv1d_prepack(_dequantisable(weight_q, scales=scales), bias, *map(list, geometry), groups)
    kernel = kernels.conv1d_relu.default if relu else kernels.conv1d.default
    return lambda x: kernel(x, packed, scale, zero_point)


def _conv2d(
    weight_q: "torch.Tensor",
    scales: "torch.Tensor",
    bias: "torch.Tensor",
    geometry: Sequence[Sequence[int]],
    groups: int,
    scale: float,
    zero_point: int,
    relu: bool,
) -> TorchFunction:
    import torch

    kernels = torch.ops.quantized
    packed = kernels.conv2d_prepack(_dequantisable(weight_q, scales=scales), bias, *map(list, geometry), groups)
    kernel = kernels.conv2d_relu.new if relu else kernels.conv2d.new
    return lambda x: kernel(x, packed, scale, zero_point)


def _linear(
    weight_q: "torch.Tensor",
    scales: "torch.Tensor",
    bias: "torch.Tensor",
    scale: float,
    zero_point: int,
    relu: bool,
) -> TorchFunction:
    import torch

    kernels = torch.ops.quantized
    packed = kernels.linear_prepack(_dequantisable(weight_q, scales=scales), bias)
    kernel = kernels.linear_relu.default if relu else kernels.linear.default
    return lambda x: kernel(x, packed, scale, zero_point)


def _dequantisable(weight_q: "torch.Tensor", *, scales: "torch.Tensor") -> "torch.Tensor":
    """The file's int8 values as a quantised tensor of exactly these values, one scale an output channel."""
    import torch

    weight = weight_q.to(torch.float32) * scales.view(-1, *(1 for _ in weight_q.shape[1:]))
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        # torch says that a later release will replace the quantised types.
        warnings.simplefilter("ignore")
        return torch.quantize_per_channel(weight, scales.to(torch.float64), zeros, 0, torch.qint8)
