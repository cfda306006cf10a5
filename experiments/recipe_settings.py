"""What a recipe can say: one frozen pydantic model a section; unknown keys and wrong types are refused.

Accuracy is a fraction 0..1 and latency is in milliseconds everywhere. Fields marked `OPERATIONAL` say where and how
fast a run computes, never what it computes: they may change between two calls on one run directory.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from experiments.errors import DataError
from experiments.sources.registry import get_source
from nas.accuracy import Metric
from nas.search.settings import MeasureMode, SamplerName
from nas.training.settings import OptimizerName
from searchspaces import SpaceError, get_space, list_spaces

OPERATIONAL: dict[str, JsonValue] = {"operational": True}

FileFormatName = Literal[
    "onnx",
    "openvino",
    "litert",
    "executorch",
    "onnx-int8",
    "openvino-int8",
    "litert-int8",
    "executorch-int8",
]

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Workers = Annotated[int, Field(ge=1, le=1_024)]


def _free_alias(value: str) -> str:
    # The registry keeps these for itself: "latest" and version numbers are what an alias is told apart from.
    if value == "latest" or re.fullmatch(r"v\d+", value, flags=re.IGNORECASE):
        raise ValueError(f"got {value!r}, expected an alias other than `latest`, v1, v2, ...")
    return value


def _absolute_place(value: str | None) -> str | None:
    # Workers run in directories of their own, and a resumed run may be called from elsewhere.
    if value is None or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
        return value
    return str(Path(value).expanduser().absolute())


class Section(BaseModel):
    """Base of every section: strict types, no unknown keys, no NaN, immutable, and docstrings for each field."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataSettings(Section):
    """Which examples, and how they are divided; what is left after the three splits is trained on.

    `path` is operational because the run remembers the checksum of its data: they may move, not change.
    """

    dataset: str = Field(min_length=1, description="name of the data set, or of a kind of own data")
    path: Annotated[str | None, AfterValidator(_absolute_place)] = Field(
        default=None, description="folder or file of the data, or module:function", json_schema_extra=OPERATIONAL
    )
    subset: str | None = Field(default=None, min_length=1, description="which one, if there are several under one name")
    image_size: int | None = Field(
        default=None, ge=4, le=4096, description="side that images are resized and cropped to; null: as they are"
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="1 for grey, 3 for colour; null: colour if any image has colour"
    )
    layout: Literal["NHW", "NHWC", "NCHW", "NT", "NCT"] | None = Field(
        default=None, description="axes of own arrays; null: as their shape says"
    )
    augmentation: str | None = Field(
        default=None, min_length=1, description="training augmentation by name; null: the data set's own"
    )
    metric: Metric = Field(default="top1", description="what the search maximises and every table and front shows")
    search: Count = Field(description="examples that the search sees")
    verify: Count = Field(description="examples that decide the verified front")
    report: Count | Literal["official"] = Field(
        description="examples that only the export card sees: a count, or the data set's own test set"
    )

    @model_validator(mode="after")
    def _fits_the_source(self) -> Self:
        try:
            source = get_source(self.dataset)
        except DataError as e:
            raise ValueError(f"dataset: {e}; {e.hint}") from e
        for key in source.needs:
            if getattr(self, key) is None:
                raise ValueError(f"{key}: got null, but data set {self.dataset} needs it")
        for key in ("path", "subset", "image_size", "channels", "layout"):
            if getattr(self, key) is not None and key not in (*source.needs, *source.takes):
                raise ValueError(f"{key}: got {getattr(self, key)!r}, but data set {self.dataset} has no use for it")
        if self.report == "official" and source.has_official is False:
            raise ValueError(
                f"report: got 'official', but {self.dataset} has no test set of its own: give a count of examples"
            )
        return self


class SpaceSettings(Section):
    """The search space."""

    name: str = Field(min_length=1, description="id of a registered search space, see `nas spaces list`")
    settings: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="what this space lets you set, see `nas spaces show NAME`",
        json_schema_extra={"allowed": "a mapping of the space's settings, for example {width: 0.5}"},
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        try:
            get_space(self.name, **self.settings)
        except SpaceError as e:
            key = "settings" if self.name in list_spaces() else "name"
            raise ValueError(f"{key}: {e}; {e.hint}") from e
        return self


class DeviceSettings(Section):
    """The device whose latency counts."""

    id: str = Field(default="onnxruntime-cpu", min_length=1, description="device id, see `nas devices list`")
    threads: Workers = Field(default=1, description="threads of one inference")
    batch: Count = Field(default=1, description="images of one inference")


class DeviceLimits(Section):
    """Constraints on a further device: its front keeps to them, and the search where it was profiled."""

    latency_ms: float | None = Field(default=None, gt=0, description="largest latency there, null for no limit")


class FurtherDeviceSettings(DeviceSettings):
    """A device beside the one whose latency is searched for."""

    limits: DeviceLimits = Field(default=DeviceLimits(), description="constraints")


class PhaseSettings(Section):
    """One phase of progressive shrinking, said by hand; see `nas.training.settings.PhaseSettings`."""

    open: dict[str, Annotated[int, Field(ge=1, le=127)]] | str = Field(
        description="in use from this phase on: kind of choice -> number of its largest values, or a phase's name",
        json_schema_extra={"allowed": "a mapping such as {kernel: 3}, {} or a name such as 'depth 1'"},
    )
    epochs: Count = Field(description="length")
    learning_rate: float = Field(gt=0, le=100, description="peak learning rate")
    warmup_epochs: float = Field(default=0.0, ge=0, le=1e6, description="epochs of linear warm-up")
    subnets: int = Field(default=1, ge=1, le=64, description="subnets of one step")


class TrainSettings(Section):
    """Training of the supernet: the sandwich rule or progressive shrinking.

    `use_gpu` is operational: a GPU computes the same up to rounding. So is `from_checkpoint`: the checkpoints remember
    the checksum of the weights that training began with, which may move, but not change.
    """

    method: Literal["sandwich", "progressive"] = Field(
        default="sandwich", description="all subnets at once, or opened one kind of choice after the other"
    )
    epochs: int = Field(
        default=40,
        ge=0,
        le=1_000_000,
        description="passes over the training split, all phases together; 0: the supernet of from_checkpoint as it is",
        json_schema_extra={"allowed": "an integer >= 1, or 0 with train.from_checkpoint"},
    )
    phases: Annotated[tuple[PhaseSettings, ...], Field(strict=False)] = Field(
        default=(), description="progressive: phases by hand; empty: the published ones, in proportion to `epochs`"
    )
    batch_size: Count = Field(default=64, description="images of one step, over all workers")
    optimizer: OptimizerName = Field(
        default="sgd", description="of training and refinement; adamw takes rates of about 0.003"
    )
    learning_rate: float = Field(default=0.1, gt=0, le=100, description="peak learning rate (progressive: of kernels)")
    weight_decay: float = Field(default=3.0e-5, ge=0, le=1, description="L2 penalty on weights")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of the target given to all classes")
    warmup_epochs: int = Field(default=2, ge=0, le=1_000_000, description="epochs of linear warm-up, within `epochs`")
    random_subnets: int = Field(default=2, ge=0, le=64, description="sandwich: random subnets beside the two extremes")
    workers: Workers = Field(default=1, description="training workers; they divide the batch")
    threads_per_worker: Workers = Field(
        default=2, description="compute threads of one worker", json_schema_extra=OPERATIONAL
    )
    use_gpu: bool = Field(default=False, description="train each worker on a GPU", json_schema_extra=OPERATIONAL)
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="auto",
        description="arithmetic; auto: bf16 where the GPU or CPU has instructions for it, fp32 elsewhere",
    )
    distillation: float = Field(
        default=1.0, ge=0, le=1, description="share of the teacher in the loss (progressive: weight beside the labels)"
    )
    gradient_clip: float = Field(default=5.0, gt=0, le=1e6, description="largest norm of the gradient")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="decay of the moving average of weights; null: no average"
    )
    validation_images: int = Field(
        default=500, ge=0, le=1_000, description="search images that judge the supernet after every epoch; 0: none"
    )
    recalibration_images: Count = Field(default=2000, description="images that reset a subnet's BN statistics")
    from_checkpoint: Annotated[str | None, AfterValidator(_absolute_place)] = Field(
        default=None,
        description="directory of a supernet of the same space to start from; null: fresh weights",
        json_schema_extra=OPERATIONAL,
    )

    @model_validator(mode="after")
    def _has_a_supernet(self) -> Self:
        if self.epochs == 0 and self.from_checkpoint is None:
            raise ValueError("epochs: got 0, expected an integer >= 1, or 0 with train.from_checkpoint")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch_size % self.workers:
            raise ValueError(f"workers: got {self.workers}, expected a divisor of batch_size {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if not self.phases:
            return self
        if self.method != "progressive":
            raise ValueError(f"phases: got {len(self.phases)} phases, but method {self.method} has none")
        total = sum(phase.epochs for phase in self.phases)
        if total != self.epochs:
            raise ValueError(f"epochs: got {self.epochs}, expected {total}, the sum of train.phases")
        return self


class ProfileSettings(Section):
    """Measurements that the latency predictor is fitted on."""

    fit: int = Field(default=40, ge=10, le=100_000, description="subnets measured for fitting")
    held_out: int = Field(default=16, ge=4, le=100_000, description="subnets measured to judge the predictor")
    max_measured: int = Field(default=120, ge=14, le=200_000, description="most subnets measured altogether")
    max_mape_percent: float = Field(default=5.0, gt=0, le=100, description="accepted mean error on held-out subnets")
    protocol: Literal["quick", "standard"] = Field(default="quick", description="measurement protocol")

    @model_validator(mode="after")
    def _fits_the_cap(self) -> Self:
        if self.fit + self.held_out > self.max_measured:
            asked = f"fit + held_out = {self.fit} + {self.held_out}"
            raise ValueError(f"max_measured: got {self.max_measured}, expected an integer >= {asked}")
        return self


class SearchLimits(Section):
    """Constraints of the search: nothing beyond them is evaluated."""

    latency_ms: float | None = Field(default=None, gt=0, description="largest predicted latency, null for no limit")
    macs: float | None = Field(
        default=None, gt=0, description="most multiply-accumulate operations for one image, null for no limit"
    )
    params: float | None = Field(default=None, gt=0, description="most learnable parameters, null for no limit")
    peak_memory_bytes: float | None = Field(
        default=None, gt=0, description="most activation memory alive at once for one image, null for no limit"
    )


class SearchSettings(Section):
    """The search over subnets, with inherited weights or fine-tuned.

    All of it may change when a run goes on: what was evaluated stays evaluated, and only what is missing is done.
    """

    sampler: SamplerName = Field(
        default="surrogate",
        description="who proposes architectures: surrogate (ours), a published search, or one of Optuna's samplers",
    )
    evaluations: Count = Field(default=120, description="unique architectures evaluated")
    hours: float | None = Field(
        default=None, gt=0, le=1e6, description="of the search by the wall clock, all calls together; null: no limit"
    )
    population: int = Field(
        default=24,
        ge=4,
        le=10_000,
        description="population of nsga2, nsga3 and mnasnet; first random ones of tpe and gp",
    )
    cache: Annotated[tuple[Annotated[str, AfterValidator(_absolute_place)], ...], Field(strict=False)] = Field(
        default=(),
        description="directories of runs with the same supernet and data: what they have evaluated is looked up",
        json_schema_extra=OPERATIONAL,
    )
    workers: Workers = Field(default=2, description="evaluation workers", json_schema_extra=OPERATIONAL)
    subnets_per_task: Workers = Field(default=4, description="subnets judged by one task")
    limits: SearchLimits = Field(default=SearchLimits(), description="constraints")
    measure: MeasureMode = Field(
        default="verify",
        description="what of it the device measures: none, what is verified, or (active) also while searching",
    )
    device_seconds: float | None = Field(
        default=None, gt=0, description="seconds for measuring while searching; null: as many as profiling took"
    )
    candidates: Literal["inherit", "train"] = Field(
        default="inherit", description="judge subnets with the supernet's weights, or fine-tune each one first"
    )
    epochs: Count = Field(default=4, description="train: epochs of a candidate; rates are those of `refine`")
    cpus_per_trial: Workers = Field(
        default=1, description="train: CPUs and threads of a trial", json_schema_extra=OPERATIONAL
    )
    gpus_per_trial: float = Field(
        default=0.0,
        ge=0,
        le=1_024,
        description="train: GPUs of a trial, or a share of one",
        json_schema_extra=OPERATIONAL,
    )
    early_stopping: float | None = Field(
        default=None,
        ge=0.5,
        lt=1,
        description="confidence with which a candidate must be unable to reach the front to be stopped; null: none is",
        json_schema_extra={"allowed": "a number from 0.5 to below 1, for example 0.95, or null"},
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_trial > 1 and not self.gpus_per_trial.is_integer():
            raise ValueError(f"gpus_per_trial: got {self.gpus_per_trial:g}, expected a share of 1 or a whole number")
        return self

    @model_validator(mode="after")
    def _fits_training(self) -> Self:
        if self.candidates == "train" and self.measure == "active":
            raise ValueError("measure: got active, but with candidates: train only none and verify are offered")
        if self.candidates == "train" and self.cache:
            raise ValueError("cache: what other runs have judged is of no use with candidates: train")
        return self


class RefineSettings(Section):
    """Fine-tuning of candidates around the front."""

    candidates: Count = Field(default=6, description="candidates fine-tuned")
    epochs: Count = Field(default=4, description="epochs of fine-tuning")
    learning_rate: float = Field(default=0.01, gt=0, le=100, description="peak learning rate of fine-tuning")
    workers: Workers = Field(default=2, description="trials at the same time", json_schema_extra=OPERATIONAL)


class VerifySettings(Section):
    """Measuring and judging the candidates whose place on the front is undecided."""

    candidates: Count = Field(default=24, description="most candidates verified")
    protocol: Literal["quick", "standard"] = Field(default="standard", description="measurement protocol")


class ExportSettings(Section):
    """What is written for the chosen candidate, beside the file of the run's own device."""

    formats: Annotated[tuple[FileFormatName, ...], Field(strict=False)] = Field(
        default=("onnx",), description="formats of the files: fp32, or int8 where the name says so"
    )
    alias: Annotated[str, AfterValidator(_free_alias)] = Field(
        default="knee",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="alias in the model registry",
        json_schema_extra={"allowed": "letters, digits, - and _"},
    )
    model_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="registered model name; null: archsmith-<recipe name>",
        json_schema_extra={"allowed": "letters, digits, . - and _, or null"},
    )


class TrackingSettings(Section):
    """Where the view in MLflow goes."""

    uri: str | None = Field(
        default=None,
        pattern=r"^(https?|sqlite|postgresql|mysql|mssql)(\+[a-z0-9]+)?://.+",
        description="MLflow tracking address; null: SQLite inside the run directory",
        json_schema_extra={"allowed": "http://..., sqlite:///..., postgresql://... or null", "operational": True},
    )
    experiment: str = Field(
        default="archsmith",
        min_length=1,
        max_length=200,
        description="MLflow experiment name",
        json_schema_extra=OPERATIONAL,
    )
