"""Checkpoints: a directory of safetensors and JSON that exists only once its manifest has landed."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from hardware.errors import StorageError
from hardware.files import JSON, MANIFEST_NAME, read_manifest, write_bytes, write_manifest
from nas.errors import CheckpointError
from nas.training.finished import OPTIMIZER_FILE, RAW_FILE, WEIGHTS_FILE, best_checkpoint, finished_checkpoints

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Training state after a whole number of epochs.

    Attributes:
        epoch: finished epochs.
        step: finished optimiser steps.
        weights: parameters and buffers by name: what is evaluated and used later.
        optimizer: tensors of the optimiser, see `nas.training.optimizer.optimizer_tensors`.
        details: JSON values that must agree on resume (space id, settings) or describe the result: `score` is a mean
            accuracy, `final_phase` says whether scores may be compared (all subnets are open).
        raw: parameters that training goes on with where `weights` are their moving average; else empty.
    """

    epoch: int
    step: int
    weights: Tensors
    optimizer: Tensors
    details: Mapping[str, JSON]
    raw: Tensors = field(default_factory=dict)


def save_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors as safetensors, atomically."""
    write_bytes(path, tensors_to_bytes(tensors))


def tensors_to_bytes(tensors: Tensors) -> bytes:
    """Tensors as the bytes of a safetensors file; equal tensors give equal bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read safetensors.

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(
            f"cannot read the weights {path}: {e}", hint="delete the directory of this file and run the stage again"
        ) from e


def save_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write `directory`/epoch-NNNN and delete all but the newest `keep` checkpoints and the best one.

    Returns:
        The new checkpoint's directory.
    """
    target = directory / f"epoch-{checkpoint.epoch:04d}"
    target.mkdir(parents=True, exist_ok=True)
    # Written again, for example after its successor was deleted: it is not finished while its files are exchanged.
    (target / MANIFEST_NAME).unlink(missing_ok=True)
    tensors = {WEIGHTS_FILE: checkpoint.weights, OPTIMIZER_FILE: checkpoint.optimizer}
    if checkpoint.raw:
        tensors[RAW_FILE] = checkpoint.raw
    for name, content in tensors.items():
        save_tensors(target / name, content)
    write_manifest(
        target,
        files=list(tensors),
        details={"epoch": checkpoint.epoch, "step": checkpoint.step, **checkpoint.details},
    )
    best = best_checkpoint(directory)
    for old in finished_checkpoints(directory)[:-keep]:
        if old != best:
            shutil.rmtree(old)
    return target


def load_checkpoint(path: Path, *, expected: Mapping[str, JSON]) -> Checkpoint:
    """Read a checkpoint directory, checking every file against the manifest.

    Args:
        path: a directory that `save_checkpoint` made.
        expected: details that must agree, for example the space id.

    Raises:
        CheckpointError: damaged (the file is named), or made under other details (the first difference is named).
    """
    try:
        manifest = read_manifest(path)
    except StorageError as e:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {e}",
            hint=f"delete {path} and run the same command again: it goes on from the checkpoint before",
        ) from e
    details = dict(manifest.details)
    for key, value in expected.items():
        difference = _first_difference(key, found=details.get(key), wanted=json.loads(json.dumps(value)))
        if difference is not None:
            raise CheckpointError(
                f"checkpoint {path} was made with {difference}", hint="use another run directory (--run-dir)"
            )
    return Checkpoint(
        epoch=_integer(details, "epoch", path=path),
        step=_integer(details, "step", path=path),
        weights=load_tensors(path / WEIGHTS_FILE),
        optimizer=load_tensors(path / OPTIMIZER_FILE),
        details=details,
        raw=load_tensors(path / RAW_FILE) if RAW_FILE in manifest.files else {},
    )


def _first_difference(key: str, *, found: JSON, wanted: JSON) -> str | None:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        inner = (
            _first_difference(f"{key}.{name}", found=found.get(name), wanted=wanted.get(name))
            for name in sorted({*found, *wanted})
        )
        return next((difference for difference in inner if difference is not None), None)
    return None if found == wanted else f"{key}={found!r}, this run has {wanted!r}"


def _integer(details: Mapping[str, JSON], key: str, *, path: Path) -> int:
    value = details.get(key)
    if not isinstance(value, int):
        raise CheckpointError(
            f"the manifest of checkpoint {path} has {key}={value!r}, expected an integer", hint=f"delete {path}"
        )
    return value
