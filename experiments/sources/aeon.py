"""Real time series that come inside the `aeon` package, each with the training and the test part of its archive.

Where the archive's series differ in length, aeon ships an edition that is resampled to one length as well, and that is
read: JapaneseVowels has 25 time steps (7 ... 29 in the archive), PickupGestureWiimoteZ has 361.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.downloads import Progress
from experiments.errors import DataError
from experiments.sources.source import DataSource, Part, Source

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings

_FOLDER = "datasets/data"
_CLASSIFICATION = "@classlabel true"


def _read(settings: "DataSettings", on_progress: Progress | None) -> Source:
    (pool_NCT, pool_labels), (official_NCT, official_labels) = (_load(file) for file in _files(settings))
    class_names = tuple(sorted(set(pool_labels)))
    return Source(
        class_names=class_names,
        pool=Part(name="train", inputs=pool_NCT, labels_N=_numbers(pool_labels, class_names)),
        official=Part(name="test", inputs=official_NCT, labels_N=_numbers(official_labels, class_names)),
        augmentation="jitter-scale",
    )


def _locate(settings: "DataSettings") -> str:
    train, _ = _files(settings)
    return f"comes with aeon: {train.parent}"


def _files(settings: "DataSettings") -> tuple[Path, Path]:
    """The training and the test file of the recipe's `data.subset`.

    Raises:
        DataError: aeon is not installed, or ships no such classification problem.
    """
    spec = find_spec("aeon")
    if spec is None or spec.origin is None:
        raise DataError("data set 'aeon' needs the package aeon", hint="pip install 'archsmith[sensor]'")
    folder = Path(spec.origin).parent / _FOLDER
    found = {train.parent.name: train for train in sorted(folder.glob("*/*_TRAIN.ts")) if _usable(train)}
    if settings.subset not in found:
        raise DataError(
            f"data.subset: aeon comes with no classification problem {settings.subset!r}",
            hint=f"it has: {', '.join(found)}",
        )
    train = found[settings.subset]
    return train, _test_file(train)


def _test_file(train: Path) -> Path:
    return train.with_name(train.name.replace("_TRAIN.ts", "_TEST.ts"))


def _usable(train: Path) -> bool:
    """Whether these are classes, in series of equal length, with a test part; `NAME_eq` comes after `NAME`."""
    if not _test_file(train).is_file():
        return False
    header = []
    with train.open(encoding="utf-8") as lines:
        for line in lines:
            if line.lower().startswith("@data"):
                break
            header.append(line.strip().lower())
    return any(line.startswith(_CLASSIFICATION) for line in header) and "@equallength false" not in header


def _load(file: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Series (N, C, T) and the names of their classes."""
    from aeon.datasets import load_from_ts_file  # slow to import, and only this source needs it

    inputs_NCT, labels = load_from_ts_file(str(file))
    return np.ascontiguousarray(inputs_NCT, dtype=np.float32), labels.tolist()


def _numbers(labels: list[str], class_names: tuple[str, ...]) -> NDArray[np.int64]:
    position = {name: number for number, name in enumerate(class_names)}
    return np.array([position[label] for label in labels], dtype=np.int64)


SOURCE = DataSource(name="aeon", read=_read, locate=_locate, has_official=True, needs=("subset",))
