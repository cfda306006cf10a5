"""What a recipe can say: one frozen pydantic model a section; unknown keys and wrong types are refused.

Accuracy is a fraction 0..1 and latency is in milliseconds everywhere. Fields marked `OPERATIONAL` say where and how
fast a run computes, never what it computes: they may change between two calls on one run directory.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

OPERATIONAL: dict[str, JsonValue] = {"operational": True}

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Workers = Annotated[int, Field(ge=1, le=1_024)]


def _free_alias(value: str) -> str:
    # The registry keeps these for itself: "latest" and version numbers are what an alias is told apart from.
    if value == "latest" or re.fullmatch(r"v\d+", value, flags=re.IGNORECASE):
        raise ValueError(f"got {value!r}, expected an alias other than `latest`, v1, v2, ...")
    return value


def _absolute(value: str | None) -> str | None:
    # Workers run in directories of their own, and a resumed run may be called from elsewhere.
    return None if value is None else str(Path(value).expanduser().absolute())


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError(f"got {list(values)}, expected ascending numbers without repeats")
    return values


class Section(BaseModel):
    """Base of every section: strict types, no unknown keys, no NaN, immutable, and docstrings for each field."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataSettings(Section):
    """Which images, and how they are divided; what is left after the three splits is trained on."""

    dataset: Literal["digits", "fashion-mnist"] = Field(description="name of the data set")
    data_dir: Annotated[str | None, AfterValidator(_absolute)] = Field(
        default=None, description="folder with the data set's files", json_schema_extra=OPERATIONAL
    )
    search: Count = Field(description="images that the search sees")
    verify: Count = Field(description="images that decide the verified front")
    report: Count | Literal["official"] = Field(
        description="images that only the export card sees: a count, or the data set's own test set"
    )

    @model_validator(mode="after")
    def _has_official_test_set(self) -> Self:
        if self.dataset == "digits" and self.report == "official":
            raise ValueError("report: got 'official', but digits has no test set of its own: give an image count")
        return self


class SpaceSettings(Section):
    """The search space."""

    name: str = Field(min_length=1, description="id of a registered search space, see `nas spaces list`")
    resolutions: Annotated[
        tuple[Annotated[int, Field(ge=4, le=1_024)], ...], Field(strict=False, min_length=1), AfterValidator(_ascending)
    ] = Field(default=(16, 20, 24), description="input resolutions in pixels, ascending")
    width: float = Field(default=1.0, ge=0.1, le=10, description="multiplier of all channel numbers")


class DeviceSettings(Section):
    """The device whose latency counts."""

    id: str = Field(default="onnxruntime-cpu", min_length=1, description="device id, see `nas devices list`")
    threads: Workers = Field(default=1, description="threads of one inference")
    batch: Count = Field(default=1, description="images of one inference")


class TrainSettings(Section):
    """Training of the supernet with the sandwich rule."""

    epochs: Count = Field(default=40, description="passes over the training split")
    batch_size: Count = Field(default=64, description="images of one step, over all workers")
    learning_rate: float = Field(default=0.1, gt=0, le=100, description="peak learning rate")
    weight_decay: float = Field(default=3.0e-5, ge=0, le=1, description="L2 penalty on weights")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of the target given to all classes")
    warmup_epochs: int = Field(default=2, ge=0, le=1_000_000, description="epochs of linear warm-up, within `epochs`")
    random_subnets: int = Field(default=2, ge=0, le=64, description="random subnets a step, beside the two extremes")
    workers: Workers = Field(default=1, description="training workers; they divide the batch")
    threads_per_worker: Workers = Field(
        default=2, description="compute threads of one worker", json_schema_extra=OPERATIONAL
    )
    distillation: float = Field(default=1.0, ge=0, le=1, description="share of the loss that comes from the teacher")
    gradient_clip: float = Field(default=5.0, gt=0, le=1e6, description="largest norm of the gradient")
    recalibration_images: Count = Field(default=512, description="images that reset a subnet's BN statistics")


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
    """Constraints of the search."""

    latency_ms: float | None = Field(default=None, gt=0, description="largest predicted latency, null for no limit")


class SearchSettings(Section):
    """The search over subnets with inherited weights."""

    sampler: Literal["nsga2", "tpe"] = Field(default="nsga2", description="sampler that proposes architectures")
    evaluations: Count = Field(default=120, description="unique architectures evaluated")
    population: int = Field(default=24, ge=4, le=10_000, description="population of an evolutionary sampler")
    workers: Workers = Field(default=2, description="evaluation workers", json_schema_extra=OPERATIONAL)
    subnets_per_task: Workers = Field(default=4, description="subnets judged by one task")
    limits: SearchLimits = Field(default=SearchLimits(), description="constraints")


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
    """What is written for the chosen candidate."""

    formats: Annotated[tuple[Literal["onnx"], ...], Field(strict=False, min_length=1)] = Field(
        default=("onnx",), description="artifact formats"
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
