"""What every worker derives alike from (seed, step): learning rate, subnets of the step, shards, augmentation."""

import math

import numpy as np
import torch
from torch.nn import functional

from nas.errors import TrainingError
from searchspaces import Architecture, SearchSpace

# Tags keep the random streams of different purposes apart.
_SHUFFLE, _SUBNETS, _AUGMENT = 1, 2, 3


def cosine_rate(step: int, *, peak: float, warmup_steps: int, num_steps: int) -> float:
    """Learning rate of `step` (from 0): linear warm-up to `peak`, then half a cosine to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def sandwich_subnets(space: SearchSpace, *, seed: int, step: int, num_random: int) -> list[Architecture]:
    """Subnets of one step: the largest (the teacher) first, random ones, the smallest last.

    Derived from (seed, step) alone, so that all workers train the same ones. Each carries its own resolution
    (sandwich rule with elastic resolution: Yu et al., BigNAS, ECCV 2020, sections 3.2-3.3).
    """
    rng = np.random.default_rng((seed, _SUBNETS, step))
    return [space.largest, *space.architectures(space.sample_many(num_random, rng)), space.smallest]


def shard_batches(
    num_images: int, *, batch_size: int, seed: int, epoch: int, rank: int, world_size: int
) -> list[torch.Tensor]:
    """Image positions of every step of an epoch for one worker.

    All workers shuffle alike and take every `world_size`-th position of each batch, so the shards are disjoint and all
    workers make the same number of steps. The incomplete last batch is dropped.

    Returns:
        One int64 tensor a step, of batch_size / world_size positions.

    Raises:
        TrainingError: fewer images than one batch, or a batch that does not divide among the workers.
    """
    if num_images < batch_size or batch_size % world_size:
        raise TrainingError(
            f"a batch of {batch_size} images does not fit {num_images} training images and {world_size} workers",
            hint="lower train.batch_size, or make it a multiple of train.workers",
        )
    order = torch.from_numpy(np.random.default_rng((seed, _SHUFFLE, epoch)).permutation(num_images))
    steps = num_images // batch_size
    return [order[step * batch_size : (step + 1) * batch_size][rank::world_size] for step in range(steps)]


def augment(images_NCHW: torch.Tensor, *, name: str, seed: int, step: int, rank: int) -> torch.Tensor:
    """Training augmentation of raw images, deterministic in (seed, step, rank).

    Args:
        images_NCHW: raw images.
        name: "none"; "shift": moved by up to an eighth of the size, the border filled with the image's minimum;
            "shift-flip": also mirrored with probability one half.
        seed: run seed.
        step: global step.
        rank: worker number.

    Raises:
        TrainingError: unknown name.
    """
    if name not in ("none", "shift", "shift-flip"):
        raise TrainingError(f"unknown augmentation {name!r}", hint="known: none, shift, shift-flip")
    if name == "none":
        return images_NCHW
    rng = np.random.default_rng((seed, _AUGMENT, step, rank))
    num, _, height, width = images_NCHW.shape
    reach = max(1, height // 8)
    padded = functional.pad(images_NCHW, (reach, reach, reach, reach), value=float(images_NCHW.min()))
    shifts_N2 = rng.integers(0, 2 * reach + 1, size=(num, 2))
    result_NCHW = torch.empty_like(images_NCHW)
    for dy, dx in np.unique(shifts_N2, axis=0).tolist():
        chosen = torch.from_numpy(np.flatnonzero((shifts_N2 == (dy, dx)).all(axis=1)))
        result_NCHW[chosen] = padded[chosen][:, :, dy : dy + height, dx : dx + width]
    if name == "shift-flip":
        mirrored = torch.from_numpy(np.flatnonzero(rng.random(num) < 0.5))
        result_NCHW[mirrored] = result_NCHW[mirrored].flip(-1)
    return result_NCHW
