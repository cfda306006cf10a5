"""Own tensors: a .pt or .safetensors file, or a function that makes torch data sets ("module:function").

A file has the names and axes of `experiments.sources.arrays`. The function is the user's own code. It takes nothing
and returns a map-style data set of (example, label) pairs, or two of them, the second being the official test set;
`classes`, if the first one has it, names the classes. Examples are tensors, arrays or Pillow images of one size. They
are read once, so they must not change from reading to reading: augmentation is the recipe's.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.downloads import Progress
from experiments.errors import DataError
from experiments.sources.arrays import NAMES, check_names, source_of_arrays
from experiments.sources.source import DataSource, Source, require_memory
from searchspaces.errors import SpaceError
from searchspaces.tensor_files import load_tensor_file

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings

_SMALLER = "Store fewer or smaller examples, or use uint8 for images."
_FORM = 'Save it as torch.save({"x": x, "y": y}, path), with tensors (and a list of texts as "class_names").'
_OWN_CODE = "It is your own code: call it in Python to see where."
_PAIR = "Each item is a pair: an example (tensor, array or Pillow image) and its label (integer)."
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _read(settings: "DataSettings", on_progress: Progress | None) -> Source:
    place = str(settings.path)
    if _IMPORT_PATH.fullmatch(place):
        arrays = _read_data_sets(place, on_progress=on_progress)
    else:
        path = _existing(place)
        size = path.stat().st_size
        require_memory(size, what=f"The tensors in {path}", hint=_SMALLER)
        arrays = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)
    return source_of_arrays(arrays, layout=settings.layout, where=place)


def _locate(settings: "DataSettings") -> str:
    place = str(settings.path)
    if _IMPORT_PATH.fullmatch(place):
        return f"made by {place}"
    return f"tensors in {_existing(place)}"


def _existing(place: str) -> Path:
    path = Path(place)
    if not path.is_file():
        raise DataError(
            f"data.path {place!r} is no file", hint="Give a .pt or .safetensors file, or package.module:function."
        )
    return path


def _read_pt(path: Path) -> dict[str, object]:
    try:
        content = load_tensor_file(path)
    except SpaceError as e:
        raise DataError(str(e), hint=f"{e.hint}. {_FORM}") from e
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, not a mapping of tensors", hint=_FORM)
    check_names([str(name) for name in content], where=str(path))
    return {str(name): _as_array(value) for name, value in content.items() if name in NAMES}


def _read_safetensors(path: Path) -> dict[str, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: _as_array(value) for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as e:
        raise DataError(f"{path} is damaged or no safetensors file: {e}", hint="Write it again.") from e


def _as_array(value: object) -> object:
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    # numpy has no bfloat16
    return (value.float() if value.is_floating_point() else value).detach().cpu().numpy()


def _read_data_sets(place: str, *, on_progress: Progress | None) -> dict[str, object]:
    function = _function(place)
    try:
        made = function()
    except Exception as e:
        raise DataError(f"{place} failed: {type(e).__name__}: {e}", hint=_OWN_CODE) from e
    data_sets = list(made) if isinstance(made, tuple | list) else [made]
    if not 1 <= len(data_sets) <= 2 or not all(hasattr(part, "__getitem__") for part in data_sets):
        raise DataError(
            f"{place} returned {type(made).__name__}, expected a map-style data set or two",
            hint="Return a torch.utils.data.Dataset with __len__ and __getitem__.",
        )
    arrays: dict[str, object] = {}
    for part, (x_name, y_name) in zip(data_sets, (("x", "y"), ("x_test", "y_test")), strict=False):
        arrays[x_name], arrays[y_name] = _gather(part, place=place, on_progress=on_progress)
    names = getattr(data_sets[0], "classes", None)
    try:
        names = [str(name) for name in names] if names is not None else []
    except TypeError as e:
        raise DataError(
            f"{place}: the data set's `classes` is a {type(names).__name__}, expected a list of texts",
            hint="Name the classes in the order of the labels, or leave `classes` out.",
        ) from e
    if names:
        arrays["class_names"] = names
    return arrays


def _function(place: str) -> Callable[[], Any]:
    name, _, function = place.partition(":")
    try:
        found = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError) as e:
        raise DataError(
            f"data.path {place!r} cannot be imported: {e}",
            hint=f"Install the module for {sys.executable} on every machine, or set PYTHONPATH to its absolute folder.",
        ) from e
    if not callable(found):
        raise DataError(
            f"data.path {place!r} is a {type(found).__name__}, expected a function",
            hint="Name a function that makes the data.",
        )
    made: Callable[[], Any] = found
    return made


def _gather(data_set: Any, *, place: str, on_progress: Progress | None) -> tuple[object, object]:  # noqa: ANN401
    """All examples and labels of a data set, in its order.

    Raises:
        DataError: the user's code fails, or gives something else than pairs of one size and type; the index is named.
    """
    try:
        num = len(data_set)
    except Exception as e:
        raise DataError(
            f"{place}: the data set does not tell its length: {type(e).__name__}: {e}",
            hint="Give it __len__ and __getitem__: a map-style data set, no stream.",
        ) from e
    if num == 0:
        raise DataError(f"{place}: the data set is empty", hint="Check what the function reads.")
    first, _ = _pair(data_set, 0, place=place)
    require_memory(num * first.nbytes, what=f"The {num:,} examples of {place}", hint=_SMALLER)
    x, y = np.empty((num, *first.shape), dtype=first.dtype), np.empty(num, dtype=np.int64)
    for index in range(num):
        example, y[index] = _pair(data_set, index, place=place)
        if example.shape != first.shape:
            raise DataError(
                f"{place}: example {index:,} has the shape {example.shape}, the first one {first.shape}",
                hint="All must have the same size: resize them in the data set.",
            )
        if not np.can_cast(example.dtype, first.dtype):
            raise DataError(
                f"{place}: example {index:,} has the type {example.dtype}, the first one {first.dtype}",
                hint="All must have the same type: convert them in the data set.",
            )
        x[index] = example
        if on_progress is not None:
            on_progress(place, index + 1, num)
    return x, y


def _pair(data_set: Any, index: int, *, place: str) -> tuple[NDArray[np.generic], int]:  # noqa: ANN401
    """Example and label at `index`."""
    try:
        item = data_set[index]
    except Exception as e:
        raise DataError(f"{place}: reading item {index:,} failed: {type(e).__name__}: {e}", hint=_OWN_CODE) from e
    if not isinstance(item, tuple | list) or len(item) != 2:
        number = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"{place}: item {index:,} is a {type(item).__name__}{number}, expected a pair (example, label)", hint=_PAIR
        )
    example, label = (_numbers(part) for part in item)
    if example is None or example.dtype.kind not in "biuf" or not example.ndim:
        raise DataError(
            f"{place}: the example of item {index:,} is a {_described(item[0], example)}, expected a tensor, an array "
            "or a Pillow image",
            hint=_PAIR,
        )
    if label is None or label.dtype.kind not in "iu" or label.ndim:
        raise DataError(
            f"{place}: the label of item {index:,} is a {_described(item[1], label)}, expected an integer", hint=_PAIR
        )
    return example, int(label)


def _numbers(value: object) -> NDArray[np.generic] | None:
    """`value` as an array, or None if it does not become one."""
    try:
        return np.asarray(_as_array(value))
    except (TypeError, ValueError, RuntimeError):
        return None


def _described(value: object, array: NDArray[np.generic] | None) -> str:
    """What somebody gave instead of something else."""
    kind = type(value).__name__
    return kind if array is None or array.dtype.kind == "O" else f"{kind} of type {array.dtype}, shape {array.shape}"


SOURCE = DataSource(
    name="torch", read=_read, locate=_locate, has_official=None, needs=("path",), takes=("layout",)
)  # fmt: skip
