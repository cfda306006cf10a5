"""The subnets of an audit: which they are, what they cost on devices and how accurate they are, kept on disk.

Everything that is finished stays in a directory, so that an audit of hours can be stopped and go on.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from experiments.workload import Workload
from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.errors import StorageError
from hardware.files import JSON, read_json, write_json
from hardware.host import look_at_host
from hardware.lease import UnitLock
from hardware.measurement import MEASUREMENT_SCHEMA, CostMeasurement
from hardware.measuring import measure_many
from hardware.table import Table
from nas.data import DataSplits
from nas.deployment import Deployment
from nas.evaluation import SubnetJudge
from nas.profile import ratio_to_reference
from searchspaces import Architecture, SearchSpace
from searchspaces.elastic.supernet import Supernet

Floats = npt.NDArray[np.float64]
Say = Callable[[str], None]

AUDITED, REFERENCE = "audit", "reference"
_POOL = 4000
_SUBNETS, _ORDER = 9, 10  # keep the choice of subnets and the order of rounds apart from other uses of the seed
_CALIBRATION_IMAGES = 16  # int8 ranges cost no time, so any will do
_JUDGED_AT_ONCE = 10
_OWNER = "proxy audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What subnets cost on one device.

    Attributes:
        values_N: in `unit`; NaN where there is no measurement or a suspect one.
        unit: "ms", "instructions" or "cycles"; empty if nothing was measured.
        provenance: measured, simulated or estimated; empty if nothing was measured.
        num_suspect: of the subnets, whose measurement is not to be believed.
        num_missing: of the subnets, that were not measured.
    """

    values_N: Floats
    unit: str
    provenance: str
    num_suspect: int
    num_missing: int


def draw_subnets(space: SearchSpace, *, num: int, seed: int) -> list[Architecture]:
    """Different architectures: the smallest, the largest, then random ones; the first n of them are always the same.

    There are fewer where the space, or a pool of 4,000 drawn ones, has not so many.
    """
    drawn = space.architectures(space.sample_many(_POOL, np.random.default_rng((seed, _SUBNETS))))
    return list(dict.fromkeys([space.smallest, space.largest, *drawn]))[:num]


def require_same_settings(path: Path, settings: dict[str, JSON]) -> None:
    """Write the settings at the first call, and refuse other ones later.

    Raises:
        StorageError: what was kept was made with other settings; the first difference is named.
    """
    if not path.exists():
        write_json(path, settings)
        return
    known = read_json(path)
    before = known if isinstance(known, dict) else {}
    for name in sorted({*before, *settings}):
        if before.get(name) != settings.get(name):
            raise StorageError(
                f"{path.parent} was made with {name} {before.get(name)!r}, now it is {settings.get(name)!r}",
                hint="use the settings that it was made with, or another directory (--work)",
            )


class KeptCosts:
    """Measures subnets with random weights, preprocessing inside, and keeps the records of each device in a table.

    Args:
        directory: of the tables.
        space: of the subnets.
        data: gives the shape of raw inputs and the calibration of int8.
        protocol: of the measurements, by name.
        seed: of the weights and the order of rounds.
    """

    def __init__(self, directory: Path, *, space: SearchSpace, data: DataSplits, protocol: str, seed: int) -> None:
        few = data.train.first(_CALIBRATION_IMAGES)
        self._directory, self._space, self._data = directory, space, replace(data, train=few)
        self._protocol, self._seed = protocol, seed
        require_same_settings(
            directory / "settings.json",
            {
                "space_id": space.space_id,
                "data": data.name,
                "input_shape": list(data.native_shape),
                "num_classes": data.num_classes,
                "calibration_images": len(few),
                "protocol": protocol,
                "seed": seed,
            },
        )

    @cached_property
    def _supernet(self) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return self._space.build_supernet(num_classes=self._data.num_classes).eval()

    def require_same_device(self, device: Device) -> None:
        """Refuse to go on with a device's table on another machine, or with another runtime.

        Raises:
            StorageError: the newest record was made there; both are named.
        """
        records = self._records(device.spec.device_id)
        if not len(records) or device.host is not None:
            return
        row = {str(name): value for name, value in records.iloc[-1].items()}
        newest, spec = CostMeasurement.from_row(row), device.spec
        # Counts are the same on every machine.
        cpu = look_at_host().cpu_model if device.backend.provenance == "measured" else newest.cpu_model
        before = (newest.cpu_model, dict(newest.versions), newest.threads, newest.batch)
        now = (cpu, device.backend.versions(), spec.threads, spec.batch)
        if before != now:
            raise StorageError(
                f"{self._table(spec.device_id).directory} was measured with {before}, {spec.device_id} is now {now}",
                hint="go on with that machine and those versions, or use another directory (--work)",
            )

    def measure_missing(
        self, device: Device, archs: Sequence[Architecture], *, batch: int, again: bool, say: Say
    ) -> None:
        """Measure the subnets that the device's table has not, `batch` in one interleaved session, and append them.

        On measured devices the largest subnet takes part in every session, so that sessions can be compared.

        Args:
            device: where.
            archs: which ones.
            batch: how many are loaded together; what is measured is appended after each batch.
            again: whether suspect ones count as missing.
            say: told after every batch.

        Raises:
            DeviceError, MeasurementError, StorageError: see `hardware.measuring.measure_many`.
        """
        device_id, table = device.spec.device_id, self._table(device.spec.device_id)
        values = self.costs(device_id, archs).values_N
        done = set(self._audited(self._records(device_id)).index)
        missing = [
            arch
            for arch, value in zip(archs, values.tolist(), strict=True)
            if arch.arch_id not in done or (again and np.isnan(value))
        ]
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            built: dict[Architecture, Artifact] = {}
            for start in range(0, len(missing), batch):
                chosen, started_s = missing[start : start + batch], time.monotonic()
                largest = [self._space.largest] if device.backend.provenance == "measured" else []
                everything = list(dict.fromkeys([*largest, *chosen]))
                with UnitLock(device.spec.physical_unit()).computing(owner=f"{_OWNER}: build for {device_id}"):
                    for arch in everything:
                        if arch not in built:
                            built[arch] = self._build(device, arch, directory=Path(folder))
                built_s = time.monotonic() - started_s
                measured = measure_many(
                    device,
                    {arch.arch_id: built[arch] for arch in everything},
                    reference=built[everything[0]],
                    protocol=self._protocol,
                    rng=np.random.default_rng((self._seed, _ORDER, len(table))),
                    owner=f"{_OWNER} on {device_id}",
                )
                table.append(
                    [
                        {
                            **measured[arch.arch_id].to_row(),
                            "arch_id": arch.arch_id,
                            "candidate_id": "untrained",
                            "architecture": arch.to_json(),
                            "purpose": AUDITED if arch in chosen else REFERENCE,
                        }
                        for arch in everything
                    ]
                )
                num_suspect = sum(measured[arch.arch_id].suspect for arch in chosen)
                say(
                    f"{device_id}: {min(start + batch, len(missing))} of {len(missing)} missing subnets measured, "
                    f"{num_suspect} of the last {len(chosen)} suspect "
                    f"({built_s:.0f} s to build, {time.monotonic() - started_s - built_s:.0f} s to measure)"
                )

    def costs(self, device_id: str, archs: Sequence[Architecture]) -> Costs:
        """What the table says, the newest record of each subnet.

        Times are the median over the rounds of (subnet / largest subnet in the same round), times the largest's median
        in the first session: a session in which the host was slower must not look like one of slower subnets. A session
        whose largest subnet is suspect is suspect as a whole.
        """
        records = self._records(device_id)
        audited = self._audited(records)
        values_N = np.array(
            [audited["value"].get(arch.arch_id, np.nan) if len(audited) else np.nan for arch in archs], dtype=np.float64
        )
        num_missing = sum(arch.arch_id not in audited.index for arch in archs)
        return Costs(
            values_N=values_N,
            unit=str(records["unit"].iloc[0]) if len(records) else "",
            provenance=str(records["provenance"].iloc[0]) if len(records) else "",
            num_suspect=int(np.isnan(values_N).sum()) - num_missing,
            num_missing=num_missing,
        )

    def _audited(self, records: pd.DataFrame) -> pd.DataFrame:
        """The newest record of each subnet by arch_id, with a column `value`, NaN if it is suspect."""
        largest = records[records["arch_id"] == self._space.largest.arch_id]
        references = {str(row["session_id"]): row for row in largest.to_dict("records") if not row["suspect"]}
        unit_ms = float(next(iter(references.values()))["p50"]) if references else float("nan")

        def value(row: pd.Series) -> float:
            if row["provenance"] != "measured":
                return float(row["p50"])
            reference = references.get(str(row["session_id"]))
            if row["suspect"] or reference is None:
                return float("nan")
            return unit_ms * ratio_to_reference(row["raw_ms"], reference["raw_ms"])

        newest = records[records["purpose"] == AUDITED].drop_duplicates("arch_id", keep="last").set_index("arch_id")
        return newest.assign(value=[value(row) for _, row in newest.iterrows()])

    def _build(self, device: Device, arch: Architecture, *, directory: Path) -> Artifact:
        return Deployment(device, data=self._data).build(
            self._supernet.extract(arch),
            shape=self._space.input_shape(arch),
            path=directory / f"{arch.arch_id}.{device.backend.artifact_format}",
        )

    def _records(self, device_id: str) -> pd.DataFrame:
        return self._table(device_id).read()

    def _table(self, device_id: str) -> Table:
        return Table(self._directory / device_id, schema=MEASUREMENT_SCHEMA)


class KeptAccuracies:
    """Judges subnets with the weights of a trained supernet, by torch in fp32, and keeps the accuracies in one file.

    Args:
        path: of the file.
        workload: of the run with the supernet.

    Raises:
        RunError: nothing is trained yet.
        StorageError: the file is that of another supernet.
    """

    def __init__(self, path: Path, *, workload: Workload) -> None:
        self._path, self._workload = path, workload
        self._settings: dict[str, JSON] = {
            "supernet_sha256": workload.run.checkpoint_sha256(),
            "data_sha256": workload.data.source_sha256,
            "split": "search",
            "metric": workload.data.metric,
            "recalibration_images": workload.recipe.train.recalibration_images,
            "seed": workload.recipe.seed,
        }
        require_same_settings(path.with_name(f"{path.stem}-settings.json"), self._settings)

    def judge_missing(self, archs: Sequence[Architecture], *, say: Say) -> None:
        """Judge the subnets that the file has not, on the search split, ten at a time."""
        known = self._read()
        missing = [arch for arch in archs if arch.arch_id not in known]
        if not missing:
            return
        workload = self._workload
        judge = SubnetJudge(
            workload.run.supernet(),
            data=workload.data,
            recalibration_images=workload.recipe.train.recalibration_images,
            seed=workload.recipe.seed,
        )
        for start in range(0, len(missing), _JUDGED_AT_ONCE):
            with UnitLock(workload.device.spec.physical_unit()).computing(owner=f"{_OWNER}: accuracies"):
                scores = judge.judge(missing[start : start + _JUDGED_AT_ONCE])
            known |= {score.arch_id: score.accuracy.value for score in scores}
            write_json(self._path, known)
            say(f"accuracies: {min(start + _JUDGED_AT_ONCE, len(missing))} of {len(missing)} missing subnets judged")

    def accuracies(self, archs: Sequence[Architecture]) -> Floats:
        """Fractions (N,), NaN where a subnet was not judged."""
        known = self._read()
        return np.array([known.get(arch.arch_id, np.nan) for arch in archs], dtype=np.float64)

    def _read(self) -> dict[str, float]:
        known = read_json(self._path) if self._path.exists() else {}
        assert isinstance(known, dict)
        return {str(name): float(value) for name, value in known.items()}
