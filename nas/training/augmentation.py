"""Training augmentation by name: what every worker does alike to raw inputs, derived from (seed, step, rank).

Tensor letters: N examples, C channels, H height and W width of an image, T time steps of a series.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from nas.errors import TrainingError

# Keeps this stream apart from shuffling (1) and subnet sampling (2), see `nas.training.schedules`.
_AUGMENT = 3

# Random resized crops as in Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6 (arXiv:1409.4842) ...
_CROP_AREA, _CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
# ... but on small images a crop keeps at least so many pixels a side, otherwise nothing can be recognised.
_LEAST_CROP = 16
# Colour as the once-for-all networks were trained: brightness by 32 of 255, saturation by a half.
_BRIGHTNESS, _SATURATION = 32 / 255, 0.5
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Um et al., Data augmentation of wearable sensor data, ICMI 2017 (doi 10.1145/3136755.3136817).
_JITTER, _MAGNITUDE = 0.05, 0.1

_Augment = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


def check_augmentation(name: str, *, shape: tuple[int, ...]) -> None:
    """Refuse a name before training starts.

    Args:
        name: of an augmentation.
        shape: (C, H, W) of an image or (C, T) of a series.

    Raises:
        TrainingError: unknown, or not for this kind of input; the allowed ones are listed.
    """
    _find(name, dimensions=len(shape))


def augment(inputs: torch.Tensor, *, name: str, seed: int, step: int, rank: int) -> torch.Tensor:
    """Training augmentation of raw inputs, deterministic in (seed, step, rank).

    Images: "none"; "shift": moved by up to an eighth of the size, the border filled with the batch's minimum;
    "shift-flip": also mirrored with probability one half; "crop-flip": a random part resized to the whole, mirrored or
    not; "crop-flip-color": also brightness and saturation. Series: "none"; "shift": moved in time by up to an eighth,
    the ends repeated; "jitter-scale": noise of .05 standard deviations, and each channel stretched around its mean.

    Args:
        inputs: raw images (N, C, H, W) or series (N, C, T) in main memory, uint8 or float32; left as they are.
        name: see above.
        seed: run seed.
        step: global step.
        rank: worker number.

    Returns:
        The same shape; float32, or the dtype of `inputs` for "none" and the shifts of images.

    Raises:
        TrainingError: unknown name, or one for another kind of input.
    """
    function = _find(name, dimensions=inputs.ndim - 1)
    return function(inputs, np.random.default_rng((seed, _AUGMENT, step, rank)))


def _keep(inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return inputs


def _shift(images_NCHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    num, _, height, width = images_NCHW.shape
    reach = max(1, height // 8)
    padded = functional.pad(images_NCHW, (reach, reach, reach, reach), value=float(images_NCHW.min()))
    shifts_N2 = rng.integers(0, 2 * reach + 1, size=(num, 2))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    dy_N, dx_N = torch.from_numpy(shifts_N2).unbind(1)
    return windows[torch.arange(num), :, dy_N, dx_N]


def _shift_flip(images_NCHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    moved_NCHW = _shift(images_NCHW, rng)
    mirrored = torch.from_numpy(np.flatnonzero(rng.random(len(images_NCHW)) < 0.5))
    moved_NCHW[mirrored] = moved_NCHW[mirrored].flip(-1)
    return moved_NCHW


def _crop_flip(images_NCHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    num, _, height, width = images_NCHW.shape
    least = min(1.0, max(_CROP_AREA[0], _LEAST_CROP**2 / (height * width)))
    area_N = rng.uniform(least, _CROP_AREA[1], size=num)
    ratio_N = np.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1]), size=num))
    # Shares of the image's sides, width first; a part that would stick out is cut.
    sides_N2 = np.minimum(1.0, np.stack([np.sqrt(area_N * ratio_N), np.sqrt(area_N / ratio_N)], axis=1))
    centres_N2 = rng.uniform(-1.0, 1.0, size=(num, 2)) * (1.0 - sides_N2)
    mirrored_N = np.where(rng.random(num) < 0.5, -1.0, 1.0)
    # Where the result's pixels come from: x = side x' + centre, y likewise, both from -1 to 1 over the image.
    theta_N23 = np.zeros((num, 2, 3), dtype=np.float32)
    theta_N23[:, 0, 0], theta_N23[:, 0, 2] = sides_N2[:, 0] * mirrored_N, centres_N2[:, 0]
    theta_N23[:, 1, 1], theta_N23[:, 1, 2] = sides_N2[:, 1], centres_N2[:, 1]
    grid_NHW2 = functional.affine_grid(torch.from_numpy(theta_N23), list(images_NCHW.shape), align_corners=False)
    return functional.grid_sample(
        images_NCHW.to(torch.float32), grid_NHW2, mode="bilinear", padding_mode="border", align_corners=False
    )


def _crop_flip_color(images_NCHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    low, high = float(images_NCHW.min()), float(images_NCHW.max())
    cropped_NCHW = _crop_flip(images_NCHW, rng)
    num, channels = cropped_NCHW.shape[:2]
    brightness_N = rng.uniform(-_BRIGHTNESS, _BRIGHTNESS, size=num) * (high - low)
    saturation_N = rng.uniform(1.0 - _SATURATION, 1.0 + _SATURATION, size=num)
    if channels == len(_LUMINANCE):
        weights = torch.tensor(_LUMINANCE).view(1, -1, 1, 1)
        grey_N1HW = (cropped_NCHW * weights).sum(dim=1, keepdim=True)
        cropped_NCHW = torch.lerp(grey_N1HW, cropped_NCHW, _per_example(saturation_N, dimensions=4))
    return cropped_NCHW.add_(_per_example(brightness_N, dimensions=4)).clamp_(low, high)


def _shift_series(series_NCT: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    num, _, length = series_NCT.shape
    reach = max(1, length // 8)
    shifts_N = rng.integers(-reach, reach + 1, size=num)
    times_NT = np.clip(np.arange(length) + shifts_N[:, None], 0, length - 1)
    return series_NCT.gather(2, torch.from_numpy(times_NT)[:, None].expand(series_NCT.shape))


def _jitter_scale(series_NCT: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    series_NCT = series_NCT.to(torch.float32)
    mean_NC1 = series_NCT.mean(dim=2, keepdim=True)
    deviation_C1 = series_NCT.std(dim=(0, 2), correction=0)[:, None]
    scale_NC1 = torch.from_numpy(rng.normal(1.0, _MAGNITUDE, size=mean_NC1.shape).astype(np.float32))
    noise_NCT = torch.from_numpy(rng.standard_normal(tuple(series_NCT.shape), dtype=np.float32))
    return mean_NC1 + scale_NC1 * (series_NCT - mean_NC1) + _JITTER * deviation_C1 * noise_NCT


def _per_example(values_N: NDArray[np.float64], *, dimensions: int) -> torch.Tensor:
    return torch.from_numpy(values_N.astype(np.float32)).view(-1, *(1 for _ in range(dimensions - 1)))


_IMAGES: Mapping[str, _Augment] = {
    "none": _keep,
    "shift": _shift,
    "shift-flip": _shift_flip,
    "crop-flip": _crop_flip,
    "crop-flip-color": _crop_flip_color,
}
_SERIES: Mapping[str, _Augment] = {"none": _keep, "shift": _shift_series, "jitter-scale": _jitter_scale}


def _find(name: str, *, dimensions: int) -> _Augment:
    """The function called `name` for inputs with so many axes beside the examples: 3 for images, 2 for series."""
    kind, known = ("images", _IMAGES) if dimensions == 3 else ("series", _SERIES)
    if name not in known:
        exists = name in {*_IMAGES, *_SERIES}
        problem = f"augmentation {name!r} is not for {kind}" if exists else f"unknown augmentation {name!r}"
        raise TrainingError(problem, hint=f"for {kind}: {', '.join(known)}")
    return known[name]
