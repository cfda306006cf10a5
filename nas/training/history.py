"""The training log: one JSON line every few steps, readable while training runs (progress bar, MLflow, plots)."""

import json
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
        if not self._path.exists():
            return []
        rows: list[dict[str, float]] = []
        for line in self._path.read_text(encoding="ascii", errors="replace").split("\n")[:-1]:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # torn by a crash, then continued by the next process: that row alone is lost
        return rows

    def forget_after(self, step: int) -> None:
        """Drop rows beyond `step`: training goes on from a checkpoint made there and will write them again."""
        if self._path.exists():
            kept = [row for row in self.rows() if row["step"] <= step]
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
