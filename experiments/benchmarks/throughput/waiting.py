"""A workload whose evaluations only wait: what is left of a search's time is what the search itself costs."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.ray.loading import Weights
from hardware.files import JSON, read_json, write_json
from nas.accuracy import Accuracy, score
from nas.search.pool import Judge, SubnetScore
from nas.search.stopping import Stopping
from searchspaces import Architecture

LOADER = f"{__name__}:load"
_FILE = "waiting.json"
_NUM_IMAGES = 1000


def make_waiting(directory: Path, *, seconds: Sequence[float]) -> Path:
    """A directory that stands for a run; its evaluations take these times, one after the other."""
    directory.mkdir(parents=True, exist_ok=True)
    durations: list[JSON] = list(seconds)
    write_json(directory / _FILE, {"seconds": durations})
    return directory


def load(run_dir: Path) -> "Waiting":
    """The loader that workers are given."""
    content = read_json(run_dir / _FILE)
    assert isinstance(content, dict)
    seconds = content["seconds"]
    assert isinstance(seconds, list)
    return Waiting([float(str(one)) for one in seconds])


class Waiting:
    """Judges by waiting; an architecture's accuracy follows from its id."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self._seconds = seconds

    def judge(self, weights: Weights | None = None) -> Judge:
        """The function that evaluation workers apply to a task; it needs no weights."""
        return self._judge

    def _judge(self, archs: Sequence[Architecture], /, *, stopping: Stopping | None = None) -> tuple[SubnetScore, ...]:
        """Everything is judged to the end."""
        return tuple(map(self._one, archs))

    def _one(self, arch: Architecture) -> SubnetScore:
        number = int(arch.arch_id, 16)
        started_s = time.perf_counter()
        time.sleep(self._seconds[number % len(self._seconds)])
        return SubnetScore(
            arch_id=arch.arch_id, accuracy=pseudo_accuracy(number), seconds=time.perf_counter() - started_s
        )


def pseudo_accuracy(number: int) -> Accuracy:
    """Any accuracy between 50 and 100 %."""
    num_correct = _NUM_IMAGES // 2 + number % (_NUM_IMAGES // 2)
    labels_N = np.zeros(_NUM_IMAGES, dtype=np.int64)
    return score(labels_N, np.where(np.arange(_NUM_IMAGES) < num_correct, 0, 1), num_classes=2, metric="top1")
