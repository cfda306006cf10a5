"""What a worker needs of a run: data, supernet and settings, loaded from the run directory alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from experiments.datasets import load_dataset
from experiments.ray.device_host import ray_connectors
from experiments.ray.loading import Weights
from experiments.recipe import Recipe, load_recipe
from hardware.device import Device, get_device
from hardware.errors import DeviceError
from hardware.fleet import FLEET_FILE
from nas.data import DataSplits
from nas.deployment import Deployment
from nas.errors import TrainingError
from nas.evaluation import SubnetJudge
from nas.materialise import Workbench
from nas.refine import FineTuning, RefineSettings
from nas.run import Run, open_run
from nas.search.pool import Judge
from nas.soup import copy_settings
from nas.training.context import TrainContext
from nas.training.loop import train_supernet
from nas.training.settings import PhaseSettings, TrainSettings
from nas.training.starting import start_from, start_sha256
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet


@dataclass(frozen=True)
class Workload:
    """A run with its recipe and data; every worker of every stage loads its own.

    Attributes:
        run: the run directory.
        recipe: its resolved recipe.
        data: the splits.
    """

    run: Run
    recipe: Recipe
    data: DataSplits

    @property
    def train_settings(self) -> TrainSettings:
        """The recipe's `train` section as the training loop takes it."""
        return train_settings(self.recipe)

    @property
    def refine_settings(self) -> RefineSettings:
        """The recipe's `refine` section as fine-tuning takes it."""
        return refine_settings(self.recipe)

    def train(self, context: TrainContext) -> None:
        """Train the supernet, or go on training it; called by every training worker."""
        with torch.random.fork_rng(devices=[]):
            # The same initial weights on every worker.
            torch.manual_seed(self.recipe.seed)
            supernet = self.run.space.build_supernet(num_classes=self.data.num_classes)
        if self.recipe.train.from_checkpoint is not None:
            start_from(supernet, Path(self.recipe.train.from_checkpoint))
        train_supernet(
            supernet, data=self.data, settings=self.train_settings, directory=self.run.train_dir, context=context
        )

    @cached_property
    def subnet_judge(self) -> SubnetJudge:
        """Judges inherited subnets of the trained supernet."""
        return self._judge_of(self.run.supernet())

    def _judge_of(self, supernet: Supernet) -> SubnetJudge:
        device = self.device
        return SubnetJudge(
            supernet,
            data=self.data,
            recalibration_images=self.recipe.train.recalibration_images,
            seed=self.recipe.seed,
            # Accuracy is that of the candidate whose cost is measured: an int8 device's is found in its own runtime.
            classify=None if device.spec.precision == "fp32" else Deployment(device, data=self.data).classes,
        )

    @cached_property
    def device(self) -> Device:
        """The recipe's device; one of `devices.yaml` as the run's copy of that file says.

        Raises:
            DeviceError: the worker's machine does not have its runtime.
        """
        fleet = self.run.path / FLEET_FILE
        return recipe_device(self.recipe, fleet=fleet if fleet.is_file() else None)

    def judge(self, weights: Weights | None = None) -> Judge:
        """The function that evaluation workers apply to a task; weights are those of `Run.supernet_weights`."""
        return self._judge_of(self.run.supernet(weights)).judge

    def fine_tune(
        self,
        arch_json: str,
        *,
        directory: Path,
        on_epoch: Callable[[dict[str, float]], None],
        epochs: int | None = None,
        use_gpu: bool = False,
    ) -> None:
        """Fine-tune one candidate, or go on doing so; called by a trial of the refinement or of the search.

        Raises:
            TrainingError: a GPU is wanted that torch cannot use.
        """
        if use_gpu and not torch.cuda.is_available():
            raise TrainingError(
                "Ray gave this trial a share of a GPU, but torch finds none on its machine",
                hint="install a build of torch with CUDA there (torch.cuda.is_available() says whether it works), "
                "or set search.gpus_per_trial to 0",
            )
        settings = self.refine_settings
        tuning = FineTuning(
            judge=self.subnet_judge,
            space=self.run.space,
            data=self.data,
            store=self.run.candidates,
            settings=copy_settings(settings if epochs is None else replace(settings, epochs=epochs), directory),
            precision=self.device.spec.precision,
            device="cuda" if use_gpu else "cpu",
        )
        tuning.run(Architecture.from_json(arch_json), directory=directory, on_epoch=on_epoch)

    def workbench(self, device: Device) -> Workbench:
        """Makes candidates and artifacts for a device."""
        return Workbench(
            self.run,
            device=device,
            data=self.data,
            judge=self.subnet_judge,
            stored_precision=self.device.spec.precision,
            recalibration=f"bn {self.recipe.train.recalibration_images} augmented images in batches of 200, "
            f"seed {self.recipe.seed}",
        )


def recipe_device(recipe: Recipe, *, device_id: str | None = None, fleet: Path | None = None) -> Device:
    """A device whose costs count.

    Args:
        recipe: says threads and batch of its devices.
        device_id: the recipe's `device` if None, one of its `devices`, or any other with its own numbers.
        fleet: a `devices.yaml` other than the usual one.

    Raises:
        DeviceError: unknown, its runtime is missing, or its costs are no times.
    """
    wanted = device_id or recipe.device.id
    settings = next((one for one in (recipe.device, *recipe.devices) if one.id == wanted), None)
    threads, batch = (None, None) if settings is None else (settings.threads, settings.batch)
    device = get_device(wanted, threads=threads, batch=batch, connectors=ray_connectors(), fleet=fleet)
    if device.backend.provenance != "measured":
        raise DeviceError(
            f"device {wanted!r} gives {device.backend.provenance} counts, a search needs latencies in ms",
            hint="choose a measured device (nas devices list); counts of one network: "
            f"nas devices measure ARCH --device {wanted}",
        )
    return device


def train_settings(recipe: Recipe) -> TrainSettings:
    """The `train` section as the training loop takes it.

    Raises:
        CheckpointError: the supernet to start from is missing or damaged.
    """
    train = recipe.train
    return TrainSettings(
        epochs=train.epochs,
        batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        label_smoothing=train.label_smoothing,
        warmup_epochs=train.warmup_epochs,
        random_subnets=train.random_subnets,
        distillation=train.distillation,
        gradient_clip=train.gradient_clip,
        seed=recipe.seed,
        method=train.method,
        phases=tuple(PhaseSettings(**phase.model_dump()) for phase in train.phases),
        precision=train.precision,
        ema_decay=train.ema_decay,
        validation_images=train.validation_images,
        start_sha256=None if train.from_checkpoint is None else start_sha256(Path(train.from_checkpoint)),
        optimizer=train.optimizer,
    )


def refine_settings(recipe: Recipe) -> RefineSettings:
    """The `refine` section as fine-tuning takes it; batches, decay and optimiser are those of `train`."""
    return RefineSettings(
        candidates=recipe.refine.candidates,
        epochs=recipe.refine.epochs,
        learning_rate=recipe.refine.learning_rate,
        batch_size=recipe.train.batch_size,
        weight_decay=recipe.train.weight_decay,
        seed=recipe.seed,
        optimizer=recipe.train.optimizer,
    )


def load_workload(run_dir: Path) -> Workload:
    """Load a run's recipe and data.

    Raises:
        RunError: not a run directory.
        DataError: the data set is missing or damaged.
    """
    run = open_run(run_dir)
    recipe = load_recipe(run.recipe_path)
    return Workload(run=run, recipe=recipe, data=load_dataset(recipe.data, seed=recipe.seed))
