"""Data sets by name, divided once into train, search, verify and report.

Tensor letters: N images, C channels, H height, W width.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import fashion_mnist
from experiments.downloads import Progress
from experiments.errors import DataError
from experiments.fashion_mnist import FashionPlaces
from experiments.recipe_settings import DataSettings
from nas.data import DataSplits, ImageSet, Preprocessing

_SPLIT_STREAM = 1  # keeps the division independent of everything else that is derived from the run's seed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One part of a source: images (N, H, W) and labels (N), uint8."""

    name: str
    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A data set before it is divided; `official` is its own test set."""

    class_names: tuple[str, ...]
    pool: _Part
    official: _Part | None
    augmentation: str

    def sha256(self) -> str:
        """Checksum of the pixels and labels, whatever archive they came in."""
        digest = hashlib.sha256()
        for part in (self.pool, self.official):
            if part is not None:
                digest.update(np.ascontiguousarray(part.images_NHW).data)
                digest.update(np.ascontiguousarray(part.labels_N).data)
        return digest.hexdigest()


def load_dataset(
    settings: DataSettings,
    *,
    seed: int,
    on_progress: Progress | None = None,
    places: FashionPlaces | None = None,
) -> DataSplits:
    """Load a data set and divide it: stratified by class, fixed by the seed, disjoint.

    Changing the size of one split leaves the images of the splits named before it in (report, verify, search) alone.

    Args:
        settings: the recipe's `data` section.
        seed: the run's seed.
        on_progress: told about downloads.
        places: where Fashion-MNIST is looked for; the usual places if None.

    Raises:
        DataError: missing or damaged files, or fewer images than the splits need.
    """
    readers: dict[str, Callable[[], _Source]] = {
        "digits": _read_digits,
        "fashion-mnist": lambda: _read_fashion_mnist(settings, on_progress=on_progress, places=places),
    }
    source = readers[settings.dataset]()
    report, verify, search, train = _divide(source, settings=settings, seed=seed)
    pixels = source.pool.images_NHW[train]
    # Image by image, so that no float64 copy of a large data set is made.
    means, squares = pixels.mean(axis=(1, 2)), np.square(pixels, dtype=np.float32).mean(axis=(1, 2), dtype=np.float64)
    mean = float(means.mean())
    std = float(np.sqrt(squares.mean() - mean**2))
    if not std > 0:
        raise DataError(
            f"data set {settings.dataset!r}: every pixel of the training split is {mean:g}", hint="Check the files."
        )
    return DataSplits(
        name=settings.dataset,
        class_names=source.class_names,
        source_sha256=source.sha256(),
        train=_image_set(source.pool, indices=train),
        search=_image_set(source.pool, indices=search),
        verify=_image_set(source.pool, indices=verify),
        report=_image_set(source.pool, indices=report) if report is not None else _whole(source.official),
        preprocessing=Preprocessing(mean=mean, std=std),
        augmentation=source.augmentation,
    )


def locate_dataset(settings: DataSettings, *, places: FashionPlaces | None = None) -> str:
    """Say where the data set would come from, without reading or fetching it: for `--dry-run` and `nas doctor`.

    Raises:
        DataError: the recipe's `data_dir` lacks a file.
    """
    if settings.dataset == "digits":
        return "comes with scikit-learn"
    folder = fashion_mnist.find_files(settings.data_dir, places=places or FashionPlaces())
    return f"found in {folder}" if folder is not None else "not on this machine: would be downloaded (31 MB)"


def _read_digits() -> _Source:
    from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

    bunch = load_digits()
    part = _Part(name="digits", images_NHW=bunch.images.astype(np.uint8), labels_N=bunch.target.astype(np.uint8))
    return _Source(class_names=tuple("0123456789"), pool=part, official=None, augmentation="shift")


def _read_fashion_mnist(
    settings: DataSettings, *, on_progress: Progress | None, places: FashionPlaces | None
) -> _Source:
    places = places or FashionPlaces()
    folder = fashion_mnist.find_files(settings.data_dir, places=places)
    if folder is None:
        folder = fashion_mnist.fetch_files(places=places, on_progress=on_progress)
    pool, official = (
        _Part(name=name, images_NHW=images, labels_N=labels)
        for name in ("train", "t10k")
        for images, labels in (fashion_mnist.read_part(folder, part=name),)
    )
    return _Source(class_names=fashion_mnist.CLASS_NAMES, pool=pool, official=official, augmentation="shift-flip")


def _divide(
    source: _Source, *, settings: DataSettings, seed: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sorted pool indices of report (None: the official test set), verify, search and train."""
    sizes = {"report": settings.report, "verify": settings.verify, "search": settings.search}
    if settings.report == "official":
        if source.official is None:
            raise DataError(
                f"data set {settings.dataset!r} has no official test set", hint="Set data.report to an image count."
            )
        _check_classes(source.official.labels_N, where="its official test set", source=source, settings=settings)
    _check_classes(source.pool.labels_N, where="it", source=source, settings=settings)
    counts = {name: size for name, size in sizes.items() if isinstance(size, int)}
    num_classes, num_images = len(source.class_names), len(source.pool.labels_N)
    for name, count in counts.items():
        if count < num_classes:
            raise DataError(
                f"data.{name}: got {count}, expected at least one image of each of {num_classes} classes",
                hint=f"Set data.{name} to {num_classes} or more.",
            )
    class_sizes = np.bincount(source.pool.labels_N, minlength=num_classes)
    quotas = {name: _quotas(count, class_sizes=class_sizes) for name, count in counts.items()}
    if np.any(sum(quotas.values()) >= class_sizes):
        asked = " + ".join(f"{name} {count:,}" for name, count in counts.items())
        raise DataError(
            f"data set {settings.dataset!r} has {num_images:,} images to divide: too few for {asked} and a training "
            "split with every class",
            hint="Ask for smaller splits in the recipe's data section.",
        )
    rng = np.random.default_rng([seed, _SPLIT_STREAM])
    rests = [rng.permutation(np.flatnonzero(source.pool.labels_N == label)) for label in range(num_classes)]
    chosen: dict[str, NDArray[np.int64]] = {}
    for name, quota_per_class in quotas.items():
        taken = [rest[:quota] for rest, quota in zip(rests, quota_per_class, strict=True)]
        rests = [rest[quota:] for rest, quota in zip(rests, quota_per_class, strict=True)]
        chosen[name] = np.sort(np.concatenate(taken))
    return chosen.get("report"), chosen["verify"], chosen["search"], np.sort(np.concatenate(rests))


def _quotas(count: int, *, class_sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """`count` images over the classes in proportion to their sizes, by largest remainder (ties: lower class first)."""
    shares = count * class_sizes / class_sizes.sum()
    quotas: NDArray[np.int64] = np.floor(shares).astype(np.int64)
    order = np.argsort(-(shares - quotas), kind="stable")
    quotas[order[: count - int(quotas.sum())]] += 1
    return quotas


def _check_classes(labels_N: NDArray[np.uint8], *, where: str, source: _Source, settings: DataSettings) -> None:
    present = np.bincount(labels_N, minlength=len(source.class_names)) > 0
    absent = [name for name, there in zip(source.class_names, present, strict=True) if not there]
    if absent:
        raise DataError(
            f"data set {settings.dataset!r}: {where} has no image of {', '.join(absent)}", hint="Check the files."
        )


def _image_set(part: _Part, *, indices: NDArray[np.int64]) -> ImageSet:
    images = torch.from_numpy(part.images_NHW[indices]).to(torch.float32)[:, None]
    labels = torch.from_numpy(part.labels_N[indices].astype(np.int64))
    return ImageSet(images_NCHW=images, labels_N=labels, indices_N=torch.from_numpy(indices), part=part.name)


def _whole(part: _Part | None) -> ImageSet:
    assert part is not None  # _divide has refused a data set without a test set of its own
    return _image_set(part, indices=np.arange(len(part.labels_N), dtype=np.int64))
