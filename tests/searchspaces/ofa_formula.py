"""Weights and images made by a formula, equal wherever they are made: the ground of the golden answers.

Only numpy's bit generator is used, whose stream never changes. Scales are such that signals neither die nor explode.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch


def formula_tensor(key: str, shape: Sequence[int]) -> torch.Tensor:
    """The tensor of a published key in its plain spelling (see `searchspaces.ofa_keys.plain_key`)."""
    noise = _uniform(key, shape)
    if key.endswith("_matrix"):
        small = math.isqrt(len(noise))
        # A smaller kernel sums fewer numbers: scaled so, all are equally loud.
        return ((torch.eye(len(noise)) + 0.1 * noise) * (small + 2) / small).float()
    if key.endswith(("bias", "running_mean")):
        return (0.2 * noise).float()
    if len(shape) == 1:
        return (1.0 + 0.3 * noise).float()
    return (noise * math.sqrt(6.0 / noise[0].numel())).float()


def formula_images(resolution: int) -> torch.Tensor:
    """Two images, (2, 3, R, R), of different colour."""
    fine_NCHW = _uniform("fine", (2, 3, resolution, resolution))
    return (fine_NCHW + _uniform("coarse", (2, 3, 1, 1))).float()


def _uniform(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Numbers from -1 to 1 that depend on the name alone."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-52 - 1.0).view(list(shape))
