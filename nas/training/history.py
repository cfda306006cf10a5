"""The training log: one JSON line every few steps, readable while training runs (progress bar, MLflow, plots)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from hardware.files import write_text

HistoryRow = Mapping[str, float]


class TrainHistory:
    """Append-only file `history.jsonl`; a torn last line (killed writer) is dropped by the readers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: HistoryRow) -> None:
        """Add a row; it must have "step"."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="ascii") as file:
            file.write(json.dumps(dict(row)) + "\n")

    def rows(self) -> list[dict[str, float]]:
        """All whole rows in the order of writing."""
        return HistoryReader(self._path).new_rows()

    def forget_after(self, step: int) -> None:
        """Drop rows beyond `step`: training goes on from a checkpoint made there and will write them again."""
        if self._path.exists():
            kept = [row for row in self.rows() if row["step"] <= step]
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))


class HistoryReader:
    """Follows a `TrainHistory` while another process writes it; what was read once is not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = 0, 0

    def new_rows(self) -> list[dict[str, float]]:
        """Whole rows since the last call; all rows once more after `forget_after` replaced the file."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            # A line without its end is torn, or being written: it is left for the next call.
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        rows: list[dict[str, float]] = []
        for line in whole.split(b"\n"):
            try:
                rows.append(json.loads(line.decode("ascii", errors="replace")))
            except json.JSONDecodeError:
                continue  # torn by a crash, then continued by the next process: that row alone is lost
        return rows
