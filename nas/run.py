"""A run: one directory that holds everything a search decided, found and made."""

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hardware.errors import StorageError
from hardware.files import JSON, TEMPORARY_PREFIX, has_manifest, read_json, read_manifest, write_json, write_text
from hardware.measurement import MEASUREMENT_SCHEMA
from hardware.table import Table
from nas.baselines import BASELINE, BaselineStore
from nas.errors import CheckpointError, RunError
from nas.joint_front import JointFront, compute_joint_front
from nas.limits import recipe_limits, with_peak_memory
from nas.objectives import Limit
from nas.pareto import ParetoFront, compute_front
from nas.pricing import PEAK_MEMORY, Pricer
from nas.tables import (
    ANSWER_SCHEMA,
    EVALUATION_SCHEMA,
    SESSION_SCHEMA,
    STAGE_SCHEMA,
    STOPPED_SCHEMA,
    VERIFICATION_SCHEMA,
)
from nas.training.finished import CHECKPOINTS, WEIGHTS_FILE, finished_checkpoints
from predictors import PredictorError, load_predictor
from predictors.latency import LatencyPredictor
from predictors.measured import QUANTITIES, cost_column
from searchspaces import Architecture, SearchSpace, get_space

if TYPE_CHECKING:
    from nas.candidate_store import CandidateStore
    from searchspaces.elastic.supernet import Supernet

SCHEMA_VERSION = 4
_INFO_FILE = "run.json"
_RECIPE_FILE = "recipe.yaml"
LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What identifies a run; written once, before its first stage.

    Attributes:
        schema_version: layout of the directory and its tables.
        run_id: random, never reused.
        name: the recipe's name.
        created_utc: ISO time.
        recipe_sha256: fingerprint of the resolved recipe; another recipe cannot go on in this directory.
        space: name of the search space.
        space_settings: its settings.
        num_classes: classes of the data set.
        device_id: the device of the recipe.
    """

    schema_version: int
    run_id: str
    name: str
    created_utc: str
    recipe_sha256: str
    space: str
    space_settings: Mapping[str, JSON]
    num_classes: int
    device_id: str


class Run:
    """Paths, tables and results of a run directory. Make one with `create_run` or `open_run`."""

    def __init__(self, path: Path, *, info: RunInfo) -> None:
        self.path = path
        self.info = info
        self.evaluations_table = Table(path / "tables" / "evaluations", schema=EVALUATION_SCHEMA)
        self.stopped_table = Table(path / "tables" / "stopped", schema=STOPPED_SCHEMA)
        self.answers_table = Table(path / "tables" / "answers", schema=ANSWER_SCHEMA)
        self._measurements_dir = path / "tables" / "measurements"
        self.verifications_table = Table(path / "tables" / "verifications", schema=VERIFICATION_SCHEMA)
        self.sessions_table = Table(path / "tables" / "sessions", schema=SESSION_SCHEMA)
        self.stages_table = Table(path / "tables" / "stages", schema=STAGE_SCHEMA)

    @property
    def train_dir(self) -> Path:
        """Checkpoints and history of the supernet."""
        return self.path / "train"

    @property
    def study_path(self) -> Path:
        """The SQLite file of the Optuna study."""
        return self.path / "study.db"

    @property
    def artifacts_dir(self) -> Path:
        """Exported files that were measured; can be deleted at any time."""
        return self.path / "artifacts"

    @property
    def report_dir(self) -> Path:
        """Pictures and tables made from the results."""
        return self.path / "report"

    @property
    def export_dir(self) -> Path:
        """One directory for each exported candidate."""
        return self.path / "export"

    def refine_dir(self, arch_id: str) -> Path:
        """Checkpoints of one candidate's fine-tuning."""
        return self.path / "refine" / arch_id

    def trained_dir(self, arch_id: str, *, epochs: int) -> Path:
        """Checkpoints of one candidate that the search fine-tunes for so many epochs."""
        return self.path / "search" / f"{epochs:04d}-epochs" / arch_id

    def trained_dirs(self, arch_id: str) -> list[Path]:
        """Those of `trained_dir` that exist, fewest epochs first."""
        return sorted(self.path.glob(f"search/*-epochs/{arch_id}"))

    def predictor_dir(self, device_id: str, *, quantity: str = "latency") -> Path:
        """The stored predictor of a device's latency, or of another quantity."""
        directory = self.path / "predictors" / device_id
        return directory if quantity == "latency" else directory / quantity

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.path / _RECIPE_FILE

    @cached_property
    def space(self) -> SearchSpace:
        """The run's search space."""
        return get_space(self.info.space, **self.info.space_settings)

    @cached_property
    def candidates(self) -> "CandidateStore":
        """Stored weights."""
        # Torch takes more than a second, which whoever only reads tables need not wait.
        from nas.candidate_store import CandidateStore

        return CandidateStore(self.path / "candidates", space=self.space, num_classes=self.info.num_classes)

    @cached_property
    def baselines(self) -> BaselineStore:
        """Networks of other people that are shown beside the front."""
        return BaselineStore(self.path / "baselines")

    def measurements_table(self, device_id: str) -> Table:
        """What was measured on one device."""
        return Table(self._measurements_dir / device_id, schema=MEASUREMENT_SCHEMA)

    def devices(self) -> tuple[str, ...]:
        """The recipe's device, and the others that were profiled, by id."""
        profiled = {path.name for path in self.predictor_dir("").glob("*") if has_manifest(path)}
        return self.info.device_id, *sorted(profiled - {self.info.device_id})

    def evaluations(self) -> pd.DataFrame:
        """Everything that was evaluated on the search split; see `nas.tables`."""
        return self.evaluations_table.read()

    def stopped(self) -> pd.DataFrame:
        """What early stopping ended before it was evaluated to the end; see `nas.tables`."""
        return self._with_limited(self.stopped_table.read())

    def evaluations_on(self, device: str) -> pd.DataFrame:
        """What was evaluated on the search split, with the costs that are predicted for a device.

        Accuracies are known for whatever device the search was made: the present predictor of a device that was
        profiled prices the newest row of each candidate. For one that was not, there are no rows.
        """
        return self._with_limited(self._priced_on(device), precision=self.precision(device))

    def _priced_on(self, device: str) -> pd.DataFrame:
        rows = self.evaluations()
        own = rows[rows["device_id"] == device]
        if device not in self.devices() or not has_manifest(self.predictor_dir(device)):
            return own
        try:
            predictor = self.predictor(device)
        except PredictorError:
            # Of an older version: until it is fitted again, the costs stand that were predicted while searching.
            return own
        rows = rows.drop_duplicates("candidate_id", keep="last")
        pricer = Pricer(self.space, predictor=predictor, num_classes=self.info.num_classes)
        # Each architecture once, in an order of its own: the last bit of a prediction depends on its place in a batch.
        texts = sorted(rows["architecture"].unique())
        prices = pricer.price([Architecture.from_json(text) for text in texts])
        columns = pd.DataFrame([price.row() for price in prices], index=texts).loc[rows["architecture"]]
        columns.index = rows.index
        return rows.assign(**{str(name): columns[name] for name in columns})

    def measurements(self) -> pd.DataFrame:
        """Everything that was measured, with raw repeats: device by device, in the order of measuring."""
        known = sorted(entry.name for entry in self._measurements_dir.glob("*") if entry.is_dir())
        frames = [self.measurements_table(device_id).read() for device_id in known or [self.info.device_id]]
        return pd.concat(frames, ignore_index=True)

    def verifications(self) -> pd.DataFrame:
        """Every candidate that was measured and evaluated on the verify split; baselines are none."""
        rows = self.verifications_table.read()
        rows = rows[rows["weights_kind"] != BASELINE].astype({"macs": "int64", "params": "int64"})
        return self._with_limited(rows)

    def baseline_rows(self) -> pd.DataFrame:
        """The baselines among what was measured and evaluated on the verify split; `macs` and `params` may be null."""
        rows = self.verifications_table.read()
        return rows[rows["weights_kind"] == BASELINE]

    def precision(self, device: str) -> str | None:
        """What a device computes in; None before anything was measured there."""
        found = self.measurements_table(device).read()["precision"]
        return str(found.iloc[0]) if len(found) else None

    def _with_limited(self, rows: pd.DataFrame, *, precision: str | None = None) -> pd.DataFrame:
        """`rows`, with the column of the memory where that is limited; see `with_peak_memory`."""
        if all(limit.name != PEAK_MEMORY for limit in self.limits(self.info.device_id)):
            return rows
        return with_peak_memory(rows, space=self.space, num_classes=self.info.num_classes, precision=precision)

    def limits(self, device: str) -> tuple[Limit, ...]:
        """The limits that the recipe sets now, as far as they hold on a device: latency has one of its own on each.

        Raises:
            RunError: the recipe is damaged.
        """
        text = self.recipe_path.read_text(encoding="utf-8")
        return recipe_limits(text, device=None if device == self.info.device_id else device)

    def front(self, *, device: str | None = None) -> ParetoFront:
        """The verified front of a device (default: the recipe's), or the predicted one before verification.

        Nothing on it exceeds the limits that the recipe sets now, whatever was verified before they were set.
        """
        device_id = self.info.device_id if device is None else device
        return compute_front(
            self.evaluations_on(device_id),
            self.verifications(),
            device_id=device_id,
            limits=self.limits(device_id),
        )

    def joint_front(self) -> JointFront:
        """The front of accuracy and of the latencies on all devices of the run."""
        return compute_joint_front(
            {device: self.evaluations_on(device) for device in self.devices()},
            self.verifications(),
            limits={device: self.limits(device) for device in self.devices()},
        )

    def checkpoint_dir(self) -> Path:
        """Directory of the newest checkpoint of the supernet.

        Raises:
            RunError: nothing is trained yet.
        """
        finished = finished_checkpoints(self.train_dir / CHECKPOINTS)
        if not finished:
            raise RunError(f"run {self.path} has no trained supernet", hint=f"nas train {self.path}")
        return finished[-1]

    def checkpoint_sha256(self) -> str:
        """Checksum of the supernet's weights, as its manifest says.

        Raises:
            RunError: nothing is trained yet.
            CheckpointError: the manifest is damaged.
        """
        path = self.checkpoint_dir()
        try:
            return read_manifest(path, verify=False).files[WEIGHTS_FILE].sha256
        except (StorageError, KeyError) as e:
            raise CheckpointError(f"checkpoint {path} is damaged: {e}", hint=f"delete {path} and train again") from e

    def supernet_weights(self) -> dict[str, npt.NDArray[np.generic]]:
        """The trained supernet's parameters and buffers by name.

        Raises:
            RunError: nothing is trained yet.
            CheckpointError: the checkpoint is damaged.
        """
        from nas.training.checkpoints import load_checkpoint

        checkpoint = load_checkpoint(self.checkpoint_dir(), expected={"space_id": self.space.space_id})
        return {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}

    def supernet(self, weights: Mapping[str, npt.NDArray[np.generic]] | None = None) -> "Supernet":
        """The trained supernet in eval mode; recalibrate what you `extract` before judging it.

        Args:
            weights: from `supernet_weights` of this run, where somebody has read them already; they are copied.

        Raises:
            RunError: nothing is trained yet.
            CheckpointError: the checkpoint is damaged.
        """
        import torch

        found = self.supernet_weights() if weights is None else weights
        supernet = self.space.build_supernet(num_classes=self.info.num_classes)
        # Weights from Ray's object store are read-only, which torch would warn of.
        supernet.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in found.items()})
        return supernet.eval()

    def predictor(self, device: str | None = None, *, quantity: str = "latency") -> LatencyPredictor:
        """The stored predictor of a device (default: the recipe's) for latency, or another quantity.

        Raises:
            RunError: the device was not profiled, or what was measured there does not have the quantity.
        """
        device_id = self.info.device_id if device is None else device
        directory = self.predictor_dir(device_id, quantity=quantity)
        if not directory.exists():
            raise self._no_predictor(device_id, quantity=quantity)
        return load_predictor(directory, space=self.space, device_id=device_id, quantity=quantity)

    def _no_predictor(self, device_id: str, *, quantity: str) -> RunError:
        from nas.profile import told_quantities

        hint = f"nas profile {self.path}" + ("" if device_id == self.info.device_id else f" --device {device_id}")
        if not has_manifest(self.predictor_dir(device_id)):
            others = [one for one in self.devices() if one != device_id and has_manifest(self.predictor_dir(one))]
            because = "nothing was profiled there yet"
            because += f"; profiled devices: {', '.join(others)}" if others else ""
            hint += ", which fits one where the device counts energy" if quantity == "energy" else ""
        elif quantity in told_quantities(self, device_id=device_id):
            because = "it is missing, though the measurements there tell it"
        else:
            stored = [one for one in QUANTITIES if has_manifest(self.predictor_dir(device_id, quantity=one))]
            limits = [cost_column(one, QUANTITIES[one]) for one in stored] + [PEAK_MEMORY, "macs"]
            because = f"the device is profiled, but its measurements tell no {quantity}"
            hint = f"limit {', '.join(limits)} or params there, or choose a device that counts {quantity}"
        return RunError(f"run {self.path} has no {quantity} predictor for device {device_id!r}: {because}", hint=hint)


def utc_now() -> str:
    """The time as the tables write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def open_run(path: Path | str) -> Run:
    """Open an existing run directory.

    Raises:
        RunError: not a run directory, or one of another layout version.
    """
    path = Path(path)
    info_path = path / _INFO_FILE
    if not info_path.exists():
        raise RunError(f"{path} is not a run directory ({_INFO_FILE} is missing)", hint="nas run RECIPE makes one")
    try:
        content = read_json(info_path)
        if not isinstance(content, dict):
            raise TypeError(f"expected an object, found {type(content).__name__}")
        # Before the keys: another version may have others.
        found = content.get("schema_version")
        if not isinstance(found, int):
            raise TypeError(f"schema_version is {found!r}")
        if found != SCHEMA_VERSION:
            raise RunError(
                f"{path} has layout version {found}, this program reads {SCHEMA_VERSION}",
                hint="use the version of archsmith that wrote it, or start in a new directory",
            )
        info = RunInfo(**content)
    except (StorageError, TypeError) as e:
        raise RunError(f"{info_path} is damaged: {e}", hint="restore the file, or start in a new directory") from e
    return Run(path, info=info)


def create_run(
    path: Path,
    *,
    name: str,
    recipe_text: str,
    recipe_sha256: str,
    space: str,
    space_settings: Mapping[str, JSON],
    num_classes: int,
    device_id: str,
) -> Run:
    """Make a run directory.

    Raises:
        RunError: the place is not writable, or holds other files.
    """
    require_writable(path)
    if not all(_is_leftover(entry, recipe_text=recipe_text) for entry in path.iterdir()):
        raise RunError(f"{path} holds files that are not a run's", hint="choose an empty or new directory (--run-dir)")
    info = RunInfo(
        schema_version=SCHEMA_VERSION,
        run_id=uuid.uuid4().hex,
        name=name,
        created_utc=utc_now(),
        recipe_sha256=recipe_sha256,
        space=space,
        space_settings=dict(space_settings),
        num_classes=num_classes,
        device_id=device_id,
    )
    write_text(path / _RECIPE_FILE, recipe_text)
    # run.json last: without it the directory is no run
    write_json(path / _INFO_FILE, json.loads(json.dumps(asdict(info))))
    return Run(path, info=info)


def _is_leftover(entry: Path, *, recipe_text: str) -> bool:
    """Whether an earlier `create_run` with the same recipe, killed before run.json, can have left this file."""
    if entry.name == _RECIPE_FILE:
        return entry.is_file() and entry.read_bytes() == recipe_text.encode()
    return entry.name == LOCK_FILE or entry.name.startswith(TEMPORARY_PREFIX)


def require_run_place(path: Path) -> None:
    """Create `path` if needed, and leave other people's directories alone.

    Raises:
        RunError: it cannot be written, or holds files but no run.
    """
    require_writable(path)
    own = {_RECIPE_FILE, LOCK_FILE}
    foreign = [e.name for e in path.iterdir() if e.name not in own and not e.name.startswith(TEMPORARY_PREFIX)]
    if foreign and not (path / _INFO_FILE).exists():
        raise RunError(f"{path} holds files that are not a run's", hint="choose an empty or new directory (--run-dir)")


def require_writable(path: Path) -> None:
    """Create `path` if needed.

    Raises:
        RunError: it cannot be created or written.
    """
    hint = "choose another directory with --run-dir"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"cannot create the run directory {path}: {e.strerror}", hint=hint) from e
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"the run directory {path} is not writable", hint=hint)
