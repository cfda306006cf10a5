"""Starting from somebody's trained supernet: the same space, perhaps other classes.

A supernet directory is what `nas.supernet_files.save_supernet` writes, or any checkpoint of a run's training.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hardware.errors import StorageError
from hardware.files import JSON, MANIFEST_NAME, Manifest, has_manifest, read_manifest, staged_file, write_manifest
from nas.errors import CheckpointError, RunError
from nas.run import open_run
from nas.training.checkpoints import load_tensors, save_tensors
from nas.training.finished import OPTIMIZER_FILE, WEIGHTS_FILE
from searchspaces import SearchSpace
from searchspaces.elastic.supernet import Supernet

_HINT = "name the directory of a supernet of this space: what `nas import-ofa` made, or a checkpoint of another run"

Shapes = Mapping[str, tuple[int, ...]]


def check_start(directory: Path, space: SearchSpace) -> None:
    """Refuse a supernet that does not fit `space`; classes and input sizes may differ.

    Raises:
        CheckpointError: missing or damaged files (named), a space with other weights (both are named), tensors of
            other names or shapes (the first one is named), or values that are no numbers (their tensor is named).
    """
    found = _manifest(directory, verify=True).details
    difference = _first_difference(_shapes_in(directory / WEIGHTS_FILE), space=space)
    is_other_space = found.get("weights_id") != space.weights_id
    if is_other_space or difference is not None:
        problem = (
            f"is of space {found.get('space_id')!r}, this run has {space.space_id!r}"
            if is_other_space
            else f"does not fit space {space.space_id!r}"
        )
        where = "" if difference is None else f": {difference}"
        raise CheckpointError(f"the supernet in {directory} {problem}{where}", hint=_HINT)
    _require_finite(directory / WEIGHTS_FILE)


def start_from(supernet: Supernet, directory: Path) -> None:
    """Copy all weights of a supernet directory into `supernet`.

    The classifier is copied too if it has as many classes, and stays as it is otherwise.

    Raises:
        CheckpointError: as `check_start`.
    """
    check_start(directory, supernet.space)
    own = supernet.state_dict()
    found = load_tensors(directory / WEIGHTS_FILE)
    supernet.load_state_dict({name: found[name] if found[name].shape == own[name].shape else own[name] for name in own})


def take_over(
    directory: Path, *, space: SearchSpace, num_classes: int, checkpoints: Path, details: Mapping[str, JSON]
) -> None:
    """Copy a supernet directory byte by byte to `checkpoints`/epoch-0000, where a run finds it trained.

    Args:
        directory: a supernet of the same weights and classes.
        space: of the run.
        num_classes: of the run.
        checkpoints: of the run.
        details: kept in the new manifest.

    Raises:
        CheckpointError: as `check_start`, or it has other classes.
        StorageError: it cannot be written.
    """
    check_start(directory, space)
    few, classifier = _shapes_of(space)
    shapes = _shapes_in(directory / WEIGHTS_FILE)
    found = {shapes[name][0] for name in few if name in classifier}
    if found != {num_classes}:
        raise CheckpointError(
            f"the supernet in {directory} has {', '.join(map(str, sorted(found)))} classes, this run has {num_classes}",
            hint="train it on, so that it learns the other classes: train.epochs of 1 or more",
        )
    target = checkpoints / "epoch-0000"
    with staged_file(target / WEIGHTS_FILE) as temporary:
        shutil.copyfile(directory / WEIGHTS_FILE, temporary)
    save_tensors(target / OPTIMIZER_FILE, {})
    own: dict[str, JSON] = {"epoch": 0, "step": 0, "space_id": space.space_id, "weights_id": space.weights_id}
    write_manifest(target, files=[WEIGHTS_FILE, OPTIMIZER_FILE], details={**own, **details})


def start_sha256(directory: Path) -> str:
    """Checksum of the weights, as the manifest says: a run remembers it, so that it notices other weights.

    Raises:
        CheckpointError: no supernet directory.
    """
    return _manifest(directory, verify=False).files[WEIGHTS_FILE].sha256


def _manifest(directory: Path, *, verify: bool) -> Manifest:
    if not has_manifest(directory):
        problem, hint = _what_else(directory)
        raise CheckpointError(f"cannot start from {directory}: it {problem}", hint=hint)
    try:
        manifest = read_manifest(directory, verify=verify)
    except StorageError as e:
        raise CheckpointError(f"cannot start from {directory}: {e}", hint=_HINT) from e
    if WEIGHTS_FILE not in manifest.files:
        raise CheckpointError(f"cannot start from {directory}: it has no {WEIGHTS_FILE}", hint=_HINT)
    return manifest


def _what_else(path: Path) -> tuple[str, str]:
    """What somebody named instead of a supernet directory, and what to do."""
    if path.is_file():
        return "is a file", f"import it first: nas import-ofa {path} --space SPACE; then name the directory it makes"
    if not path.exists():
        return "does not exist", _HINT
    try:
        run = open_run(path)
    except RunError:
        return f"has no {MANIFEST_NAME}: no supernet, or one that was never finished", _HINT
    try:
        return "is a run directory", f"name its newest checkpoint: {run.checkpoint_dir()}"
    except RunError as e:
        return "is a run directory without a checkpoint", e.hint


def _shapes_of(space: SearchSpace) -> tuple[Shapes, frozenset[str]]:
    """Shapes of a supernet's tensors, and the names of those whose first axis is the classes."""
    with torch.device("meta"):  # shapes without memory
        few, more = (
            {name: tuple(tensor.shape) for name, tensor in space.build_supernet(num_classes=n).state_dict().items()}
            for n in (2, 3)
        )
    return few, frozenset(name for name, shape in few.items() if more[name] != shape)


def _first_difference(shapes: Shapes, *, space: SearchSpace) -> str | None:
    """The first tensor, in the order of the network, of another name or shape than `space` has; classes may differ."""
    expected, classifier = _shapes_of(space)
    for name in (*expected, *(name for name in shapes if name not in expected)):
        wanted, has = expected.get(name), shapes.get(name)
        if name in classifier and wanted is not None and has is not None:
            wanted, has = wanted[1:], has[1:]
        if wanted != has:
            return (
                f"tensor {name!r} is {_shown(shapes.get(name)) or 'missing'}, "
                f"expected {_shown(expected.get(name), classes=name in classifier) or 'none'}"
            )
    return None


def _shapes_in(path: Path) -> Shapes:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"cannot read the weights {path}: {e}", hint=_HINT) from e


def _require_finite(path: Path) -> None:
    """Refuse NaN and infinity: training would fail at its first step, and blame something else."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            if not bool(torch.isfinite(file.get_tensor(name)).all()):
                raise CheckpointError(
                    f"the weights {path} are damaged: tensor {name!r} has values that are no numbers (NaN or infinite)",
                    hint=f"start from another supernet, or make {path.parent} again",
                )


def _shown(shape: tuple[int, ...] | None, *, classes: bool = False) -> str:
    if shape is None:
        return ""
    sizes = ["classes" if classes and axis == 0 else str(size) for axis, size in enumerate(shape)]
    return f"({', '.join(sizes)})"
