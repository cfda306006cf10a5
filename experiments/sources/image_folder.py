"""Own images: one folder a class, or `train` and `test` folders with one folder a class each.

Classes are sorted by name and images by class and file name: position n of a split in `report_split.json` is the n-th
image of that order. Images become uint8 in memory, colour if any of them has colour, without their transparency.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.downloads import Progress
from experiments.errors import DataError
from experiments.sources.source import DataSource, Part, Source, require_memory

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_EIGHT_BITS = 8
_GREY_MODES = frozenset({"1", "L", "LA"})
_EIGHT_BIT_MODES = _GREY_MODES | {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_LAYOUT = "Make one folder a class, with PNG, JPEG, BMP or WebP files; or train/ and test/ with such folders."
_LITTER = frozenset({"thumbs.db", "desktop.ini"})  # what Windows leaves in folders; macOS hides its own
_PNG_HEAD = 25  # bytes: signature, then length, type, width, height and bit depth of the first chunk, IHDR
_THREADS = 2
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """Files and labels of one part, in order."""

    name: str
    paths: tuple[Path, ...]
    labels_N: NDArray[np.int64]


def _read(settings: "DataSettings", on_progress: Progress | None) -> Source:
    class_names, listings = _list(_existing(settings))
    paths = [path for listing in listings for path in listing.paths]
    with ThreadPoolExecutor(_THREADS) as pool:
        heads = list(pool.map(_head, paths))
    channels = settings.channels or (1 if all(mode in _GREY_MODES for _, mode in heads) else 3)
    width, height = _common_size([size for size, _ in heads], paths=paths, image_size=settings.image_size)
    require_memory(
        len(paths) * channels * height * width,
        what=f"{len(paths):,} images of {channels}x{height}x{width}",
        hint="Set data.image_size to a smaller side, or use fewer images.",
    )
    parts = [
        Part(
            name=listing.name,
            inputs=_decode(listing.paths, shape=(channels, height, width), on_progress=on_progress),
            labels_N=listing.labels_N,
        )
        for listing in listings
    ]
    official = parts[1] if len(parts) > 1 else None
    return Source(class_names=class_names, pool=parts[0], official=official, augmentation="shift-flip")


def _locate(settings: "DataSettings") -> str:
    return f"images in {_existing(settings)}"


def _existing(settings: "DataSettings") -> Path:
    path = Path(str(settings.path))
    if not path.is_dir():
        raise DataError(f"data.path {str(path)!r} is no folder", hint=_LAYOUT)
    return path


def _list(root: Path) -> tuple[tuple[str, ...], list[_Listing]]:
    """Class names, and the files of the pool and, if there is one, of the official test set."""
    names = [path.name for path in _visible(root) if path.is_dir()]
    if "train" not in names:
        if "test" in names:
            raise DataError(
                f"{root} has a folder 'test', but no folder 'train'",
                hint="Put the folders of the training images into train/; a class of that name needs another one.",
            )
        class_names, paths = _list_classes(root)
        return class_names, [_listing(paths, name="all")]
    others = sorted(set(names) - {"train", "test"})
    if others:
        raise DataError(f"beside train and test {root} has the folder {others[0]!r}, which nobody reads", hint=_LAYOUT)
    class_names, paths = _list_classes(root / "train")
    listings = [_listing(paths, name="train")]
    if "test" in names:
        test_names, test_paths = _list_classes(root / "test")
        if test_names != class_names:
            odd = sorted(set(test_names) ^ set(class_names))
            raise DataError(
                f"{root}: the class {odd[0]!r} is in one of train and test only", hint="Both need the same classes."
            )
        listings.append(_listing(test_paths, name="test"))
    return class_names, listings


def _list_classes(folder: Path) -> tuple[tuple[str, ...], list[list[Path]]]:
    entries = _visible(folder)
    stray = [path for path in entries if path.suffix.lower() in _SUFFIXES and not path.is_dir()]
    if stray:
        raise DataError(f"{stray[0]} lies in no class folder ({len(stray):,} such images)", hint=_LAYOUT)
    folders = [path for path in entries if path.is_dir()]
    if len(folders) < 2:
        raise DataError(f"{folder} has {len(folders)} class folder(s), expected two or more", hint=_LAYOUT)
    classes = []
    for class_folder in folders:
        files = _visible(class_folder)
        strange = [path for path in files if path.suffix.lower() not in _SUFFIXES or path.is_dir()]
        if strange:
            raise DataError(
                f"{strange[0]} is no PNG, JPEG, BMP or WebP file ({len(strange):,} such entries in its class)",
                hint="Move them away, or hide them with a leading dot.",
            )
        if not files:
            raise DataError(
                f"{class_folder} is an empty class: it has no images", hint="Remove the folder, or add images."
            )
        classes.append(files)
    return tuple(path.name for path in folders), classes


def _listing(classes: Sequence[Sequence[Path]], *, name: str) -> _Listing:
    labels_N = np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths in classes])
    return _Listing(name=name, paths=tuple(path for paths in classes for path in paths), labels_N=labels_N)


def _visible(folder: Path) -> list[Path]:
    """Entries by name, without hidden ones and the litter of file managers."""
    try:
        return sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in _LITTER
        )
    except OSError as e:
        raise DataError(f"{folder} cannot be read: {e.strerror}", hint="Check its owner and mode.") from e


def _head(path: Path) -> tuple[tuple[int, int], str]:
    """Width and height, and Pillow's mode, from the file's head alone."""
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
            bits = _png_bits(path) if image.format == "PNG" else _EIGHT_BITS
    except _DAMAGED as e:
        raise _damaged(path, error=e) from e
    if mode not in _EIGHT_BIT_MODES or bits > _EIGHT_BITS:
        raise DataError(
            f"{path} has more than 8 bits a channel (mode {mode})",
            hint="Convert it to 8 bits, or use data set numpy.",
        )
    return size, mode


def _png_bits(path: Path) -> int:
    """Bits a channel, from the file itself: Pillow opens colours of 16 bits as it does those of 8, and cuts them."""
    with path.open("rb") as file:
        return file.read(_PNG_HEAD)[-1]


def _common_size(sizes: Sequence[tuple[int, int]], *, paths: Sequence[Path], image_size: int | None) -> tuple[int, int]:
    if image_size is not None:
        return image_size, image_size
    for size, path in zip(sizes, paths, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"images of different sizes: {paths[0]} is {sizes[0][0]}x{sizes[0][1]}, {path} is {size[0]}x{size[1]}",
                hint="Set data.image_size: the shorter side is resized to it and the middle is cut out.",
            )
    return sizes[0]


def _decode(paths: Sequence[Path], *, shape: tuple[int, int, int], on_progress: Progress | None) -> NDArray[np.uint8]:
    channels, height, width = shape
    images_NCHW = np.empty((len(paths), *shape), dtype=np.uint8)
    pixels = partial(_pixels, channels=channels, size=(width, height))
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, image_HWC in enumerate(pool.map(pixels, paths)):
            images_NCHW[number] = image_HWC.transpose(2, 0, 1)
            if on_progress is not None:
                on_progress("images", number + 1, len(paths))
    return images_NCHW


def _pixels(path: Path, *, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as file:
            image = _fitted(file.convert(_MODES[channels]), size=size)
    except _DAMAGED as e:
        raise _damaged(path, error=e) from e
    return np.asarray(image, dtype=np.uint8).reshape(size[1], size[0], channels)


def _fitted(image: Image.Image, *, size: tuple[int, int]) -> Image.Image:
    """The image itself, or its shorter side resized to the wanted one and the middle cut out."""
    if image.size == size:
        return image
    scale = max(size[0] / image.width, size[1] / image.height)
    resized = image.resize(
        (max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale))),
        resample=Image.Resampling.BILINEAR,
    )
    left, top = (resized.width - size[0]) // 2, (resized.height - size[1]) // 2
    return resized.crop((left, top, left + size[0], top + size[1]))


def _damaged(path: Path, *, error: Exception) -> DataError:
    return DataError(f"{path} is damaged: {error}", hint="Replace or remove the file.")


SOURCE = DataSource(
    name="image-folder",
    read=_read,
    locate=_locate,
    has_official=None,
    needs=("path",),
    takes=("image_size", "channels"),
)
