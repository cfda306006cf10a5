"""A supernet on its own as a directory: weights and a manifest that says which space they belong to.

The layout is that of a training checkpoint after no epoch, so whatever goes on from a checkpoint can start from it.
"""

from collections.abc import Mapping
from pathlib import Path

from hardware.files import JSON, write_manifest
from nas.errors import RunError
from nas.training.checkpoints import save_tensors
from nas.training.finished import OPTIMIZER_FILE, WEIGHTS_FILE
from searchspaces.elastic.supernet import Supernet


def save_supernet(
    directory: Path,
    supernet: Supernet,
    *,
    space: str,
    space_settings: Mapping[str, JSON],
    provenance: Mapping[str, JSON],
) -> None:
    """Write `supernet` to a new directory; it exists for readers only once its manifest has landed.

    Args:
        directory: must be absent or empty.
        supernet: the weights.
        space: name of the supernet's space, as `get_space` takes it.
        space_settings: settings of the space, as `get_space` takes them.
        provenance: where the weights come from, kept with them.

    Raises:
        RunError: there is something at `directory`.
        StorageError: it cannot be written.
    """
    check_vacant(directory)
    save_tensors(directory / WEIGHTS_FILE, supernet.state_dict())
    save_tensors(directory / OPTIMIZER_FILE, {})
    details: dict[str, JSON] = {
        "epoch": 0,
        "step": 0,
        "space_id": supernet.space.space_id,
        "weights_id": supernet.space.weights_id,
        "space": space,
        "space_settings": dict(space_settings),
        "num_classes": supernet.num_classes,
        "provenance": dict(provenance),
    }
    write_manifest(directory, files=[WEIGHTS_FILE, OPTIMIZER_FILE], details=details)


def check_vacant(directory: Path) -> None:
    """Refuse a directory that is in use.

    Raises:
        RunError: a file, or a directory that is not empty.
    """
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if directory.exists():
        raise RunError(
            f"{directory} {'is not empty' if directory.is_dir() else 'is a file'}",
            hint="name a new directory, or delete this one if it is left over from an interrupted call",
        )
