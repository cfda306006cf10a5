"""Further files of an exported candidate: other formats and precisions, each found out about in its own runtime."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hardware.artifacts.artifact import Artifact
from hardware.device import Device, get_device
from hardware.files import JSON, write_bytes
from hardware.formats import device_for_format, format_name
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many
from nas.candidate import Candidate
from nas.card import accuracy_entry, cost_entry
from nas.materialise import Workbench

EXPORT = "export"

_PRECISIONS = ("fp32", "int8")
_ORDER = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """A kind of file that somebody asks for.

    Attributes:
        name: of the format, see `hardware.formats.format_name`.
        precision: number format the network computes in.
    """

    name: str
    precision: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what recipes say: "onnx" and "onnx-fp32" are fp32, "onnx-int8" is int8."""
        name, _, ending = text.rpartition("-")
        if ending in _PRECISIONS:
            return cls(name=name, precision=ending)
        return cls(name=text, precision=_PRECISIONS[0])

    @property
    def key(self) -> str:
        """Name of its entry in the card, "onnx-int8" for example."""
        return f"{self.name}-{self.precision}"

    def is_written_by(self, device: Device) -> bool:
        """Whether the device's own artifacts are such files."""
        return (format_name(device.backend), device.spec.precision) == (self.name, self.precision)

    def device(self, *, like: Device) -> Device:
        """The device of this machine that writes and judges such files.

        Args:
            like: has the batch that the file is made for, and the threads if it is of this machine; else one is used.

        Raises:
            DeviceError: nothing writes such files, its runtime is missing here, or it does not have so many threads.
        """
        device_id = device_for_format(self.name, precision=self.precision)
        threads = like.spec.threads if like.host is None else 1
        return get_device(device_id, threads=threads, batch=like.spec.batch)


def further_formats(texts: Sequence[str], *, device: Device) -> list[FileFormat]:
    """The formats that are asked for, each once, without the one that the run's own device writes anyway."""
    wanted = dict.fromkeys(FileFormat.parse(text) for text in texts)
    return [one for one in wanted if not one.is_written_by(device)]


def write_format(
    bench: Workbench,
    candidate: Candidate,
    *,
    directory: Path,
    protocol: str,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, JSON]:
    """Make the candidate's file for the device of `bench`, judge it there, and put it into `directory`.

    Nothing is put there before the file is reopened in its runtime, compared with PyTorch, evaluated on `report` and
    measured.

    Args:
        bench: of the device that writes the format, see `Workbench.on`.
        candidate: in whatever precision; its twin in the device's is written.
        directory: of the export.
        protocol: measurement protocol.
        seed: order of measuring.
        on_progress: called with (rounds done, most rounds) of the measurement.

    Returns:
        What the card says about the file.

    Raises:
        ExportError: the file's outputs or answers are not the network's.
        MeasurementError: the format does not know an operator, or the device refuses the network.
        DeviceError: the device is busy.
    """
    twin, device, report = bench.twin(candidate), bench.device, bench.data.report
    with bench.computing():
        artifact = bench.artifact(twin)
        comparison = bench.compare(twin, artifact, report)
        accuracy = bench.accuracy(artifact, report)
    measured = _measure(bench, twin, artifact, protocol=protocol, seed=seed, on_progress=on_progress)
    path = directory / f"model.{device.spec.precision}.{artifact.format}"
    write_bytes(path, artifact.read_checked())
    return {
        "file": path.name,
        "format": artifact.format,
        "precision": artifact.precision,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "input": {"shape": list(artifact.input_shape), "dtype": artifact.input_dtype},
        "output": {"shape": list(artifact.output_shape)},
        "candidate": twin.candidate_id,
        "device": device.spec.device_id,
        "accuracy": accuracy_entry(accuracy),
        "comparison": asdict(comparison),
        "cost": cost_entry(measured),
        "versions": dict(measured.versions),
    }


def _measure(
    bench: Workbench,
    candidate: Candidate,
    artifact: Artifact,
    *,
    protocol: str,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> CostMeasurement:
    """Measure the file beside the largest subnet, which shows drift, and append the record to the run's table.

    A device that counts does not drift, and the largest subnet may not even fit it.
    """
    reference = artifact
    if bench.device.backend.provenance == "measured":
        with bench.computing():
            reference = bench.artifact(bench.inherit(bench.run.space.largest))
    measured = measure_many(
        bench.device,
        {candidate.candidate_id: artifact},
        reference=reference,
        protocol=protocol,
        rng=np.random.default_rng((seed, _ORDER)),
        owner=f"nas {bench.run.info.name}",
        on_progress=on_progress,
    )[candidate.candidate_id]
    key = {
        "arch_id": candidate.architecture.arch_id,
        "candidate_id": candidate.candidate_id,
        "architecture": candidate.architecture.to_json(),
        "purpose": EXPORT,
    }
    bench.run.measurements_table(bench.device.spec.device_id).append([{**measured.to_row(), **key}])
    return measured
