"""Append-only tables: a directory of parquet parts, each written whole or not at all."""

import io
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

from hardware.errors import StorageError
from hardware.files import write_bytes

_PART = re.compile(r"part-(\d{8})-[0-9a-f]{8}\.parquet")


class Table:
    """Rows of one kind, kept as the parts in which they were appended.

    Several processes may append to the same directory: no part is ever changed or replaced. Parts are read in the
    order of their number; parts that two processes append at the same moment may share a number and then keep an
    arbitrary, but always the same, order.
    """

    def __init__(self, directory: Path, *, schema: pa.Schema) -> None:
        """Describe a table; nothing is written before the first `append`.

        Args:
            directory: holds the parts, and nothing else; need not exist yet.
            schema: columns, types, and which of them may be null.
        """
        self._directory = directory
        self._schema = schema

    @property
    def directory(self) -> Path:
        """Where the parts lie."""
        return self._directory

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add rows as one part: all of them or, if anything fails, none. No rows: nothing is written.

        Args:
            rows: every column must be given; None only where the schema allows null.

        Raises:
            StorageError: an unknown or missing column, a value of a wrong type (both named), or no place on the disk.
        """
        if not rows:
            return
        self._check_names(rows)
        columns = [self._column(field, values=[row[field.name] for row in rows]) for field in self._schema]
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(columns, schema=self._schema), stream, write_page_checksum=True)
        numbers = [int(name[5:13]) for name in self._part_names()]
        name = f"part-{max(numbers, default=0) + 1:08d}-{secrets.token_hex(4)}.parquet"
        write_bytes(self._directory / name, stream.getvalue())

    def read(self) -> pd.DataFrame:
        """Return all rows in append order, with the schema's columns; empty if nothing was appended.

        Raises:
            StorageError: a part is damaged or was written with another schema; the message names it.
        """
        parts = [self._read_part(self._directory / name) for name in self._part_names()]
        frame: pd.DataFrame = pa.concat_tables([self._schema.empty_table(), *parts]).to_pandas()
        return frame

    def __len__(self) -> int:
        return sum(self._num_rows(self._directory / name) for name in self._part_names())

    def _part_names(self) -> list[str]:
        try:
            names = [path.name for path in self._directory.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as e:
            raise StorageError(
                f"cannot list {self._directory}: {e.strerror}", hint=f"check {self._directory} and its permissions"
            ) from e
        # Whatever has another name is a temporary file that a killed process left.
        return sorted(name for name in names if _PART.fullmatch(name))

    def _read_part(self, path: Path) -> pa.Table:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                part = file.read()
        except (pa.ArrowException, OSError, ValueError) as e:
            raise _damaged(path, error=e) from e
        if not part.schema.equals(self._schema):
            raise StorageError(
                f"{path} has the columns {part.schema.names}, this version of archsmith expects {self._schema.names} "
                "with their types",
                hint="read this run with the version of archsmith that wrote it, or start a new run directory",
            )
        return part

    def _num_rows(self, path: Path) -> int:
        try:
            return int(pq.read_metadata(path).num_rows)
        except (pa.ArrowException, OSError, ValueError) as e:
            raise _damaged(path, error=e) from e

    def _check_names(self, rows: Sequence[Mapping[str, object]]) -> None:
        expected = set(self._schema.names)
        for index, row in enumerate(rows):
            missing, unknown = sorted(expected - row.keys()), sorted(row.keys() - expected)
            if missing or unknown:
                raise StorageError(
                    f"row {index} for {self._directory.name} does not fit: missing columns {missing}, "
                    f"unknown columns {unknown}",
                    hint=f"give exactly these columns: {self._schema.names}",
                )

    def _column(self, field: pa.Field, *, values: list[object]) -> pa.Array:
        for index, value in enumerate(values):
            allowed = field.nullable if value is None else _fits(value, kind=field.type)
            if not allowed:
                raise self._wrong_type(field, detail=f"row {index} has {value!r}")
        try:
            return pa.array(values, type=field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as e:
            raise self._wrong_type(field, detail=str(e)) from e

    def _wrong_type(self, field: pa.Field, *, detail: str) -> StorageError:
        null = " or None" if field.nullable else ""
        return StorageError(
            f"column {field.name!r} of {self._directory.name} takes {field.type}{null}: {detail}",
            hint="convert the value before it is appended",
        )


def _fits(value: object, *, kind: pa.DataType) -> bool:
    """Refuse what Arrow would convert silently, such as True into 1; what is not listed Arrow checks itself."""
    if pa.types.is_boolean(kind):
        return isinstance(value, (bool, np.bool_))
    if pa.types.is_integer(kind):
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if pa.types.is_floating(kind):
        return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if pa.types.is_string(kind):
        return isinstance(value, str)
    return True


def _damaged(path: Path, *, error: Exception) -> StorageError:
    return StorageError(
        f"{path} is damaged: {error}",
        hint=f"delete {path.name} (its rows are lost, what is missing is computed again) and run the command again",
    )
