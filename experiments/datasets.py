"""Data sets by name, divided once into train, search, verify and report.

Tensor letters: N examples, C channels, then H height and W width of an image, or T time steps of a series.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.downloads import Progress
from experiments.errors import DataError
from experiments.recipe_settings import DataSettings
from experiments.sources.registry import get_source
from experiments.sources.source import DataSource, Part, Source, Values
from nas.data import DataSplits, Examples, Preprocessing
from nas.errors import TrainingError
from nas.training.augmentation import check_augmentation

_SPLIT_STREAM = 1  # keeps the division independent of everything else that is derived from the run's seed
_CHUNK_VALUES = 1 << 22  # values looked at together: statistics need no float copy of a large data set


def load_dataset(
    settings: DataSettings,
    *,
    seed: int,
    on_progress: Progress | None = None,
    source: DataSource | None = None,
) -> DataSplits:
    """Load a data set, check it and divide it: stratified by class, fixed by the seed, disjoint.

    Every split has at least one example of each class. Changing the size of one split leaves the examples of the
    splits named before it in (report, verify, search) alone.

    Args:
        settings: the recipe's `data` section.
        seed: the run's seed.
        on_progress: told about downloads and long decoding.
        source: read instead of the registered one.

    Raises:
        DataError: missing or damaged files, data that make no sense, fewer examples than the splits need, or an
            augmentation that is not for them.
    """
    found = (source or get_source(settings.dataset)).read(settings, on_progress)
    _check(found, settings=settings)
    augmentation = settings.augmentation or found.augmentation
    try:
        check_augmentation(augmentation, shape=found.pool.inputs.shape[1:])
    except TrainingError as e:
        raise DataError(f"data.augmentation: {e}", hint=e.hint) from e
    report, verify, search, train = _divide(found, settings=settings, seed=seed)
    train_set = _examples(found.pool, indices=train)
    return DataSplits(
        name=settings.dataset if settings.subset is None else f"{settings.dataset} {settings.subset}",
        class_names=found.class_names,
        source_sha256=found.sha256(),
        train=train_set,
        search=_examples(found.pool, indices=search),
        verify=_examples(found.pool, indices=verify),
        report=_examples(found.pool, indices=report) if report is not None else _whole(found.official),
        preprocessing=_fit_preprocessing(train_set, settings=settings),
        augmentation=augmentation,
        metric=settings.metric,
    )


def locate_dataset(settings: DataSettings, *, source: DataSource | None = None) -> str:
    """Say where the data set would come from, without reading or fetching it: for `--dry-run` and `nas doctor`.

    Raises:
        DataError: the recipe's `path` lacks a file.
    """
    return (source or get_source(settings.dataset)).locate(settings)


def _check(source: Source, *, settings: DataSettings) -> None:
    """Refuse what no stage could work with.

    Raises:
        DataError: wrong shapes or labels, values that are no numbers, fewer than two classes, or an empty one.
    """
    place = f"data set {settings.dataset!r}"
    if len(source.class_names) < 2:
        raise DataError(
            f"{place} has {len(source.class_names)} class(es), expected two or more", hint="Check the labels."
        )
    if settings.report == "official" and source.official is None:
        raise DataError(f"{place} has no official test set", hint="Set data.report to an image count.")
    shape = source.pool.inputs.shape[1:]
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(
            f"{place}: one example has the shape {shape}, expected (C, H, W) or (C, T)", hint="Check the files."
        )
    _check_part(source.pool, where=f"{place}: it", class_names=source.class_names)
    if source.official is not None and settings.report == "official":
        where = f"{place}: its official test set"
        _check_part(source.official, where=where, class_names=source.class_names)
        if source.official.inputs.shape[1:] != shape:
            raise DataError(
                f"{where} has examples of shape {source.official.inputs.shape[1:]}, the others have {shape}",
                hint="All must have the same size; data.image_size resizes a folder of images.",
            )


def _check_part(part: Part, *, where: str, class_names: tuple[str, ...]) -> None:
    labels_N, num_classes = part.labels_N, len(class_names)
    if len(part.inputs) != len(labels_N):
        raise DataError(f"{where} has {len(part.inputs):,} examples, but {len(labels_N):,} labels", hint="Check both.")
    wrong = np.flatnonzero((labels_N < 0) | (labels_N >= num_classes))
    if len(wrong):
        raise DataError(
            f"{where} has the label {labels_N[wrong[0]]} (at position {wrong[0]:,}), expected 0..{num_classes - 1}",
            hint="Number the classes from 0 without gaps.",
        )
    counts = np.bincount(labels_N, minlength=num_classes)
    absent = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if absent:
        raise DataError(
            f"{where} has no image of {', '.join(absent)}: an empty class",
            hint="Remove the class, add examples of it, or check the files.",
        )
    if part.inputs.dtype != np.uint8:
        first = 0
        for chunk in _chunks(part.inputs):
            finite_n = np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
            if not finite_n.all():
                raise DataError(
                    f"{where} has a value that is no number (NaN or infinite) in example {first + finite_n.argmin():,}",
                    hint="Remove such examples, or fill the gaps.",
                )
            first += len(chunk)


def _chunks(values: Values) -> Iterator[Values]:
    size = max(1, _CHUNK_VALUES // max(1, int(np.prod(values.shape[1:]))))
    for first in range(0, len(values), size):
        yield values[first : first + size]


def _fit_preprocessing(train: Examples, *, settings: DataSettings) -> Preprocessing:
    """Mean and standard deviation of every channel over the training split."""
    values = train.inputs.numpy()
    axes = (0, *range(2, values.ndim))
    num_values = values.size / values.shape[1]
    mean_C = sum(chunk.sum(axis=axes, dtype=np.float64) for chunk in _chunks(values)) / num_values
    # A second pass: squares of raw values would drown a small deviation around a large mean.
    squares_C = np.zeros(values.shape[1])
    for chunk in _chunks(values):
        deviation = chunk - mean_C.reshape(1, -1, *(1 for _ in axes[1:]))
        squares_C += np.square(deviation, out=deviation).sum(axis=axes)
    std_C = np.sqrt(squares_C / num_values)
    constant = np.flatnonzero(~(std_C > 0))
    if len(constant):
        channel = f" of channel {constant[0]}" if values.shape[1] > 1 else ""
        raise DataError(
            f"data set {settings.dataset!r}: every value{channel} of the training split is {mean_C[constant[0]]:g}",
            hint="Nothing can be learnt from it: check the files.",
        )
    return Preprocessing(mean=tuple(mean_C.tolist()), std=tuple(std_C.tolist()))


def _divide(
    source: Source, *, settings: DataSettings, seed: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sorted pool indices of report (None: the official test set), verify, search and train."""
    sizes = {"report": settings.report, "verify": settings.verify, "search": settings.search}
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
    exhausted = np.flatnonzero(sum(quotas.values()) >= class_sizes)
    if len(exhausted):
        asked = " + ".join(f"{name} {count:,}" for name, count in counts.items())
        rarest = int(exhausted[np.argmin(class_sizes[exhausted])])
        raise DataError(
            f"data set {settings.dataset!r} has {num_images:,} images to divide: too few for {asked} and a training "
            f"split with every class ({source.class_names[rarest]} has {class_sizes[rarest]:,})",
            hint="Ask for smaller splits in the recipe's data section, or add examples.",
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
    """`count` examples over the classes in proportion to their sizes, at least one each.

    By largest remainder (ties: lower class first); a class too rare for a share takes one from the largest.
    """
    shares = count * class_sizes / class_sizes.sum()
    quotas: NDArray[np.int64] = np.floor(shares).astype(np.int64)
    order = np.argsort(-(shares - quotas), kind="stable")
    quotas[order[: count - int(quotas.sum())]] += 1
    for label in np.flatnonzero(quotas == 0):
        quotas[np.argmax(quotas)] -= 1
        quotas[label] = 1
    return quotas


def _examples(part: Part, *, indices: NDArray[np.int64]) -> Examples:
    return Examples(
        inputs=torch.from_numpy(part.inputs[indices]),
        labels_N=torch.from_numpy(part.labels_N[indices]),
        indices_N=torch.from_numpy(indices),
        part=part.name,
    )


def _whole(part: Part | None) -> Examples:
    assert part is not None  # _check has refused a data set without a test set of its own
    return _examples(part, indices=np.arange(len(part.labels_N), dtype=np.int64))
