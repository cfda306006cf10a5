"""Accuracies of subnets, each judged once: all seeds and samplers of a benchmark share them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.benchmarks.json_lines import append_line, read_lines
from nas.accuracy import Accuracy, accuracy_row
from nas.search.pool import SubnetScore
from nas.search.stopping import Stopping
from searchspaces import Architecture

Judge = Callable[[Sequence[Architecture]], tuple[SubnetScore, ...]]


class KeptScores:
    """A memo in a JSONL file, one line a judgement: of an architecture, with the weights of a supernet, on a split.

    A search still sees nothing but what it evaluates: it asks, and what was judged before only answers sooner.

    Args:
        path: of the file; made at the first judgement.
        weights: checksum of the supernet's weights.
        judges: by the name of the split, which says how many images it has if that can change.
    """

    def __init__(self, path: Path, *, weights: str, judges: Mapping[str, Judge]) -> None:
        self._path, self._weights, self._judges = path, weights, dict(judges)
        self._known: dict[tuple[str, str], SubnetScore] = {}
        for row in read_lines(path):
            if row["weights"] == weights:
                self._known[row["split"], row["arch_id"]] = SubnetScore(
                    arch_id=row["arch_id"], accuracy=Accuracy.from_row(row), seconds=row["seconds"]
                )

    def judge(
        self, archs: Sequence[Architecture], /, *, split: str, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        """Scores in the order of `archs`; those that are not known are judged now, to the end, and kept one by one."""
        for arch in archs:
            if (split, arch.arch_id) not in self._known:
                (score,) = self._judges[split]([arch])
                self._known[split, arch.arch_id] = score
                self._append(split, score)
        return tuple(self._known[split, arch.arch_id] for arch in archs)

    def __len__(self) -> int:
        return len(self._known)

    def _append(self, split: str, score: SubnetScore) -> None:
        row = {
            "weights": self._weights,
            "split": split,
            "arch_id": score.arch_id,
            **accuracy_row(score.accuracy),
            "seconds": round(score.seconds, 4),
        }
        append_line(self._path, row)
