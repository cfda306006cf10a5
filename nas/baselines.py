"""Baselines: ONNX files from elsewhere that are judged and measured beside a run's candidates, and never exported.

A baseline is a candidate of the pseudo-space "onnx", whose only genes are its name and its checksum. So it has its key
in the same tables: what is verified of it lies among the verifications, where `Run.verifications` leaves it out.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.onnx import open_in_one_piece, open_onnx
from hardware.artifacts.onnx_graph import count_onnx, normalised_inside
from hardware.device import Device
from hardware.errors import DeviceError, StorageError
from hardware.files import JSON, has_manifest, read_manifest, write_bytes, write_manifest
from hardware.formats import onnx_importer
from nas.candidate import Candidate
from nas.errors import RunError
from searchspaces import Architecture

if TYPE_CHECKING:
    from nas.data import DataSplits

BASELINE: Literal["baseline"] = "baseline"
SPACE_ID = "onnx"

BaselineInput = Literal["raw", "normalised"]
"""What a file takes: values as the data set stores them, or (x - mean) / std of the run's data."""

_MODEL_FILE = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """An ONNX file that is kept with a run.

    Attributes:
        name: for people.
        sha256: of the file as it was given.
        takes: what inputs it was made for; what is kept takes raw ones.
        macs, params: for one input, see `count_onnx`; None if unknown.
    """

    name: str
    sha256: str
    takes: BaselineInput
    macs: int | None
    params: int | None

    @property
    def architecture(self) -> Architecture:
        """Its key, in the form of an architecture."""
        return Architecture(space_id=SPACE_ID, genes=(("name", self.name), ("sha256", self.weights)))

    @property
    def weights(self) -> str:
        """Hash of file and inputs: the same file for other inputs is another network."""
        return hashlib.sha256(f"{self.sha256} {self.takes}".encode()).hexdigest()[:16]

    def candidate(self, *, precision: str) -> Candidate:
        """Its key in the tables, in a precision."""
        return Candidate(
            architecture=self.architecture, weights=self.weights, weights_kind=BASELINE, precision=precision
        )

    def price_row(self, device_id: str) -> Mapping[str, object]:
        """The columns that tables have about a price: counts, and nothing predicted."""
        predicted = ("latency_predicted_ms", "latency_predicted_low_ms", "latency_predicted_high_ms")
        nothing: dict[str, object] = dict.fromkeys(predicted, math.nan)
        return {**nothing, "device_id": device_id, "in_range": False, "macs": self.macs, "params": self.params}


class BaselineStore:
    """The baselines of a run: a directory each, with the file and a manifest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> list[Baseline]:
        """All of them, by name.

        Raises:
            StorageError: one is damaged.
        """
        found = [self.get(path.name) for path in self._directory.glob("*") if has_manifest(path)]
        return sorted(found, key=lambda baseline: baseline.name)

    def get(self, arch_id: str) -> Baseline:
        """The baseline of an id.

        Raises:
            StorageError: it is missing or damaged.
        """
        details = read_manifest(self._directory / arch_id, verify=False).details
        takes, macs, params = details["takes"], details["macs"], details["params"]
        assert takes in get_args(BaselineInput), takes
        return Baseline(
            name=str(details["name"]),
            sha256=str(details["sha256"]),
            takes=cast(BaselineInput, takes),
            macs=None if macs is None else int(str(macs)),
            params=None if params is None else int(str(params)),
        )

    def open(self, candidate: Candidate) -> Artifact:
        """The file of a baseline's candidate; it takes raw inputs.

        Raises:
            StorageError: it is missing or damaged.
        """
        path = self._directory / candidate.architecture.arch_id
        read_manifest(path)
        return open_onnx(path / _MODEL_FILE)

    def save(self, baseline: Baseline, source: Artifact) -> None:
        """Keep a file that takes raw inputs."""
        path = self._directory / baseline.architecture.arch_id
        write_bytes(path / _MODEL_FILE, source.read_checked())
        details: dict[str, JSON] = asdict(baseline)
        write_manifest(path, files=[_MODEL_FILE], details=details)

    def known(self, baseline: Baseline) -> Baseline | None:
        """The one that is the same network, under whatever name.

        Raises:
            RunError: another network has the name.
        """
        for other in self.all():
            if other.weights == baseline.weights:
                return other
            if other.name == baseline.name:
                raise RunError(
                    f"the run has another baseline of the name {baseline.name!r} (SHA-256 {other.sha256[:12]}...)",
                    hint="choose another name: --name NAME",
                )
        return None


def read_baseline(
    path: Path, *, name: str | None, takes: BaselineInput, data: "DataSplits", device: Device, folder: Path
) -> tuple[Baseline, Artifact]:
    """Look at an ONNX file and make it one that takes raw inputs.

    Args:
        path: the file; weights that it keeps in other files are found beside it.
        name: for people; the file's own name if None.
        takes: what inputs it was made for.
        data: the run's; the file must take its shape and tell its classes.
        device: where it is to run.
        folder: for files that are made on the way.

    Raises:
        RunError: the name cannot be one, there is no such file, or it does not go with data or device.
        DeviceError: the device's files cannot be made from ONNX.
        MeasurementError, StorageError: no ONNX file, or one that cannot be measured; what is wrong is named.
    """
    onnx_importer(device)
    name = path.stem if name is None else name
    if not _NAME.fullmatch(name):
        raise RunError(
            f"{name!r} is no name of a baseline: letters, digits, . - and _, a letter or digit first, at most 64",
            hint="give it one: --name NAME",
        )
    if not path.is_file():
        raise RunError(f"there is no file {path}", hint="check the path")
    source = open_in_one_piece(path, folder=folder)
    if problem := misfit(source, data=data, device=device):
        raise RunError(f"{path} {problem[0]}", hint=problem[1])
    counts = count_onnx(source.path)
    baseline = Baseline(name=name, sha256=source.sha256, takes=takes, macs=counts.macs, params=counts.params)
    if takes == "normalised":
        means, stds = data.preprocessing.mean, data.preprocessing.std
        source = normalised_inside(source, mean=means, std=stds, path=folder / "normalised.onnx")
    return baseline, source


def misfit(source: Artifact, *, data: "DataSplits", device: Device) -> tuple[str, str] | None:
    """Why an ONNX file cannot be compared with a run's candidates on a device, and what to do; None if it can."""
    spec = device.spec
    expected, answers = (spec.batch, *data.native_shape), (spec.batch, data.num_classes)
    if source.input_shape != expected or source.input_dtype != "float32":
        problem = (
            f"takes {source.input_dtype} of shape {source.input_shape}; the run's candidates take float32 of shape "
            f"{expected} on {spec.device_id!r}: {data.name} as it is stored, with all preprocessing inside the file"
        )
        hint = (
            "export it again for such inputs, resizing included; a normalisation by the run's mean and std can be left "
            "to --input normalised"
        )
        return problem, hint
    if source.output_shape != answers:
        problem = (
            f"gives outputs of shape {source.output_shape}, expected {answers}: one score for each of the "
            f"{data.num_classes} classes of {data.name}"
        )
        return problem, "export the classifier of these classes, in their order, without dynamic axes"
    if source.precision not in (spec.precision, "fp32"):
        problem = (
            f"computes in {source.precision}, device {spec.device_id!r} in {spec.precision}: its cost would go by the "
            "wrong name"
        )
        return problem, f"export it in fp32 or {spec.precision}"
    return None


def adopted(store: BaselineStore, *, data: "DataSplits", device: Device) -> tuple[list[Candidate], list[str]]:
    """A run's baselines as candidates on a device, and sentences about those that cannot run there."""
    candidates, left_out = [], []
    for baseline in store.all():
        candidate = baseline.candidate(precision=device.spec.precision)
        try:
            onnx_importer(device)
            problem = misfit(store.open(candidate), data=data, device=device)
            reason = None if problem is None else f"it {problem[0]}"
        except (DeviceError, StorageError) as e:
            reason = str(e)
        if reason is None:
            candidates.append(candidate)
        else:
            left_out.append(f"baseline {baseline.name} is left out on {device.spec.device_id}: {reason}")
    return candidates, left_out
