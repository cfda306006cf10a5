"""A supernet on its own as a directory: weights and a manifest that says which space they belong to.

The layout is that of a training checkpoint after no epoch, so whatever goes on from a checkpoint can start from it.
"""

from collections.abc import Mapping
from pathlib import Path

from hardware.files import JSON, write_manifest
from nas.errors import CheckpointError, RunError
from nas.training.checkpoints import OPTIMIZER_FILE, WEIGHTS_FILE, load_checkpoint, save_tensors
from searchspaces import SpaceError, get_space
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


def load_supernet(directory: Path) -> Supernet:
    """The supernet that `save_supernet` wrote, in eval mode.

    Raises:
        CheckpointError: missing or damaged files, no supernet directory, or weights that do not fit their space.
    """
    hint = "name a directory that `nas import-ofa` made, or import into a new one"
    try:
        checkpoint = load_checkpoint(directory, expected={})
    except CheckpointError as e:
        raise CheckpointError(str(e), hint=hint) from e
    details = checkpoint.details
    name, settings, num_classes = (details.get(key) for key in ("space", "space_settings", "num_classes"))
    if not isinstance(name, str) or not isinstance(settings, Mapping) or not isinstance(num_classes, int):
        raise CheckpointError(f"{directory} does not say which space its weights belong to", hint=hint)
    try:
        supernet = get_space(name, **settings).build_supernet(num_classes=num_classes)
        supernet.load_state_dict(dict(checkpoint.weights))
    except (SpaceError, RuntimeError) as e:
        raise CheckpointError(f"the weights in {directory} do not fit space {name!r}: {e}", hint=hint) from e
    if supernet.space.space_id != details.get("space_id"):
        raise CheckpointError(
            f"{directory} is of space {details.get('space_id')!r}, {name!r} is {supernet.space.space_id!r} today",
            hint=hint,
        )
    return supernet.eval()
