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

from experiments.downloads import Progress
from experiments.errors import DataError
from experiments.sources.arrays import NAMES, source_of_arrays
from experiments.sources.source import DataSource, Source, require_memory

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings

_SMALLER = "Store fewer or smaller examples, or use uint8 for images."
_FORM = 'Save it as torch.save({"x": x, "y": y}, path), with tensors (and a list of texts as "class_names").'
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
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged files end in several kinds of errors, among them one of a module that we never import.
    except Exception as e:
        code = re.search(r"GLOBAL (\S+)", str(e))
        if code is not None:
            raise DataError(f"{path} contains code ({code[1]}), refused", hint=_FORM) from e
        reason = str(e).strip().partition("\n")[0][:120] or type(e).__name__
        raise DataError(f"{path} is damaged or no PyTorch file: {reason}", hint=_FORM) from e
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, not a mapping of tensors", hint=_FORM)
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
        raise DataError(
            f"{place} failed: {type(e).__name__}: {e}", hint="It is your own code: call it in Python to see where."
        ) from e
    data_sets = list(made) if isinstance(made, tuple | list) else [made]
    if not 1 <= len(data_sets) <= 2 or not all(hasattr(part, "__getitem__") for part in data_sets):
        raise DataError(
            f"{place} returned {type(made).__name__}, expected a map-style data set or two",
            hint="Return a torch.utils.data.Dataset with __len__ and __getitem__.",
        )
    arrays: dict[str, object] = {}
    for part, (x_name, y_name) in zip(data_sets, (("x", "y"), ("x_test", "y_test")), strict=False):
        arrays[x_name], arrays[y_name] = _gather(part, place=place, on_progress=on_progress)
    if names := getattr(data_sets[0], "classes", None):
        arrays["class_names"] = [str(name) for name in names]
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
    """All examples and labels of a data set, in its order."""
    num = len(data_set)
    if num == 0:
        raise DataError(f"{place}: the data set is empty", hint="Check what the function reads.")
    first = _example(data_set[0][0])
    require_memory(num * first.nbytes, what=f"The {num:,} examples of {place}", hint=_SMALLER)
    x, y = np.empty((num, *first.shape), dtype=first.dtype), []
    for index in range(num):
        pair = data_set[index]
        example = _example(pair[0])
        if example.shape != first.shape:
            raise DataError(
                f"{place}: example {index:,} has the shape {example.shape}, the first one {first.shape}",
                hint="All must have the same size: resize them in the data set.",
            )
        x[index] = example
        y.append(_as_array(pair[1]))
        if on_progress is not None:
            on_progress(place, index + 1, num)
    return x, np.asarray(y)


def _example(value: object) -> Any:  # noqa: ANN401
    return np.asarray(_as_array(value))


SOURCE = DataSource(
    name="torch", read=_read, locate=_locate, has_official=None, needs=("path",), takes=("layout",)
)  # fmt: skip
