"""Linear resizing as convolutions, for accelerators that resize only by whole numbers.

Resizing to a fixed size is linear: every output row is a weighted sum of input rows, the same for every column. With
the rows of an image as the height of a kernel, that is one convolution with an output channel per row; a second one
does the columns. In channels-last memory all rearranging between the two is a change of shape, nothing is moved (but
for one transposition at the end if there are several channels).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch.overrides import TorchFunctionMode

# Ethos-U takes kernels up to 64 high; larger inputs stay with a resize operator.
LARGEST_SIZE = 64


def resizes_as_convolutions() -> "TorchFunctionMode":
    """A context in which linear and bilinear `interpolate` to a fixed size, half-pixel centres, is convolutions.

    The results are the same up to rounding. Other calls, and inputs above `LARGEST_SIZE`, stay as they are.
    """
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        """Puts convolutions in the place of `interpolate`."""

        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Iterable[type],
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:  # noqa: ANN401
            named = kwargs or {}
            if func is functional.interpolate and len(args) == 1 and _fits(args[0], **named):
                return _resized(args[0], named["size"])
            return func(*args, **named)

    return Mode()


def _fits(
    x: "torch.Tensor",
    *,
    size: Any = None,  # noqa: ANN401
    mode: str = "nearest",
    align_corners: bool | None = None,
    antialias: bool = False,
    **others: Any,  # noqa: ANN401
) -> bool:
    plain = size is not None and not align_corners and not antialias
    return plain and (mode, x.ndim) in (("linear", 3), ("bilinear", 4)) and max(x.shape[2:]) <= LARGEST_SIZE


def _resized(x: "torch.Tensor", size: Any) -> "torch.Tensor":  # noqa: ANN401
    num_dims = x.ndim - 2
    sizes = (size,) * num_dims if isinstance(size, int) else tuple(size)
    num, channels, *native = x.shape
    if num_dims == 1:
        x_NTC1 = x.permute(0, 2, 1).unsqueeze(3)
        return _summed(x_NTC1, native[0], sizes[0]).reshape(num, channels, sizes[0])
    # Letters: H, W as they are, R rows and S columns as they shall be.
    x_NHWC = x.permute(0, 2, 3, 1)
    rows_N1WCR = _summed(x_NHWC.reshape(num, native[0], -1, 1), native[0], sizes[0])
    both_N1CRS = _summed(rows_N1WCR.reshape(num, native[1], -1, 1), native[1], sizes[1])
    if channels == 1:
        return both_N1CRS.reshape(num, *sizes, 1).permute(0, 3, 1, 2)
    return both_N1CRS.reshape(num, channels, *sizes)


def _summed(x_NIM1: "torch.Tensor", native: int, size: int) -> "torch.Tensor":
    """Weighted sums over the second axis, (N, 1, M, size)."""
    import torch

    kernel = torch.tensor(_weights(native, size).tolist(), dtype=x_NIM1.dtype, device=x_NIM1.device)
    sums = torch.nn.functional.conv2d(x_NIM1.permute(0, 3, 1, 2), kernel.view(size, 1, native, 1))
    return sums.permute(0, 2, 3, 1)


def _weights(native: int, size: int) -> NDArray[np.float64]:
    """What every output (row) takes from every input (column), with half-pixel centres."""
    position = np.maximum((np.arange(size) + 0.5) * native / size - 0.5, 0.0)
    low = np.minimum(np.floor(position).astype(np.int64), native - 1)
    high = np.minimum(low + 1, native - 1)
    weights = np.zeros((size, native))
    weights[np.arange(size), low] += 1.0 - (position - low)
    weights[np.arange(size), high] += position - low
    return weights
