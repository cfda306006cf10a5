"""What every worker derives alike from (seed, step): learning rate, subnets of the step, shards."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from nas.errors import TrainingError
from searchspaces import Architecture, SearchSpace
from searchspaces.genomes import Genomes

# Tags keep the random streams of different purposes apart (augmentation has 3).
_SHUFFLE, _SUBNETS, _OPEN_SUBNETS, _INPUT_SIZE, _LAYERS = 1, 2, 11, 12, 13


def cosine_rate(step: int, *, peak: float, warmup_steps: int, num_steps: int) -> float:
    """Learning rate of `step` (from 0): linear warm-up to `peak`, then half a cosine to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def sandwich_subnets(
    space: SearchSpace, opened: Mapping[str, int], *, seed: int, step: int, num_random: int
) -> list[Architecture]:
    """Subnets of one step: the largest (the teacher) first, random ones, the smallest last.

    Derived from (seed, step) alone, so that all workers train the same ones. Each carries its own resolution
    (sandwich rule with elastic resolution: Yu et al., BigNAS, ECCV 2020, sections 3.2-3.3). That of the smallest is
    drawn as well: trained at the lowest resolution alone, its weights, which all subnets share, fit that one best, and
    small subnets at high resolutions, which random drawing hardly ever gives, fall behind.

    Args:
        space: where they come from.
        opened: the phase's: what is not named decides the size of the input.
        seed: run seed.
        step: global step.
        num_random: how many besides the two.
    """
    rng = np.random.default_rng((seed, _SUBNETS, step))
    smallest_1G = _with_input_size(space, space.genomes([space.smallest]), opened=opened, seed=seed, step=step)
    return [space.largest, *space.architectures(np.concatenate([space.sample_many(num_random, rng), smallest_1G]))]


def open_subnets(
    space: SearchSpace, opened: Mapping[str, int], *, seed: int, step: int, num: int
) -> list[Architecture]:
    """Subnets of one step of progressive shrinking, drawn among those that are open.

    Subnet `number` is derived from (seed, step, number) alone, so that all workers train the same ones. All subnets of
    a step share the size of the input (resolution), which is drawn from (seed, step): one teacher's answer serves all.

    Args:
        space: where they come from.
        opened: a phase's: kind of choice -> how many of its largest values are in use, without the size of the input.
        seed: run seed.
        step: global step.
        num: how many.
    """
    lowest_G = space.lowest_positions(opened)
    genomes_NG = np.concatenate(
        [
            space.sample_many(1, np.random.default_rng((seed, _OPEN_SUBNETS, step, number)), lowest_G=lowest_G)
            for number in range(num)
        ]
    )
    return space.architectures(_with_input_size(space, genomes_NG, opened=opened, seed=seed, step=step))


def _with_input_size(
    space: SearchSpace, genomes_NG: Genomes, *, opened: Mapping[str, int], seed: int, step: int
) -> Genomes:
    """The genomes with the size of the input that belongs to a step."""
    # Drawn without limits, so that it does not depend on what is open.
    shared_1G = space.sample_many(1, np.random.default_rng((seed, _INPUT_SIZE, step)))
    columns = [g for g, choice in enumerate(space.choices) if choice.kind not in opened]
    changed_NG = genomes_NG.copy()
    changed_NG[:, columns] = shared_1G[:, columns]
    return changed_NG


def layer_seed(*, seed: int, step: int, rank: int) -> int:
    """Seed of the random layers (dropout) of one step on one worker."""
    return int(np.random.SeedSequence((seed, _LAYERS, step, rank)).generate_state(1)[0])


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
