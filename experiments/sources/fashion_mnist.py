"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): where its four files are, and what is in them."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.downloads import Progress, RemoteFile, download
from experiments.errors import DataError
from experiments.idx_files import read_idx
from experiments.sources.source import DataSource, Part, Source
from hardware.files import sha256_file

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# The authors publish MD5 sums of these archives; the SHA-256 are those of the same bytes. Debian's package holds the
# same compressed streams under rewritten gzip headers, so its archives differ while the images are identical.
FILES = (
    RemoteFile(
        name="train-images-idx3-ubyte.gz",
        size_bytes=26_421_880,
        sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    RemoteFile(
        name="train-labels-idx1-ubyte.gz",
        size_bytes=29_515,
        sha256="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    RemoteFile(
        name="t10k-images-idx3-ubyte.gz",
        size_bytes=4_422_102,
        sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    RemoteFile(
        name="t10k-labels-idx1-ubyte.gz",
        size_bytes=5_148,
        sha256="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)

MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "archsmith" / "fashion-mnist"


@dataclass(frozen=True, slots=True, kw_only=True)
class FashionPlaces:
    """Where the files are looked for when the recipe does not say.

    Attributes:
        debian: where Debian's package dataset-fashion-mnist puts them.
        cache: where downloads go.
        mirrors: addresses they are downloaded from.
        files: the files with their checksums.
    """

    debian: Path = Path("/usr/share/datasets/fashion-mnist")
    cache: Path = field(default_factory=_default_cache)
    mirrors: tuple[str, ...] = MIRRORS
    files: tuple[RemoteFile, ...] = FILES


def fashion_mnist_source(places: FashionPlaces | None = None) -> DataSource:
    """The source; `places` are the usual ones if None, tests have their own."""

    def read(settings: "DataSettings", on_progress: Progress | None) -> Source:
        known = places or FashionPlaces()
        folder = find_files(settings.path, places=known) or fetch_files(places=known, on_progress=on_progress)
        return Source(
            class_names=CLASS_NAMES,
            pool=read_part(folder, part="train"),
            official=read_part(folder, part="t10k"),
            augmentation="shift-flip",
        )

    def locate(settings: "DataSettings") -> str:
        folder = find_files(settings.path, places=places or FashionPlaces())
        return f"found in {folder}" if folder is not None else "not on this machine: would be downloaded (31 MB)"

    return DataSource(name="fashion-mnist", read=read, locate=locate, has_official=True, takes=("path",))


def find_files(path: str | None, *, places: FashionPlaces) -> Path | None:
    """The folder that has all four files: `path` if given, else Debian's, else the cache.

    Returns:
        None if no place has them: they would have to be downloaded.

    Raises:
        DataError: `path` is given but lacks a file. Another place would silently be other data than asked for.
    """
    if path is not None:
        folder = Path(path).expanduser()
        missing = _missing(folder, places=places)
        if missing:
            raise DataError(f"data.path {path!r} lacks {', '.join(missing)}", hint=_three_ways(places))
        return folder
    if not _missing(places.debian, places=places):
        return places.debian
    if all(_is_intact(places.cache / file.name, file=file) for file in places.files):
        return places.cache
    return None


def fetch_files(*, places: FashionPlaces, on_progress: Progress | None = None) -> Path:
    """Download what the cache lacks; returns the cache folder.

    Raises:
        DataError: there is no network, or no mirror has the right content; the three ways to get the data are named.
    """
    for file in places.files:
        if not _is_intact(places.cache / file.name, file=file):
            try:
                download(file, mirrors=places.mirrors, directory=places.cache, on_progress=on_progress)
            except DataError as e:
                raise DataError(
                    f"Fashion-MNIST is not on this machine and cannot be downloaded: {e}", hint=_three_ways(places)
                ) from e
    return places.cache


def read_part(folder: Path, *, part: str) -> Part:
    """Read "train" (60,000 images) or "t10k" (the official test set, 10,000).

    Raises:
        DataError: a file is damaged, or images and labels do not belong together.
    """
    image_path, label_path = (_present(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    images, labels = read_idx(image_path, dimensions=3), read_idx(label_path, dimensions=1)
    hint = f"Delete {folder} and fetch the data again."
    if len(images) != len(labels):
        raise DataError(f"{image_path} has {len(images):,} images, {label_path} {len(labels):,} labels", hint=hint)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{image_path} has images of {images.shape[1]}x{images.shape[2]}, expected 28x28", hint=hint)
    return Part(name=part, inputs=images[:, None], labels_N=labels.astype(np.int64))


def _present(path: Path) -> Path:
    """`path`, or the same file already unpacked."""
    return path if path.is_file() or not path.with_suffix("").is_file() else path.with_suffix("")


def _missing(folder: Path, *, places: FashionPlaces) -> list[str]:
    return [file.name for file in places.files if not _present(folder / file.name).is_file()]


def _is_intact(path: Path, *, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes and sha256_file(path) == file.sha256


def _three_ways(places: FashionPlaces) -> str:
    return (
        "Any one of: (1) set data.path in the recipe (or --set data.path=DIR) to a folder with "
        f"{', '.join(file.name for file in places.files)}; (2) apt-get install dataset-fashion-mnist; "
        "(3) run once with a network, the files (31 MB) are then kept in " + str(places.cache)
    )


SOURCE = fashion_mnist_source()
