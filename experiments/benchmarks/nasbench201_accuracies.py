"""Accuracies of all NAS-Bench-201 cells on CIFAR-10, from the data file of the package analog-nasbench 0.1.3.

They are those of the 10,000 test images, after one training on the 50,000 others, averaged over 25 passes with random
crops and flips (training_script.py at https://github.com/IBM/analog-nas; the values are multiples of 1 / 250,000).

The file is a pickle. It is never unpickled: its opcodes are listed (`pickletools`, which executes nothing) and followed
here as far as plain data need, so that dictionaries come out where it asks for objects of its own two classes; whatever
asks for anything else is refused.
"""

import importlib.util
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.errors import DataError
from predictors.prediction import FloatArray
from searchspaces.nasbench201 import EDGES, NASBench201Space

WHERE = "pass --accuracy FILE: data.anb or the wheel of the PyPI package analog-nasbench 0.1.3, or install that package"

_PACKAGE, _MEMBER = "analognasbench", "analognasbench/data.anb"
_CLASSES = {("analognasbench.data", "Architecture"), ("analognasbench.data", "DriftMeasurement")}
_PUSHED = {"BININT1", "BININT", "BINFLOAT", "SHORT_BINUNICODE"}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_FIELD = "baseline_accuracy"
# The file's operators by number, and its edges in the order of a key.
_OPERATORS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
_KEY_EDGES = tuple(sorted(EDGES))


def find_accuracies(given: Path | None) -> Path | None:
    """The file: the given one, or that of the installed package, or None."""
    if given is not None:
        return given
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name(Path(_MEMBER).name)
    return path if path.is_file() else None


def read_accuracies(path: Path, *, space: NASBench201Space, genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
    """Accuracies (N,) of cells, fractions.

    Args:
        path: `data.anb`, or a wheel that holds it.
        space: the cells' space.
        genomes_NG: the cells.

    Raises:
        DataError: the file cannot be read, asks for more than plain data, or lacks a cell.
    """
    records = read_records(_content(path))
    values = [str(value) for value in space.choices[0].values]
    place = [values.index(name) for name in _OPERATORS]
    column = [_KEY_EDGES.index(edge) for edge in EDGES]
    try:
        by_cell = {
            bytes(place[key[edge]] for edge in column): float(str(record[_FIELD])) / 100.0
            for key, record in records.items()
        }
        accuracy_N = np.array([by_cell[row.tobytes()] for row in genomes_NG], dtype=np.float64)
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise DataError(f"{path} does not give every cell's {_FIELD} ({type(e).__name__}: {e})", hint=WHERE) from e
    if not ((accuracy_N >= 0.0) & (accuracy_N <= 1.0)).all():
        raise DataError(f"{path} has accuracies outside of 0 ... 100 %", hint=WHERE)
    return accuracy_N


def _content(path: Path) -> bytes:
    try:
        if not zipfile.is_zipfile(path):
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(_MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as e:
        raise DataError(f"cannot read {path}: {e}", hint=WHERE) from e


def read_records(content: bytes) -> dict[tuple[int, ...], dict[str, object]]:
    """The records of a pickled dictionary by their keys; objects become dictionaries of their attributes.

    Raises:
        DataError: no pickle, or one that asks for anything but plain data and the two classes of the package.
    """
    reader = _Reader()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            reader.follow(opcode.name, argument)
        (records,) = reader.stack
    except (ValueError, IndexError, TypeError, AttributeError, KeyError) as e:
        if isinstance(e, DataError):
            raise
        raise DataError(f"the accuracies are damaged ({type(e).__name__}: {e})", hint=WHERE) from e
    if not isinstance(records, dict):
        raise DataError(f"the accuracies are a {type(records).__name__}, expected a dictionary", hint=WHERE)
    return records


class _Reader:
    """A stack and a memory, which is what the opcodes of a pickle speak of."""

    def __init__(self) -> None:
        # Contents of a file: anything; what does not fit is an error when it is used.
        self.stack: list[Any] = []
        self._memory: list[Any] = []
        self._marks: list[int] = []
        self._ways: dict[str, Callable[[], None]] = {
            "MARK": lambda: self._marks.append(len(self.stack)),
            "EMPTY_DICT": lambda: self.stack.append({}),
            "EMPTY_TUPLE": lambda: self.stack.append(()),
            "TUPLE": lambda: self.stack.append(tuple(self._since_mark())),
            "MEMOIZE": lambda: self._memory.append(self.stack[-1]),
            "SETITEM": lambda: self._set_items([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda: self._set_items(self._since_mark()),
            "STACK_GLOBAL": self._class,
            "NEWOBJ": self._object,
            "BUILD": lambda: self.stack[-2].update(self.stack.pop()),
        }

    def follow(self, name: str, argument: object) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
            self.stack.append(self._memory[argument])
        elif name in self._ways:
            self._ways[name]()
        elif name not in _IGNORED:
            raise DataError(f"the accuracies ask for {name}, which plain data do not need", hint=WHERE)

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _set_items(self, items: list[Any]) -> None:
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _class(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if (module, name) not in _CLASSES:
            raise DataError(f"the accuracies ask for {module}.{name}, which is not data of the package", hint=WHERE)
        self.stack.append((module, name))

    def _object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind not in _CLASSES or arguments != ():
            raise DataError(f"the accuracies make an object of {kind!r}", hint=WHERE)
        self.stack.append({})
