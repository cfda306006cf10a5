"""What workers derive alike from seed and step: rates, subnets, shards, augmentation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.data import DataSplits
from nas.errors import TrainingError
from nas.training.schedules import augment, cosine_rate, sandwich_subnets, shard_batches
from tests.nas.tiny_run import SPACE


def shards(rank: int, *, world_size: int, num: int = 103, batch: int = 12, epoch: int = 0) -> list[list[int]]:
    batches = shard_batches(num, batch_size=batch, seed=3, epoch=epoch, rank=rank, world_size=world_size)
    return [positions.tolist() for positions in batches]


def test_the_rate_warms_up_to_its_peak_and_falls_to_zero() -> None:
    rates = [cosine_rate(step, peak=0.5, warmup_steps=4, num_steps=20) for step in range(21)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4] == 0.5
    assert rates[12] == pytest.approx(0.25)
    assert rates[20] == pytest.approx(0.0, abs=1e-12)
    assert sorted(rates[4:], reverse=True) == rates[4:]


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert cosine_rate(0, peak=0.5, warmup_steps=0, num_steps=1) == 0.5


@given(st.integers(1, 50), st.integers(0, 60), st.data())
def test_every_rate_lies_between_zero_and_the_peak(num_steps: int, warmup_steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, num_steps - 1))
    assert 0.0 < cosine_rate(step, peak=0.1, warmup_steps=warmup_steps, num_steps=num_steps) <= 0.1


def test_the_sandwich_is_the_largest_random_ones_and_the_smallest() -> None:
    for num in (0, 1, 3):
        subnets = sandwich_subnets(SPACE, seed=1, step=5, num_random=num)
        assert len(subnets) == num + 2
        assert (subnets[0], subnets[-1]) == (SPACE.largest, SPACE.smallest)
        for arch in subnets:
            SPACE.validate(arch)


def test_seed_and_step_alone_decide_the_subnets() -> None:
    again = sandwich_subnets(SPACE, seed=1, step=5, num_random=3)
    assert sandwich_subnets(SPACE, seed=1, step=5, num_random=3) == again
    assert sandwich_subnets(SPACE, seed=1, step=6, num_random=3) != again
    assert sandwich_subnets(SPACE, seed=2, step=5, num_random=3) != again


def test_all_resolutions_are_trained() -> None:
    steps = [sandwich_subnets(SPACE, seed=0, step=step, num_random=2) for step in range(20)]
    resolutions = {SPACE.resolution(arch) for subnets in steps for arch in subnets[1:-1]}
    assert resolutions == {8, 12}


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 60), st.integers(0, 5))
def test_the_shards_of_a_step_are_disjoint_and_cover_its_batch(
    world_size: int, per_worker: int, spare: int, epoch: int
) -> None:
    batch = world_size * per_worker
    num = batch + spare
    ranks = [shards(rank, world_size=world_size, num=num, batch=batch, epoch=epoch) for rank in range(world_size)]
    alone = shards(0, world_size=1, num=num, batch=batch, epoch=epoch)
    assert {len(batches) for batches in ranks} == {num // batch}
    for step, whole in enumerate(alone):
        parts = [position for batches in ranks for position in batches[step]]
        assert len(parts) == batch
        assert set(parts) == set(whole)
        assert {len(batches[step]) for batches in ranks} == {per_worker}
    seen = [position for positions in alone for position in positions]
    assert len(seen) == len(set(seen)) == num // batch * batch
    assert set(seen) <= set(range(num))


def test_every_epoch_is_shuffled_anew() -> None:
    assert shards(0, world_size=1, epoch=0) == shards(0, world_size=1, epoch=0)
    assert shards(0, world_size=1, epoch=0) != shards(0, world_size=1, epoch=1)
    assert shards(0, world_size=1)[0] != sorted(shards(0, world_size=1)[0])


@pytest.mark.parametrize(("num", "batch", "world_size"), [(11, 12, 1), (0, 1, 1), (100, 10, 3)])
def test_a_batch_that_does_not_fit_is_refused(num: int, batch: int, world_size: int) -> None:
    with pytest.raises(TrainingError, match=f"a batch of {batch} images does not fit {num}") as caught:
        shards(0, world_size=world_size, num=num, batch=batch)
    assert "train.batch_size" in caught.value.hint


def test_no_augmentation_leaves_images_as_they_are(data: DataSplits) -> None:
    images_NCHW = data.train.images_NCHW[:8]
    assert torch.equal(augment(images_NCHW, name="none", seed=0, step=0, rank=0), images_NCHW)


def marked_images(num: int) -> torch.Tensor:
    """Black 8 x 8 images (value -1) with one bright pixel off the middle."""
    images_NCHW = torch.full((num, 1, 8, 8), -1.0)
    images_NCHW[:, :, 3, 5] = 9.0
    return images_NCHW


def bright_places(images_NCHW: torch.Tensor) -> list[tuple[int, int]]:
    places = []
    for image_CHW in images_NCHW:
        found = (image_CHW[0] == 9.0).nonzero().tolist()
        assert len(found) == 1
        places.append((found[0][0], found[0][1]))
    return places


def test_a_shift_moves_each_image_by_at_most_an_eighth_and_fills_with_the_minimum() -> None:
    moved_NCHW = augment(marked_images(200), name="shift", seed=0, step=1, rank=0)
    assert moved_NCHW.shape == (200, 1, 8, 8)
    assert set(bright_places(moved_NCHW)) == {(3 + dy, 5 + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    assert set(moved_NCHW.unique().tolist()) == {-1.0, 9.0}


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    places = bright_places(augment(marked_images(400), name="shift-flip", seed=0, step=1, rank=0))
    # column 5 +- 1 stays right of the middle, or lands mirrored at 2 +- 1
    mirrored = sum(column < 4 for _, column in places)
    assert 150 < mirrored < 250


def test_seed_step_and_rank_decide_the_augmentation(data: DataSplits) -> None:
    images_NCHW = data.train.images_NCHW[:32]
    original = images_NCHW.clone()
    results = [
        augment(images_NCHW, name="shift", seed=seed, step=step, rank=rank)
        for seed, step, rank in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert torch.equal(results[0], augment(images_NCHW, name="shift", seed=0, step=0, rank=0))
    assert not any(torch.equal(results[0], other) for other in results[1:])
    assert torch.equal(images_NCHW, original)


def test_an_unknown_augmentation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TrainingError, match="unknown augmentation 'twist'") as caught:
        augment(marked_images(1), name="twist", seed=0, step=0, rank=0)
    assert "shift-flip" in caught.value.hint
