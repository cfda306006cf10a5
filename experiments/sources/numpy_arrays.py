"""Own arrays: an .npz file, or a folder of .npy files, with the names and axes of `experiments.sources.arrays`."""

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.downloads import Progress
from experiments.errors import DataError
from experiments.sources.arrays import NAMES, check_names, source_of_arrays
from experiments.sources.source import DataSource, Source, require_memory

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings

_SMALLER = "Store fewer or smaller examples, or use uint8 for images."


def _read(settings: "DataSettings", on_progress: Progress | None) -> Source:
    path = _existing(settings)
    arrays = _read_folder(path) if path.is_dir() else _read_archive(path)
    return source_of_arrays(arrays, layout=settings.layout, where=str(path))


def _locate(settings: "DataSettings") -> str:
    return f"arrays in {_existing(settings)}"


def _existing(settings: "DataSettings") -> Path:
    path = Path(str(settings.path))
    if not path.exists():
        raise DataError(
            f"data.path {str(path)!r} does not exist",
            hint=f"Give an .npz file, or a folder with {', '.join(f'{name}.npy' for name in NAMES)}.",
        )
    return path


def _read_folder(folder: Path) -> dict[str, NDArray[np.generic]]:
    check_names([path.stem for path in folder.glob("*.npy")], where=str(folder))
    paths = {name: folder / f"{name}.npy" for name in NAMES if (folder / f"{name}.npy").is_file()}
    size = sum(path.stat().st_size for path in paths.values())
    require_memory(size, what=f"The arrays in {folder}", hint=_SMALLER)
    return {name: _load(path) for name, path in paths.items()}


def _read_archive(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError) as e:
        raise DataError(
            f"{path} is damaged or no .npz file: {e}", hint="Write it again with numpy.savez_compressed."
        ) from e
    check_names(sizes, where=str(path))
    # What the archive unpacks to, known before it is unpacked.
    size = sum(sizes[name] for name in NAMES if name in sizes)
    require_memory(size, what=f"The arrays in {path}", hint=_SMALLER)
    return {name: _load(path, member=name) for name in NAMES if name in sizes}


def _load(path: Path, *, member: str = "") -> NDArray[np.generic]:
    what = f"{member} in {path}" if member else str(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        array: NDArray[np.generic]
        if not member:
            array = loaded
        else:
            with loaded:
                array = loaded[member]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as e:
        raise DataError(f"{what} is damaged: {e}", hint="Write it again with numpy.save or numpy.savez.") from e
    except ValueError as e:
        reason = "it holds Python objects, refused" if "allow_pickle" in str(e) else f"it cannot be read: {e}"
        raise DataError(f"{what}: {reason}", hint="Store plain numbers; names as an array of texts.") from e
    return array


SOURCE = DataSource(
    name="numpy", read=_read, locate=_locate, has_official=None, needs=("path",), takes=("layout",)
)  # fmt: skip
