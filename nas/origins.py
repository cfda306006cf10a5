"""The runs whose trained supernets a run's own supernet grew from."""

from contextlib import suppress
from pathlib import Path

import yaml

from hardware.errors import StorageError
from hardware.files import read_manifest
from nas.errors import RunError
from nas.run import Run, open_run
from nas.training.finished import CHECKPOINTS, WEIGHTS_FILE, finished_checkpoints, start_of


def run_of(checkpoint: Path) -> Run | None:
    """The run that a checkpoint of a supernet lies in; None for one that lies elsewhere."""
    try:
        return open_run(checkpoint.parents[2])
    except (RunError, IndexError):
        return None


def origins(run: Run) -> tuple[tuple[Run, ...], bool]:
    """The runs that trained what a run's supernet started from, the nearest first, and whether these are all.

    They are not all where a start lies in no run, is gone, or has other weights by now.
    """
    found: list[Run] = []
    last = run
    while (start := _start(last)) is not None:
        origin = _origin(last, start=start)
        if origin is None or origin.path in [one.path for one in found]:
            return tuple(found), False
        found.append(origin)
        last = origin
    return tuple(found), True


def _start(run: Run) -> str | None:
    newest = finished_checkpoints(run.train_dir / CHECKPOINTS)[-1:]
    return start_of(newest[0]) if newest else None


def _origin(run: Run, *, start: str) -> Run | None:
    """The run whose checkpoint the recipe names, if that has the weights with this checksum."""
    with suppress(OSError, yaml.YAMLError, StorageError, KeyError, TypeError):
        checkpoint = Path(yaml.safe_load(run.recipe_path.read_text(encoding="utf-8"))["train"]["from_checkpoint"])
        if read_manifest(checkpoint, verify=False).files[WEIGHTS_FILE].sha256 == start:
            return run_of(checkpoint)
    return None
