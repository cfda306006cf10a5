import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hardware.errors import StorageError
from hardware.table import Table

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("good", pa.bool_(), nullable=False),
        pa.field("raw", pa.list_(pa.list_(pa.float64())), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


def row(name: str = "a", **changes: object) -> dict[str, object]:
    time = datetime(2026, 1, 2, tzinfo=UTC)
    values = {"name": name, "count": 1, "value": 0.5, "good": True, "raw": [[1.0, 2.0], [3.0]], "time": time}
    return {**values, **changes}


def test_rows_come_back_in_append_order(tmp_path: Path) -> None:
    table = Table(tmp_path / "rows", schema=SCHEMA)
    table.append([row("a"), row("b", count=np.int64(2))])
    table.append([row("c", value=None)])
    Table(tmp_path / "rows", schema=SCHEMA).append([row(str(n)) for n in range(3)])
    frame = table.read()
    assert list(frame["name"]) == ["a", "b", "c", "0", "1", "2"]
    assert list(frame["count"]) == [1, 2, 1, 1, 1, 1]
    assert np.isnan(frame["value"][2])
    assert [list(runs) for runs in frame["raw"][0]] == [[1.0, 2.0], [3.0]]
    assert frame["time"][0].to_pydatetime() == row()["time"]
    assert len(table) == 6


def test_more_than_nine_parts_keep_their_order(tmp_path: Path) -> None:
    table = Table(tmp_path, schema=SCHEMA)
    for n in range(12):
        table.append([row(count=n)])
    assert list(table.read()["count"]) == list(range(12))


def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    table = Table(tmp_path / "rows", schema=SCHEMA)
    table.append([])
    assert not (tmp_path / "rows").exists()
    assert list(table.read().columns) == SCHEMA.names
    assert len(table.read()) == len(table) == 0


def test_unknown_and_missing_columns_are_named(tmp_path: Path) -> None:
    table = Table(tmp_path / "rows", schema=SCHEMA)
    bad = {key: value for key, value in row().items() if key != "count"} | {"cuont": 1}
    with pytest.raises(
        StorageError, match=r"row 1 .*missing columns \['count'\], unknown columns \['cuont'\]"
    ) as caught:
        table.append([row(), bad])
    assert "'count'" in caught.value.hint
    assert len(table) == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", 3),
        ("name", None),
        ("count", "3"),
        ("count", 1.5),
        ("count", True),
        ("count", 2**70),
        ("value", "0.5"),
        ("value", False),
        ("good", 1),
        ("raw", [1.0]),
        ("raw", [["x"]]),
        ("time", "yesterday"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_and_named(tmp_path: Path, column: str, value: object) -> None:
    table = Table(tmp_path / "rows", schema=SCHEMA)
    with pytest.raises(StorageError, match=f"column '{column}' of rows takes") as caught:
        table.append([row(), row() | {column: value}])
    assert caught.value.hint
    assert len(table) == 0


def test_other_files_in_the_directory_are_ignored(tmp_path: Path) -> None:
    table = Table(tmp_path, schema=SCHEMA)
    table.append([row()])
    (tmp_path / ".tmp-abcdef012345-part-00000002-00000000.parquet").write_bytes(b"half a part")
    (tmp_path / "notes.txt").write_text("mine")
    assert len(table.read()) == len(table) == 1
    table.append([row()])
    assert len(table) == 2


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped", "text"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: str) -> None:
    table = Table(tmp_path, schema=SCHEMA)
    table.append([row()])
    # Random numbers do not compress, so that the middle of the file is data and no header.
    noise = np.random.default_rng(0).standard_normal((100, 10)).tolist()
    table.append([row(raw=noise)])
    part = max(tmp_path.iterdir())
    content = part.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    part.write_bytes({"empty": b"", "torn": content[:middle], "flipped": flipped, "text": b"hello" * 99}[damage])
    with pytest.raises(StorageError, match=f"{part.name} is damaged") as caught:
        table.read()
    assert part.name in caught.value.hint
    if damage != "flipped":
        with pytest.raises(StorageError, match=part.name):
            len(table)


def test_a_part_of_another_schema_is_named(tmp_path: Path) -> None:
    Table(tmp_path, schema=pa.schema([pa.field("other", pa.int64())])).append([{"other": 1}])
    with pytest.raises(StorageError, match=r"part-00000001-.*has the columns \['other'\]"):
        Table(tmp_path, schema=SCHEMA).read()


def test_a_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("x")
    with pytest.raises(StorageError, match="rows"):
        Table(tmp_path / "rows", schema=SCHEMA).read()


def test_a_failed_append_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path, schema=SCHEMA)
    table.append([row()])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("os.write", full)
        with pytest.raises(StorageError, match="No space left"):
            table.append([row("b")])
    assert list(table.read()["name"]) == ["a"]
    assert len(list(tmp_path.iterdir())) == 1


WRITER = textwrap.dedent(
    """
    import itertools, pathlib, sys
    import pyarrow as pa
    from hardware.table import Table
    schema = pa.schema([pa.field("writer", pa.string()), pa.field("n", pa.int64())])
    table = Table(pathlib.Path(sys.argv[1]), schema=schema)
    for n in itertools.count():
        if n == int(sys.argv[3]):
            break
        table.append([{"writer": sys.argv[2], "n": 2 * n}, {"writer": sys.argv[2], "n": 2 * n + 1}])
        print(n, flush=True)
    """
)
WRITER_SCHEMA = pa.schema([pa.field("writer", pa.string()), pa.field("n", pa.int64())])


def start_writer(directory: Path, name: str, *, num_parts: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(directory), name, str(num_parts)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.faults
def test_a_kill_in_the_middle_of_appending_leaves_a_readable_table(tmp_path: Path) -> None:
    for num_parts in (1, 3, 10):
        directory = tmp_path / str(num_parts)
        with start_writer(directory, "a", num_parts=-1) as writer:
            assert writer.stdout is not None
            for _ in range(num_parts):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        found = list(Table(directory, schema=WRITER_SCHEMA).read()["n"])
        assert len(found) >= 2 * num_parts
        assert len(found) % 2 == 0
        assert found == list(range(len(found)))


def test_two_processes_append_without_losing_rows(tmp_path: Path) -> None:
    with start_writer(tmp_path, "a", num_parts=15) as a, start_writer(tmp_path, "b", num_parts=15) as b:
        a.communicate()
        b.communicate()
    frame = Table(tmp_path, schema=WRITER_SCHEMA).read()
    for name in ("a", "b"):
        assert list(frame[frame["writer"] == name]["n"]) == list(range(30))
