"""Latencies of the parts of networks, in the format of the once-for-all tables.

A file maps resolutions to keys and keys to `{count, mean, std}`; a file of one resolution may leave the first level
out, as the published YAML files do, which have `var` in place of `std` in some versions.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from hardware.errors import StorageError
from hardware.files import JSON, read_json, write_json, write_text
from predictors.errors import PredictorError
from predictors.parts import NO_RESOLUTION

_YAML = (".yaml", ".yml")
_ENTRY = "an entry looks like {count: 498, mean: 0.4955, std: 0.0102}"
_LAYOUT = f'a table maps resolutions to keys and keys to entries, as {{"224": {{"Conv-input:...": ...}}}}; {_ENTRY}'


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorEntry:
    """What was measured of one part.

    Attributes:
        count: timed runs.
        mean: what it takes; positive.
        std: standard deviation, not negative.
    """

    count: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatorTable:
    """Entries by resolution in pixels (`NO_RESOLUTION` where a space has none) and key; see `predictors.parts`.

    Attributes:
        device_id: where they were measured.
        unit: of mean and std, for example "ms".
        entries: the entries.
    """

    device_id: str
    unit: str
    entries: Mapping[int, Mapping[str, OperatorEntry]]


def read_operator_table(path: Path, *, device_id: str, unit: str = "ms") -> OperatorTable:
    """Read a JSON or YAML file; what it does not say is given.

    Args:
        path: the file; .yaml and .yml are YAML, everything else is JSON.
        device_id: where the entries were measured.
        unit: of the entries.

    Raises:
        StorageError: the file is missing, unreadable, or no JSON or YAML.
        PredictorError: it is no such table, or an entry has no usable number; the key is named.
    """
    content = _read_yaml(path) if path.suffix in _YAML else read_json(path)
    if not isinstance(content, Mapping) or not content:
        raise PredictorError(f"{path} is no operator table but {_short(content)}", hint=_LAYOUT)
    if all(isinstance(value, Mapping) and "mean" in value for value in content.values()):
        content = {_resolution_in(content): content}
    entries = {}
    for size, keys in content.items():
        if not re.fullmatch(r"\d{1,5}", str(size)) or not isinstance(keys, Mapping) or not keys:
            raise PredictorError(f"{path} has {_short(keys)} under {_short(size)}", hint=_LAYOUT)
        entries[int(str(size))] = {
            str(key): _entry(value, place=f"{path}: {size}: {key}") for key, value in keys.items()
        }
    return OperatorTable(device_id=device_id, unit=unit, entries=entries)


def write_operator_table(path: Path, table: OperatorTable) -> None:
    """Write a table as JSON or YAML (by the suffix, as `read_operator_table`), durably.

    Raises:
        StorageError: the file cannot be written.
    """
    content: dict[str, JSON] = {
        str(size): {key: asdict(entry) for key, entry in keys.items()} for size, keys in table.entries.items()
    }
    sizes = list(table.entries)
    if len(sizes) == 1 and _resolution_in(table.entries[sizes[0]]) == sizes[0]:
        (content,) = content.values()  # type: ignore[assignment]
    if path.suffix in _YAML:
        write_text(path, yaml.safe_dump(content))
    else:
        write_json(path, content)


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}", hint=f"check that {path} exists") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise StorageError(f"{path} is damaged: no valid YAML ({e})", hint="restore it from a copy") from e


def _resolution_in(keys: Mapping[str, object]) -> int:
    """The resolution that the key of the stem tells."""
    for key in keys:
        if found := re.match(r"Conv-input:(\d{1,5})x", str(key)):
            return int(found[1])
    return NO_RESOLUTION


def _entry(value: object, *, place: str) -> OperatorEntry:
    if not isinstance(value, Mapping):
        raise PredictorError(f"{place} is {_short(value)}, no entry", hint=_ENTRY)
    mean = _number(value.get("mean"))
    std = _number(value.get("std", value.get("var")))
    count = value.get("count")
    if mean is None or mean <= 0:
        raise PredictorError(
            f"{place}: mean is {_short(value.get('mean'))}, expected a finite number above 0", hint=_ENTRY
        )
    if std is None or std < 0:
        given = _short(value.get("std", value.get("var")))
        raise PredictorError(f"{place}: std is {given}, expected a finite number, at least 0", hint=_ENTRY)
    if type(count) is not int or count < 1:
        raise PredictorError(f"{place}: count is {_short(count)}, expected a whole number above 0", hint=_ENTRY)
    return OperatorEntry(count=count, mean=mean, std=std if "std" in value else math.sqrt(std))


def _number(value: object) -> float | None:
    """A finite number as it is, None for everything else."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
