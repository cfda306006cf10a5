"""The training log."""

from pathlib import Path

import pytest

from nas.training.history import HistoryReader, TrainHistory


def history_of(path: Path, *steps: int) -> TrainHistory:
    history = TrainHistory(path)
    for step in steps:
        history.append({"step": step, "loss": 1.0 / step})
    return history


def test_rows_come_back_in_the_order_of_writing(tmp_path: Path) -> None:
    history = history_of(tmp_path / "train" / "history.jsonl", 3, 5, 9)
    assert [row["step"] for row in history.rows()] == [3, 5, 9]
    assert history.rows()[1] == {"step": 5, "loss": 0.2}


def test_a_log_that_was_never_written_is_empty(tmp_path: Path) -> None:
    history = TrainHistory(tmp_path / "history.jsonl")
    assert history.rows() == []
    history.forget_after(3)
    assert history.rows() == []


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = history_of(path, 1, 2, 3)
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-cut])
        assert [row["step"] for row in history.rows()] == [1, 2]


def test_a_line_written_behind_a_torn_one_takes_only_that_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = history_of(path, 1, 2, 3)
    path.write_bytes(path.read_bytes()[:-5])
    history.append({"step": 4})
    history.append({"step": 5})
    assert [row["step"] for row in history.rows()] == [1, 2, 5]


def test_bytes_that_are_no_text_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = history_of(path, 1)
    with path.open("ab") as file:
        file.write(b"\xff\x00\xfe\n")
    history.append({"step": 2})
    assert [row["step"] for row in history.rows()] == [1, 2]


def test_rows_beyond_a_step_are_forgotten_for_good(tmp_path: Path) -> None:
    history = history_of(tmp_path / "history.jsonl", 1, 4, 5, 8)
    history.forget_after(4)
    assert [row["step"] for row in history.rows()] == [1, 4]
    history.append({"step": 5})
    assert [row["step"] for row in TrainHistory(tmp_path / "history.jsonl").rows()] == [1, 4, 5]


def test_forgetting_mends_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = history_of(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-3])
    history.forget_after(2)
    history.append({"step": 2})
    assert [row["step"] for row in history.rows()] == [1, 2]


def test_a_reader_gets_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    reader = HistoryReader(path)
    assert reader.new_rows() == []
    history = history_of(path, 1, 2)
    assert [row["step"] for row in reader.new_rows()] == [1, 2]
    assert reader.new_rows() == []
    history.append({"step": 3})
    assert [row["step"] for row in reader.new_rows()] == [3]


def test_a_reader_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history_of(path, 1, 2)
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second, len(whole)):
        path.write_bytes(whole[:cut])
        reader = HistoryReader(path)
        assert [row["step"] for row in reader.new_rows()] == [1]
        with path.open("ab") as file:
            file.write(whole[cut:])
        assert [row["step"] for row in reader.new_rows()] == [2]


@pytest.mark.parametrize("longer", [False, True])
def test_a_reader_begins_again_when_rows_were_forgotten(tmp_path: Path, longer: bool) -> None:
    path = tmp_path / "history.jsonl"
    history, reader = history_of(path, 1, 2, 3), HistoryReader(path)
    reader.new_rows()
    history.forget_after(1)
    steps = [1, 2, 3, 4, 5] if longer else [1]
    for step in steps[1:]:
        history.append({"step": step})
    assert [row["step"] for row in reader.new_rows()] == steps
    assert reader.new_rows() == []
