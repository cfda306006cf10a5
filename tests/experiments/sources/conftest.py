"""The digits as people have their own data: images in folders, arrays and tensors in files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Sixty of each of the first four digits, in the order of their classes: uint8 images (N, 8, 8) and labels."""

    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


@pytest.fixture(scope="session")
def digits() -> Digits:
    bunch = load_digits()
    chosen = np.concatenate([np.flatnonzero(bunch.target == label)[:60] for label in range(4)])
    images = (bunch.images[chosen] * 15).astype(np.uint8)
    return Digits(images_NHW=images, labels_N=bunch.target[chosen].astype(np.int64))


def write_images(folder: Path, digits: Digits, *, suffix: str = ".png") -> Path:
    """One folder a class, files numbered within it."""
    counts = [0] * 10
    for image_HW, label in zip(digits.images_NHW, digits.labels_N.tolist(), strict=True):
        path = folder / f"digit-{label}" / f"{counts[label]:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_HW).save(path)
        counts[label] += 1
    return folder


@pytest.fixture
def folder(tmp_path: Path, digits: Digits) -> Path:
    """A folder of images that the test may change."""
    return write_images(tmp_path / "digits", digits)
