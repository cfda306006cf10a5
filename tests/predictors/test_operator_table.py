import json
from pathlib import Path

import pytest

from hardware.errors import StorageError
from predictors import OperatorTable, PredictorError, read_operator_table, write_operator_table
from predictors.operator_table import OperatorEntry
from predictors.parts import NO_RESOLUTION

STEM, HEAD = "Conv-input:16x16x1-output:8x8x8", "Conv_1-input:2x2x40-output:2x2x96"
ENTRIES = {STEM: OperatorEntry(count=498, mean=0.5, std=0.01), HEAD: OperatorEntry(count=400, mean=0.25, std=0.0)}


def entry(**changes: object) -> dict[str, object]:
    return {"count": 498, "mean": 0.5, "std": 0.01} | changes


@pytest.mark.parametrize("name", ["table.json", "table.yaml"])
@pytest.mark.parametrize(
    "entries",
    [{16: ENTRIES, 20: ENTRIES}, {16: ENTRIES}, {20: {HEAD: ENTRIES[HEAD]}}, {NO_RESOLUTION: {HEAD: ENTRIES[HEAD]}}],
)
def test_a_written_table_is_read_back(name: str, entries: dict[int, dict[str, OperatorEntry]], tmp_path: Path) -> None:
    write_operator_table(tmp_path / name, OperatorTable(device_id="pi", unit="us", entries=entries))
    table = read_operator_table(tmp_path / name, device_id="pi", unit="us")
    assert (table.device_id, table.unit, table.entries) == ("pi", "us", entries)


def test_the_published_layouts_are_read_and_written(tmp_path: Path) -> None:
    nested, flat = tmp_path / "nested.json", tmp_path / "160_lookup_table.yaml"
    nested.write_text(json.dumps({"16": {STEM: entry()}, "20": {STEM: entry(), HEAD: entry()}}))
    assert set(read_operator_table(nested, device_id="note10").entries) == {16, 20}
    # One resolution a file, variances in place of deviations.
    flat.write_text(f"{STEM}: {{count: 4, mean: 2.0, var: 0.25}}\n")
    table = read_operator_table(flat, device_id="note10")
    assert table.entries == {16: {STEM: OperatorEntry(count=4, mean=2.0, std=0.5)}}
    write_operator_table(tmp_path / "again.json", table)
    assert json.loads((tmp_path / "again.json").read_text()) == {STEM: {"count": 4, "mean": 2.0, "std": 0.5}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": float("nan")}, "mean is nan"),
        ({"mean": -0.5}, r"mean is -0\.5, expected a finite number above 0"),
        ({"mean": 0}, "mean is 0"),
        ({"mean": True}, "mean is True"),
        ({"mean": "fast"}, "mean is 'fast'"),
        ({"std": float("inf")}, "std is inf"),
        ({"std": None}, "std is None"),
        ({"count": 0}, "count is 0"),
        ({"count": 1.5}, r"count is 1\.5"),
    ],
)
def test_entries_without_usable_numbers_are_refused_with_their_key(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"16": {STEM: entry(**changes)}}))
    with pytest.raises(PredictorError, match=message) as refusal:
        read_operator_table(path, device_id="pi")
    assert f"16: {STEM}" in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"16": []}', '{"16": {}}', '{"big": {"a": {}}}', '{"16": {"a": 3}}', "3"]
)
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    for name in ("table.json", "table.yaml"):
        (tmp_path / name).write_text(text)
        with pytest.raises(PredictorError) as refusal:
            read_operator_table(tmp_path / name, device_id="pi")
        assert "count: 498" in refusal.value.hint


@pytest.mark.parametrize(("name", "text"), [("table.json", '{"16": {"Conv'), ("table.yaml", '{"16": {"Conv')])
def test_a_truncated_or_absent_file_is_damaged(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=name):
        read_operator_table(tmp_path / name, device_id="pi")
    (tmp_path / name).write_text(text)
    with pytest.raises(StorageError, match=f"{name} is damaged"):
        read_operator_table(tmp_path / name, device_id="pi")
