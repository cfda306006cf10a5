"""What a data source gives: labelled arrays in memory, as they are stored, before anything is divided or normalised.

A further source is one new module of this folder with a `SOURCE = DataSource(name=..., read=..., locate=...)`. It only
reads: labels, shapes and values are checked by `experiments.datasets`, with messages that name the data set.

Tensor letters: N examples, C channels, H height and W width of an image, or T time steps of a series.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import psutil
from numpy.typing import NDArray

from experiments.downloads import Progress
from experiments.errors import DataError

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings

Values: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]

# A source stands in memory twice while it is divided into splits.
_COPIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a source, for example "train" or "test".

    Attributes:
        name: what `report_split.json` calls it.
        inputs: images (N, C, H, W) or series (N, C, T), uint8 or float32, raw.
        labels_N: int64 class indices, 0 ... number of classes - 1.
    """

    name: str
    inputs: Values
    labels_N: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set before it is divided.

    Attributes:
        class_names: one a class, in the order of the labels.
        pool: what is divided.
        official: the data set's own test set, or None.
        augmentation: name of the training augmentation when the recipe does not say, see `nas.training.augmentation`.
    """

    class_names: tuple[str, ...]
    pool: Part
    official: Part | None
    augmentation: str

    def sha256(self) -> str:
        """Checksum of values, labels and class names, whatever files they came in."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for part in (self.pool, self.official):
            if part is not None:
                digest.update(f"{part.inputs.dtype} {part.inputs.shape}".encode())
                digest.update(np.ascontiguousarray(part.inputs).data)
                digest.update(np.ascontiguousarray(part.labels_N).data)
        return digest.hexdigest()


Read: TypeAlias = "Callable[[DataSettings, Progress | None], Source]"
Locate: TypeAlias = "Callable[[DataSettings], str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """An entry of the registry.

    Attributes:
        name: what the recipe's `data.dataset` says.
        read: the recipe's data section and a listener (or None) to the source; raises DataError for files that are
            missing, damaged or too large for the memory.
        locate: where the data would come from, in words, without reading or fetching them; raises DataError if they
            are certainly missing.
        has_official: whether there is a test set of its own; None if only the files can tell.
        needs: keys of the data section that must be given, for example ("path",).
        takes: further keys that mean something to this source.
    """

    name: str
    read: Read
    locate: Locate
    has_official: bool | None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


def require_memory(num_bytes: int, *, what: str, hint: str) -> None:
    """Refuse data that would not fit, before they are read.

    Args:
        num_bytes: size of the arrays that are about to be made.
        what: names them in the message.
        hint: how to make them smaller.

    Raises:
        DataError: they do not fit into the available memory while they are divided.
    """
    available = int(psutil.virtual_memory().available)
    if _COPIES * num_bytes > available:
        raise DataError(
            f"{what} take {num_bytes / 2**30:.1f} GiB of memory, and as much again while they are divided; "
            f"{available / 2**30:.1f} GiB are available",
            hint=hint,
        )
