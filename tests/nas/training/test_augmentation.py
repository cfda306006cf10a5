"""Augmentation by name: what it does to images and series, and that (seed, step, rank) decide it."""

import numpy as np
import pytest
import torch

from nas.data import DataSplits
from nas.errors import TrainingError
from nas.training.augmentation import augment, check_augmentation

IMAGES = ("none", "shift", "shift-flip", "crop-flip", "crop-flip-color")
SERIES = ("none", "shift", "jitter-scale")


def test_no_augmentation_leaves_images_as_they_are(data: DataSplits) -> None:
    images_NCHW = data.train.inputs[:8]
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
    images_NCHW = data.train.inputs[:32]
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


def ramp(num: int, *, size: int = 64, channels: int = 3) -> torch.Tensor:
    """uint8 images whose rows and columns count up: the first channel by rows, the others by columns."""
    line = torch.arange(size, dtype=torch.uint8) * (255 // size)
    rows_HW, columns_HW = line[:, None].expand(size, size), line[None].expand(size, size)
    image_CHW = torch.stack([rows_HW, *[columns_HW] * (channels - 1)])
    return image_CHW.expand(num, -1, -1, -1).contiguous()


def waves(num: int = 40, *, length: int = 96) -> torch.Tensor:
    times_T = torch.linspace(0.0, 6.0, length)
    return torch.stack([torch.sin(times_T), 100.0 + 5.0 * torch.cos(times_T)]).expand(num, -1, -1).contiguous()


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_keep_shape_range_and_the_original(name: str, dtype: torch.dtype) -> None:
    images_NCHW = ramp(16).to(dtype)
    original = images_NCHW.clone()
    found_NCHW = augment(images_NCHW, name=name, seed=0, step=3, rank=1)
    assert found_NCHW.shape == images_NCHW.shape
    assert found_NCHW.dtype in (dtype, torch.float32)
    assert images_NCHW.min() <= found_NCHW.min() <= found_NCHW.max() <= images_NCHW.max() + 1e-3
    assert torch.equal(images_NCHW, original)
    assert torch.equal(found_NCHW, augment(images_NCHW, name=name, seed=0, step=3, rank=1))
    if name != "none":
        assert not torch.equal(found_NCHW, augment(images_NCHW, name=name, seed=0, step=4, rank=1))


def test_a_crop_is_a_stretched_part_of_the_image_mirrored_or_not() -> None:
    size, step = 64, 255 // 64
    found_NCHW = augment(ramp(300, size=size), name="crop-flip", seed=0, step=0, rank=0)
    # within a part away from the border the ramp is a ramp again, only flatter: its slopes are the part's sides
    middle = slice(size // 4, -size // 4)
    tall_N = found_NCHW[:, 0, middle, 32].diff(dim=1).mean(dim=1) / step
    wide_N = found_NCHW[:, 1, 32, middle].diff(dim=1).mean(dim=1) / step
    assert tall_N.min() > 0
    assert 100 < int((wide_N < 0).sum()) < 200
    area_N, ratio_N = tall_N * wide_N.abs(), wide_N.abs() / tall_N
    assert 0.06 < area_N.min() < 0.16
    assert 0.9 < area_N.max() <= 1.001
    assert area_N.mean() == pytest.approx(0.53, abs=0.05)
    assert 0.74 < ratio_N.min() < 0.8
    assert 1.25 < ratio_N.max() < 1.34


def test_a_crop_of_a_small_image_keeps_sixteen_pixels() -> None:
    found_NCHW = augment(ramp(300, size=28), name="crop-flip", seed=0, step=0, rank=0)
    tall_N = found_NCHW[:, 0, 7:-7, 14].diff(dim=1).mean(dim=1) / (255 // 28)
    wide_N = found_NCHW[:, 1, 14, 7:-7].diff(dim=1).mean(dim=1).abs() / (255 // 28)
    assert (tall_N * wide_N * 28**2).min() >= 0.98 * 16**2


def test_colour_changes_brightness_of_grey_images_and_saturation_of_coloured_ones() -> None:
    grey_NCHW = torch.full((200, 3, 8, 8), 128.0)
    grey_NCHW[0, :, 0, 0], grey_NCHW[0, :, 0, 1] = 0.0, 255.0  # the range of the batch
    found_NCHW = augment(grey_NCHW, name="crop-flip-color", seed=0, step=0, rank=0)[1:]
    offsets_N = found_NCHW.mean(dim=(1, 2, 3)) - 128.0
    assert -32.1 < offsets_N.min() < -28
    assert 28 < offsets_N.max() < 32.1
    assert (found_NCHW.amax(dim=(1, 2, 3)) - found_NCHW.amin(dim=(1, 2, 3))).max() < 1e-3
    coloured_NCHW = grey_NCHW.clone()
    coloured_NCHW[:, 0] += 20.0
    found_NCHW = augment(coloured_NCHW, name="crop-flip-color", seed=0, step=0, rank=0)[1:]
    spread_N = (found_NCHW[:, 0] - found_NCHW[:, 1]).mean(dim=(1, 2)) / 20.0
    assert 0.5 <= spread_N.min() + 1e-3 < 0.55
    assert 1.45 < spread_N.max() - 1e-3 <= 1.5


@pytest.mark.parametrize("name", SERIES)
def test_series_keep_their_shape_and_the_original(name: str) -> None:
    series_NCT = waves()
    original = series_NCT.clone()
    found_NCT = augment(series_NCT, name=name, seed=0, step=3, rank=1)
    assert found_NCT.shape == series_NCT.shape
    assert torch.equal(series_NCT, original)
    assert torch.equal(found_NCT, augment(series_NCT, name=name, seed=0, step=3, rank=1))
    if name != "none":
        assert not torch.equal(found_NCT, augment(series_NCT, name=name, seed=1, step=3, rank=1))


def test_a_shift_in_time_repeats_the_ends_and_moves_all_channels_alike() -> None:
    series_NCT = torch.arange(16.0).expand(60, 3, 16)
    found_NCT = augment(series_NCT, name="shift", seed=0, step=0, rank=0)
    moved = {tuple(series_CT[0].tolist()) for series_CT in found_NCT}
    expected = {tuple(np.clip(np.arange(16.0) + shift, 0, 15).tolist()) for shift in (-2, -1, 0, 1, 2)}
    assert moved == expected
    assert torch.equal(found_NCT[:, 0], found_NCT[:, 2])


def test_jitter_and_scale_follow_each_channels_own_size() -> None:
    series_NCT = waves(200)
    change_NCT = augment(series_NCT, name="jitter-scale", seed=0, step=0, rank=0) - series_NCT
    deviation_C = series_NCT.std(dim=(0, 2), correction=0)
    # noise of .05 and a stretch of .1, both in standard deviations of the channel, whatever its level
    relative_C = change_NCT.std(dim=(0, 2), correction=0) / deviation_C
    assert relative_C.tolist() == pytest.approx([(0.05**2 + 0.1**2) ** 0.5] * 2, rel=0.15)
    assert change_NCT.mean(dim=(0, 2)).abs().max() < 0.02 * deviation_C.max()


@pytest.mark.parametrize(
    ("name", "shape", "problem", "allowed"),
    [
        ("jitter-scale", (3, 8, 8), "'jitter-scale' is not for images", ", ".join(IMAGES)),
        ("crop-flip", (3, 100), "'crop-flip' is not for series", "none, shift, jitter-scale"),
        ("twist", (1, 100), "unknown augmentation 'twist'", "none, shift, jitter-scale"),
    ],
)
def test_a_name_for_another_kind_of_input_is_refused(
    name: str, shape: tuple[int, ...], problem: str, allowed: str
) -> None:
    with pytest.raises(TrainingError, match=problem) as caught:
        check_augmentation(name, shape=shape)
    assert allowed in caught.value.hint


def test_every_name_fits_its_own_kind() -> None:
    for name in IMAGES:
        check_augmentation(name, shape=(3, 8, 8))
    for name in SERIES:
        check_augmentation(name, shape=(3, 100))
