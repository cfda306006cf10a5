"""Calibration inputs, as the quantisers of all formats take them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def whole_batches(calibration: "torch.Tensor", *, size: int) -> Iterator[NDArray[Any]]:
    """Yield float32 batches of exactly `size` inputs; the last inputs are repeated where a batch is not full."""
    inputs = calibration.detach().cpu().numpy().astype(np.float32, copy=False)
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        repeated = np.repeat(batch[-1:], size - len(batch), axis=0)
        yield np.ascontiguousarray(np.concatenate([batch, repeated]))
