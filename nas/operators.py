"""Measures the parts of a space's networks one by one on a device: the entries of its operator table.

What a part costs does not depend on its weights, so parts of an untrained supernet are measured, each alone as a
network of its own.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.lease import UnitLock
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many
from hardware.protocol import get_protocol
from hardware.reference import build_reference
from nas.errors import RunError
from predictors.operator_table import OperatorEntry, OperatorTable
from predictors.parts import Part, parts_of
from searchspaces import Architecture, SearchSpace
from searchspaces.elastic.blocks import bind_steps, extract_steps
from searchspaces.elastic.supernet import Supernet

# All networks of a session are loaded at the same time.
_AT_ONCE = 64
_CALIBRATION_INPUTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredParts:
    """What measuring the parts of a space's networks came to.

    Attributes:
        table: an entry for every part.
        num_parts: distinct parts.
        num_suspect: measurements that failed their checks, and are in the table nevertheless.
    """

    table: OperatorTable
    num_parts: int
    num_suspect: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One distinct part: the name and an architecture that has it."""

    name: str
    arch: Architecture


def measure_parts(
    device: Device,
    space: SearchSpace,
    *,
    num_classes: int,
    protocol: str,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> MeasuredParts:
    """Build every distinct part of a space's networks and measure it, some at a time.

    Args:
        device: where they run.
        space: it needs a supernet.
        num_classes: of the classifier.
        protocol: measurement protocol.
        seed: of the order.
        on_progress: called with (parts measured, all).

    Raises:
        SpaceError: the space has no supernet.
        DeviceError: the device is unavailable or busy.
        MeasurementError: the device's format does not know an operator; it is named.
        RunError: the device does not compute in fp32.
    """
    if device.spec.precision != "fp32":
        raise RunError(
            f"device {device.spec.device_id!r} computes in {device.spec.precision}: a part by itself is quantised "
            "otherwise than within a network, so its cost would be another",
            hint="leave --operators out: with few samples the predictor builds on the same device in fp32",
        )
    torch.manual_seed(0)
    supernet = space.build_supernet(num_classes=num_classes).eval()
    parts = parts_of(space, num_classes=num_classes)
    work = list(_distinct(space, parts).items())
    rng, settings = np.random.default_rng((seed, 9)), get_protocol(protocol)
    measured: dict[str, CostMeasurement] = {}
    reference_ms: float | None = None
    for start in range(0, len(work), _AT_ONCE):
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            with UnitLock(device.spec.physical_unit()).computing(owner=f"build for {device.spec.device_id}"):
                artifacts = _artifacts(device, supernet, work[start : start + _AT_ONCE], folder=Path(folder))
                is_measured = device.backend.provenance == "measured"
                reference = (
                    build_reference(device, folder=Path(folder)) if is_measured else next(iter(artifacts.values()))
                )
            found = measure_many(
                device,
                artifacts,
                reference=reference,
                protocol=settings,
                rng=rng,
                together=False,
                reference_ms=reference_ms,
            )
        measured |= found
        # The host's speed in the first session is that of the table.
        reference_ms = reference_ms or next(iter(found.values())).comparable_reference_ms
        on_progress(len(measured), len(work))
    return MeasuredParts(
        table=OperatorTable(
            device_id=device.spec.device_id,
            unit=next(iter(measured.values())).unit,
            entries=_entries(parts, {key: _to_entry(record) for key, record in measured.items()}),
        ),
        num_parts=len(measured),
        num_suspect=sum(record.suspect for record in measured.values()),
    )


def cut_out(supernet: Supernet, arch: Architecture, part: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A part of a subnet as a plain torch network in eval mode, and the shape (without the batch) of what it is given.

    Args:
        supernet: in eval mode.
        arch: has the part.
        part: its name.
    """
    paths = {module: path for path, module in supernet.named_modules()}
    steps = supernet.plan(arch)
    known = {one.name for one in parts_of(supernet.space, num_classes=supernet.num_classes)}
    owners: list[str] = []
    for module, _ in steps:
        name = _part_of(paths[module])
        # Activations, flattening and dropout between two parts belong to the one before.
        owners.append(name if name in known else owners[-1])
    first, last = owners.index(part), len(owners) - owners[::-1].index(part)
    with torch.no_grad():
        x = bind_steps(steps[:first])(torch.zeros(1, *supernet.space.input_shape(arch)))
    return extract_steps(steps[first:last]).eval(), tuple(x.shape[1:])


def _part_of(path: str) -> str:
    """What the operators of a supernet's module are called in the space's operator table."""
    if found := re.match(r"stages\.(\d+)\.(\d+)", path):
        return f"stage{int(found[1]) + 1}.block{int(found[2]) + 1}"
    if found := re.match(r"layers\.(\d+)", path):
        return f"layer{int(found[1]) + 1}"
    return path.partition(".")[0].removesuffix("_block")


def _distinct(space: SearchSpace, parts: Sequence[Part]) -> dict[str, _Work]:
    work: dict[str, _Work] = {}
    for part in parts:
        for row, key in enumerate(part.keys):
            if key is not None and key not in work:
                work[key] = _Work(name=part.name, arch=space.architectures(part.genomes_RG[row : row + 1])[0])
    return work


def _artifacts(
    device: Device, supernet: Supernet, work: Sequence[tuple[str, _Work]], *, folder: Path
) -> dict[str, Artifact]:
    artifacts = {}
    for number, (key, one) in enumerate(work):
        network, shape = cut_out(supernet, one.arch, one.name)
        artifacts[key] = device.backend.build(
            network,
            example=torch.zeros(device.spec.batch, *shape),
            path=folder / f"part{number}.{device.backend.artifact_format}",
            precision=device.spec.precision,
            calibration=torch.randn(_CALIBRATION_INPUTS, *shape) if device.spec.precision != "fp32" else None,
        )
    return artifacts


def _to_entry(record: CostMeasurement) -> OperatorEntry:
    """The median of the rounds stands for the mean, which a few disturbed runs would lift."""
    if not record.raw_ms:
        return OperatorEntry(count=1, mean=record.p50, std=0.0)
    rounds_ms = np.median(np.array(record.raw_ms), axis=1)
    return OperatorEntry(count=record.num_rounds * record.runs_per_round, mean=record.p50, std=float(rounds_ms.std()))


def _entries(parts: Sequence[Part], measured: dict[str, OperatorEntry]) -> dict[int, dict[str, OperatorEntry]]:
    """One and the same measurement at every resolution that has the part."""
    entries: dict[int, dict[str, OperatorEntry]] = {}
    for part in parts:
        for resolution, key in zip(part.resolutions_R.tolist(), part.keys, strict=True):
            if key is not None:
                entries.setdefault(resolution, {})[key] = measured[key]
    return entries
