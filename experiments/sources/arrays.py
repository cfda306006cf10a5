"""Arrays in files become examples: one naming, explicit or obvious axes, integer labels. Shared by numpy and torch.

Names: `x` the examples and `y` their labels; `x_test`, `y_test` an official test set; `class_names` the classes' names.
Axes (`data.layout`): NHW grey images, NHWC or NCHW images, NT series of one channel, NCT series. Without a layout two
axes are NT, three of uint8 are NHW, and four are NHWC or NCHW, whichever has 1, 3 or 4 channels. Three axes of other
numbers could be NHW as well as NCT: the layout must be said.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.errors import DataError
from experiments.sources.source import Part, Source, Values, require_memory

NAMES = ("x", "y", "x_test", "y_test", "class_names")
_CHANNELS = (1, 3, 4)
_EIGHT_BITS = 255
_SHOWN = 8
_NAMING = f"Names are: {', '.join(NAMES)} (the last three may be absent)."


def check_names(names: Collection[str], *, where: str) -> None:
    """Refuse a file that lacks an array, before it is read.

    Args:
        names: of everything in the file.
        where: names the file in messages.

    Raises:
        DataError: there are no examples or no labels, or only one of the two of the test set; what is there is listed.
    """
    missing = [name for name in ("x", "y") if name not in names]
    if ("x_test" in names) != ("y_test" in names):
        missing.append("y_test" if "x_test" in names else "x_test")
    if missing:
        found = sorted(str(name) for name in names)
        others = ", ".join(found[:_SHOWN]) + (f", ... ({len(found)} names)" if len(found) > _SHOWN else "")
        raise DataError(f"{where} has no {', '.join(missing)}; it has {others or 'nothing'}", hint=_NAMING)


def source_of_arrays(arrays: Mapping[str, object], *, layout: str | None, where: str) -> Source:
    """A source of arrays by name.

    Args:
        arrays: numpy arrays under `NAMES`; others are ignored.
        layout: the recipe's `data.layout`.
        where: names the file in messages.

    Raises:
        DataError: an array is missing, of a wrong type, or of a shape whose axes are not clear.
    """
    check_names(arrays, where=where)
    found = {name: np.asarray(arrays[name]) for name in NAMES if name in arrays}
    pool = _part(found["x"], found["y"], name="train", layout=layout, where=where)
    official = None
    if "x_test" in found:
        official = _part(found["x_test"], found["y_test"], name="test", layout=layout, where=f"{where}, test set")
    names = class_names_of(found.get("class_names"), labels_N=pool.labels_N, where=where)
    series = pool.inputs.ndim == 3
    return Source(
        class_names=names, pool=pool, official=official, augmentation="jitter-scale" if series else "shift"
    )  # fmt: skip


def class_names_of(names: object, *, labels_N: NDArray[np.int64], where: str) -> tuple[str, ...]:
    """Names of the classes: those given, or the numbers 0 ... largest label.

    Raises:
        DataError: the names are no texts, or the labels go further than there are examples.
    """
    if names is not None:
        texts = np.asarray(names)
        if texts.ndim != 1 or texts.dtype.kind not in "US":
            raise DataError(
                f"{where}: class_names has the type {texts.dtype} and shape {texts.shape}, expected a list of texts",
                hint="Store the names as a one-dimensional array of texts, in the order of the labels.",
            )
        return tuple(str(name) for name in texts.astype(str))
    largest = int(labels_N.max(initial=-1))
    if largest >= max(1, len(labels_N)):
        # No class may be empty, so labels as large as this are something else; and so many names would fill the memory.
        raise DataError(
            f"{where} has the label {largest:,} (at position {int(labels_N.argmax()):,}), but {len(labels_N):,} "
            "examples",
            hint="Labels are class indices: number the classes from 0 without gaps.",
        )
    return tuple(str(label) for label in range(largest + 1))


def as_labels(labels: NDArray[np.generic], *, where: str) -> NDArray[np.int64]:
    """Labels (N) as int64.

    Raises:
        DataError: no integers, or more than one axis.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        example = f", for example {labels.flat[0].item()!r}" if labels.size else ""
        raise DataError(
            f"{where}: the labels have the type {labels.dtype} and shape {labels.shape}{example}; expected integers of "
            "shape (N)",
            hint="Store class indices 0, 1, 2, ... as integers, one an example.",
        )
    return labels.astype(np.int64)


def as_values(array: NDArray[np.generic], *, layout: str | None, where: str) -> Values:
    """Examples as (N, C, H, W) or (N, C, T), uint8 or float32.

    Booleans and integers of 0 ... 255 become uint8, other numbers float32.

    Args:
        array: as it was stored.
        layout: names its axes, or None to tell them by its shape.
        where: names the file in messages.

    Raises:
        DataError: no numbers, or axes that do not fit or are not clear.
    """
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: the examples have the type {array.dtype}, expected numbers", hint="Convert them.")
    layout = layout or _layout(array, where=where)
    if len(layout) != array.ndim:
        raise DataError(
            f"{where}: data.layout {layout} has {len(layout)} axes, the examples have the shape {array.shape}",
            hint="Set data.layout to the axes of the array: NHW, NHWC, NCHW, NT or NCT.",
        )
    num_bytes = array.size * (1 if array.dtype in (np.uint8, np.bool_) else 4)
    require_memory(num_bytes, what=f"The examples of {where}", hint="Store fewer or smaller examples.")
    if layout == "NHWC":
        array = np.moveaxis(array, 3, 1)
    elif "C" not in layout:
        array = array[:, None]
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, dtype=np.uint8)
    if array.dtype.kind == "b" or (
        array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= _EIGHT_BITS
    ):
        return np.ascontiguousarray(array, dtype=np.uint8)
    return np.ascontiguousarray(array, dtype=np.float32)


def _part(x: NDArray[np.generic], y: NDArray[np.generic], *, name: str, layout: str | None, where: str) -> Part:
    return Part(name=name, inputs=as_values(x, layout=layout, where=where), labels_N=as_labels(y, where=where))


def _layout(array: NDArray[np.generic], *, where: str) -> str:
    shape: Sequence[int] = array.shape
    if array.ndim == 2:
        return "NT"
    if array.ndim == 3 and array.dtype == np.uint8:
        return "NHW"
    if array.ndim == 4:
        fitting = [layout for layout, axis in (("NCHW", 1), ("NHWC", 3)) if shape[axis] in _CHANNELS]
        if len(fitting) == 1:
            return fitting[0]
    raise DataError(
        f"{where}: the examples have the shape {tuple(shape)} and type {array.dtype}; which axis is what?",
        hint="Set data.layout: NHW (grey images), NHWC or NCHW (images), NT or NCT (series of one or more channels).",
    )
