"""Trains the supernet: sandwich rule, in-place distillation, a checkpoint every epoch, resumable."""

import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from hardware.files import JSON
from nas.data import DataSplits
from nas.errors import TrainingError
from nas.training.checkpoints import Checkpoint, finished_checkpoints, load_checkpoint, save_checkpoint
from nas.training.context import TrainContext
from nas.training.distillation import label_loss, student_loss
from nas.training.history import TrainHistory
from nas.training.schedules import augment, cosine_rate, sandwich_subnets, shard_batches
from nas.training.settings import TrainSettings
from searchspaces.elastic.supernet import Supernet

CHECKPOINTS = "checkpoints"
HISTORY = "history.jsonl"
MOMENTUM = 0.9
_LOG_SECONDS = 1.0


def train_supernet(
    supernet: Supernet, *, data: DataSplits, settings: TrainSettings, directory: Path, context: TrainContext
) -> None:
    """Train `supernet` in place for `settings.epochs`, going on from the newest checkpoint in `directory`.

    Called by every worker with equally initialised weights. Each step sums the gradients of the largest subnet (label
    loss), the smallest and some random ones (loss to the largest one's probabilities), averages them over the workers,
    clips, and makes one optimiser step (Yu et al., BigNAS, 2020). Rank 0 writes `directory`/checkpoints and
    `directory`/history.jsonl.

    Raises:
        TrainingError: the loss or its gradient is not a number (the last checkpoint stays).
        CheckpointError: the newest checkpoint is damaged or of another space or other settings.
    """
    _SupernetTraining(supernet, data=data, settings=settings, directory=directory, context=context).run()


def make_optimizer(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum .9; weight decay not on norms and biases."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)


class _SupernetTraining:
    """State of one training: optimiser, position, log."""

    def __init__(
        self, supernet: Supernet, *, data: DataSplits, settings: TrainSettings, directory: Path, context: TrainContext
    ) -> None:
        self._supernet = supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._data, self._settings, self._context = data, settings, context
        self._directory = directory
        self._history = TrainHistory(directory / HISTORY)
        self._optimizer = make_optimizer(
            supernet, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._names = {parameter: name for name, parameter in supernet.named_parameters()}
        self._identity: dict[str, JSON] = {"space_id": supernet.space.space_id, "settings": asdict(settings)}
        self._step = 0
        self._steps_an_epoch = len(data.train) // settings.batch_size
        self._num_steps = self._steps_an_epoch * settings.epochs
        self._logged_at = -math.inf
        self._images_since_log = 0

    def run(self) -> None:
        """Train what is missing."""
        first_epoch = self._resume()
        for epoch in range(first_epoch, self._settings.epochs):
            with self._context.computing():
                self._epoch(epoch)
                if self._context.rank == 0:
                    self._save(epoch + 1)
            self._context.barrier()

    def _resume(self) -> int:
        finished = finished_checkpoints(self._directory / CHECKPOINTS)
        # Nobody may start to write before everybody has looked.
        self._context.barrier()
        if not finished:
            if self._context.rank == 0:
                self._history.forget_after(0)
            return 0
        checkpoint = load_checkpoint(finished[-1], expected=self._identity)
        self._supernet.load_state_dict(dict(checkpoint.weights))
        for parameter, name in self._names.items():
            if name in checkpoint.optimizer:
                self._optimizer.state[parameter]["momentum_buffer"] = checkpoint.optimizer[name].clone()
        self._step = checkpoint.step
        if self._context.rank == 0:
            self._history.forget_after(checkpoint.step)
        return checkpoint.epoch

    def _save(self, epoch: int) -> None:
        momentum = {
            name: self._optimizer.state[parameter]["momentum_buffer"]
            for parameter, name in self._names.items()
            if self._optimizer.state[parameter].get("momentum_buffer") is not None
        }
        checkpoint = Checkpoint(
            epoch=epoch,
            step=self._step,
            weights=self._supernet.state_dict(),
            optimizer=momentum,
            details=self._identity,
        )
        save_checkpoint(self._directory / CHECKPOINTS, checkpoint)

    def _epoch(self, epoch: int) -> None:
        self._supernet.train()
        batches = shard_batches(
            len(self._data.train),
            batch_size=self._settings.batch_size,
            seed=self._settings.seed,
            epoch=epoch,
            rank=self._context.rank,
            world_size=self._context.world_size,
        )
        for positions in batches:
            losses = self._train_step(positions)
            self._step += 1
            self._images_since_log += self._settings.batch_size
            self._log(epoch, losses)

    def _train_step(self, positions: torch.Tensor) -> tuple[float, float]:
        """One step; returns the losses of the largest and of the smallest subnet, means over the workers."""
        settings, context, data = self._settings, self._context, self._data
        raw_NCHW = augment(
            data.train.images_NCHW[positions],
            name=data.augmentation,
            seed=settings.seed,
            step=self._step,
            rank=context.rank,
        )
        labels_N = data.train.labels_N[positions]
        space = self._supernet.space
        self._optimizer.zero_grad(set_to_none=True)
        teacher_NC: torch.Tensor | None = None
        losses: list[float] = []
        subnets = sandwich_subnets(space, seed=settings.seed, step=self._step, num_random=settings.random_subnets)
        for arch in subnets:
            x_NCHW = data.preprocessing.prepare(raw_NCHW, resolution=space.resolution(arch))
            logits_NC = self._supernet(x_NCHW.contiguous(memory_format=torch.channels_last), arch)
            if teacher_NC is None:
                teacher_NC = logits_NC
                loss = label_loss(logits_NC, labels_N, smoothing=settings.label_smoothing)
            else:
                loss = student_loss(
                    logits_NC,
                    labels_N,
                    teacher_logits_NC=teacher_NC,
                    distillation=settings.distillation,
                    smoothing=settings.label_smoothing,
                )
            loss.backward()
            losses.append(loss.item())
        largest, smallest = context.mean(losses[0]), context.mean(losses[-1])
        self._require_finite(context.mean(sum(losses)), name="loss")
        context.average_gradients(self._names)
        norm = nn.utils.clip_grad_norm_(self._names, settings.gradient_clip)
        # Otherwise the last step of an epoch could put weights that are no numbers into a checkpoint.
        self._require_finite(float(norm), name="gradient norm")
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.step()
        return largest, smallest

    def _rate(self) -> float:
        return cosine_rate(
            self._step,
            peak=self._settings.learning_rate,
            warmup_steps=int(self._settings.warmup_epochs * self._steps_an_epoch),
            num_steps=self._num_steps,
        )

    def _require_finite(self, value: float, *, name: str) -> None:
        if not math.isfinite(value):
            finished = finished_checkpoints(self._directory / CHECKPOINTS)
            kept = f"the last checkpoint is {finished[-1]}" if finished else "no epoch was finished"
            raise TrainingError(
                f"the training {name} is {value} at step {self._step} of {self._num_steps}; {kept}",
                hint=f"lower train.learning_rate (now {self._settings.learning_rate}) and use a new run directory",
            )

    def _log(self, epoch: int, losses: tuple[float, float]) -> None:
        now = time.perf_counter()
        last = self._step == self._num_steps
        if self._context.rank != 0 or (now - self._logged_at < _LOG_SECONDS and not last):
            return
        speed = self._images_since_log / (now - self._logged_at) if math.isfinite(self._logged_at) else 0.0
        self._history.append(
            {
                "step": self._step,
                "num_steps": self._num_steps,
                "epoch": epoch + 1,
                "loss_largest": losses[0],
                "loss_smallest": losses[1],
                "learning_rate": self._rate(),
                "images_per_second": speed,
            }
        )
        self._logged_at, self._images_since_log = now, 0
