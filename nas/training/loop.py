"""Trains a supernet through its phases: a checkpoint every epoch, resumable, one way back when numbers overflow."""

import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from hardware.files import JSON
from nas.data import DataSplits
from nas.errors import CheckpointError, TrainingError
from nas.training.augmentation import augment
from nas.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from nas.training.context import TrainContext
from nas.training.finished import CHECKPOINTS, finished_checkpoints
from nas.training.history import TrainHistory
from nas.training.phases import PROGRESSIVE, SANDWICH, TEACHER, Phase, phase_at, phases_of
from nas.training.progress import ProgressLog
from nas.training.recovery import RATE_AFTER_ROLLBACK, Rollback, read_rollback
from nas.training.schedules import cosine_rate, shard_batches
from nas.training.settings import TrainSettings
from nas.training.state import TrainState
from nas.training.steps import StepBatch, SubnetSteps, frozen_copy
from nas.training.validation import QuickValidation
from searchspaces.elastic.supernet import Supernet

HISTORY = "history.jsonl"
_TEACHER_DIR = "teacher"


def train_supernet(
    supernet: Supernet, *, data: DataSplits, settings: TrainSettings, directory: Path, context: TrainContext
) -> None:
    """Train `supernet` in place through `phases_of(space, settings)`, from the newest checkpoint in `directory`.

    Called by every worker with equally initialised weights. Each step sums the gradients of its subnets, averages them
    over the workers, clips, and makes one optimiser step. With the sandwich rule these are the largest subnet (label
    loss), the smallest and some random ones (loss to the largest one's probabilities; Yu et al., BigNAS, ECCV 2020); in
    progressive shrinking random open ones, which also learn from the frozen largest network (Cai et al., ICLR 2020).

    Rank 0 writes `directory`/history.jsonl and `directory`/checkpoints. The newest checkpoint, after the last phase, is
    the supernet that later stages use: all subnets are open in it. The best one of the last phase by a quick look at
    some images (`settings.validation_images`) is kept beside it for the user.

    A loss, gradient or weight that is no number sends all workers back to the newest checkpoint (or the beginning),
    from where training goes on at half the learning rate; this is written down in `directory`/rollback.json.

    Raises:
        TrainingError: numbers overflowed again, the very first loss is no number, or settings that fit neither space
            nor data.
        CheckpointError: the newest checkpoint is damaged or of another space or other settings.
    """
    _SupernetTraining(supernet, data=data, settings=settings, directory=directory, context=context).run()


class _SupernetTraining:
    """Position of one training, on one worker."""

    def __init__(
        self, supernet: Supernet, *, data: DataSplits, settings: TrainSettings, directory: Path, context: TrainContext
    ) -> None:
        device = context.device
        self._data, self._settings, self._context, self._directory = data, settings, context, directory
        self._phases = phases_of(supernet.space, settings)
        self._identity: dict[str, JSON] = {
            "space_id": supernet.space.space_id,
            "weights_id": supernet.space.weights_id,
            "settings": asdict(settings),
            "phases": [asdict(phase) for phase in self._phases],
        }
        self._state = TrainState(supernet, settings=settings, device=device)
        self._steps = SubnetSteps(supernet, preprocessing=data.preprocessing, settings=settings, device=device)
        self._validate = QuickValidation(data, settings=settings, device=device) if settings.validation_images else None
        self._step, self._steps_an_epoch = 0, len(data.train) // settings.batch_size
        self._history = TrainHistory(directory / HISTORY)
        self._log = ProgressLog(
            self._history,
            phases=self._phases,
            steps_an_epoch=self._steps_an_epoch,
            batch_size=settings.batch_size,
        )
        self._initial: Checkpoint | None = None
        self._rollback: Rollback | None = None

    def run(self) -> None:
        """Train what is missing."""
        epoch = self._resume()
        while epoch < self._phases[-1].last_epoch:
            with self._context.computing():
                problem = self._train_epoch(epoch)
            # Everybody is here: whatever rank 0 has written can be read.
            self._context.barrier()
            if problem is None:
                epoch, self._initial = epoch + 1, None
            else:
                epoch = self._roll_back(problem)
        self._state.use_average()

    def _resume(self) -> int:
        """Take up the newest checkpoint; returns the number of finished epochs."""
        finished = finished_checkpoints(self._directory / CHECKPOINTS)
        self._rollback = read_rollback(self._directory)
        # Nobody may start to write before everybody has looked.
        self._context.barrier()
        if finished:
            return self._restore(load_checkpoint(finished[-1], expected=self._identity))
        weights = {name: tensor.detach().clone() for name, tensor in self._state.supernet.state_dict().items()}
        self._initial = Checkpoint(epoch=0, step=0, weights=weights, optimizer={}, details={})
        return self._restore(self._initial)

    def _restore(self, checkpoint: Checkpoint) -> int:
        self._state.restore(checkpoint)
        self._step = checkpoint.step
        if self._context.rank == 0:
            self._history.forget_after(checkpoint.step)
        if checkpoint.epoch < self._phases[-1].last_epoch and self._steps.teacher is None:
            index = phase_at(self._phases, checkpoint.epoch)
            begins = checkpoint.epoch == self._phases[index].first_epoch
            if self._phases[index].rule == PROGRESSIVE and not (begins and self._graduates(index)):
                self._steps.teacher = self._load_teacher()
        return checkpoint.epoch

    def _train_epoch(self, epoch: int) -> str | None:
        """Train one epoch, and let rank 0 judge and save it; returns what overflowed, the same on every worker."""
        index = phase_at(self._phases, epoch)
        phase = self._phases[index]
        if epoch == phase.first_epoch:
            self._begin(index)
        self._state.supernet.train()
        batches = shard_batches(
            len(self._data.train),
            batch_size=self._settings.batch_size,
            seed=self._settings.seed,
            epoch=epoch,
            rank=self._context.rank,
            world_size=self._context.world_size,
        )
        place = f"of {self._phases[-1].last_epoch * self._steps_an_epoch} (phase {phase.name})"
        values: dict[str, float] = {}
        for positions in batches:
            values, problem = self._train_step(phase, positions)
            if problem is not None:
                return f"training {problem} at step {self._step} {place}"
            self._step += 1
            self._log.count(phase)
            if self._context.rank == 0 and positions is not batches[-1] and self._log.is_due():
                self._log.write(step=self._step, index=index, values=values)
        # Otherwise the last step could put weights that are no numbers into a checkpoint.
        if math.isnan(self._context.mean(0.0 if self._state.is_finite() else math.nan)):
            return f"training weights are no numbers after step {self._step} {place}"
        if self._context.rank == 0:
            self._finish(epoch + 1, index=index, values=values)
        return None

    def _begin(self, index: int) -> None:
        """Prepare for a phase; every worker does the same with equal weights."""
        phase, supernet = self._phases[index], self._state.supernet
        self._state.start_phase()
        if index == 0:
            return
        before = self._phases[index - 1]
        if phase.sorts_channels(before):
            supernet.sort_channels(opened=before.opened)
        if self._graduates(index):
            self._steps.teacher = frozen_copy(supernet)
            if self._context.rank == 0:
                checkpoint = self._state.checkpoint(epoch=phase.first_epoch, step=self._step, details=self._identity)
                save_checkpoint(self._directory / _TEACHER_DIR, checkpoint, keep=1)

    def _graduates(self, index: int) -> bool:
        """Whether the largest network becomes the teacher when this phase begins."""
        return self._phases[index].rule == PROGRESSIVE and self._phases[index - 1].rule == TEACHER

    def _train_step(self, phase: Phase, positions: torch.Tensor) -> tuple[dict[str, float], str | None]:
        """One step; returns what the log says of it (losses are means over the workers), and what is not finite."""
        context, data = self._context, self._data
        rate = self._rate(phase)
        raw = augment(
            data.train.inputs[positions],
            name=data.augmentation,
            seed=self._settings.seed,
            step=self._step,
            rank=context.rank,
        )
        batch = StepBatch(
            inputs=raw.to(context.device),
            labels_N=data.train.labels_N[positions].to(context.device),
            step=self._step,
            rank=context.rank,
        )
        for parameter in self._state.parameters.values():
            parameter.grad = None
        losses = {name: context.mean(loss) for name, loss in self._steps.backward(phase, batch).items()}
        if not math.isfinite(losses["loss"]):
            if self._step == 0:
                # No weight was changed yet: a second time at half the rate would be the same.
                raise TrainingError(
                    f"the training loss is {losses['loss']} at the very first step (phase {phase.name}): "
                    "the learning rate has no part in it",
                    hint="look at the data: values far from all others, or too large for train.precision"
                    if self._settings.start_sha256 is None
                    else "look at the weights that training starts from (train.from_checkpoint), and at the data: "
                    "values far from all others, or too large for train.precision",
                )
            return {}, f"loss is {losses['loss']}"
        parameters = list(self._state.parameters.values())
        context.average_gradients(parameters)
        norm = context.mean(float(nn.utils.clip_grad_norm_(parameters, self._settings.gradient_clip)))
        if not math.isfinite(norm):
            return {}, f"gradient norm is {norm}"
        self._state.update(learning_rate=rate, steps_in_phase=self._step - phase.first_epoch * self._steps_an_epoch)
        if phase.rule != SANDWICH and context.rank == 0 and self._log.wants_extremes():
            losses |= self._steps.extremes(phase, batch)
        return losses | {"learning_rate": rate, "rollbacks": float(self._rollback is not None)}, None

    def _rate(self, phase: Phase) -> float:
        return cosine_rate(
            self._step - phase.first_epoch * self._steps_an_epoch,
            peak=phase.learning_rate * (1.0 if self._rollback is None else RATE_AFTER_ROLLBACK),
            warmup_steps=int(phase.warmup_epochs * self._steps_an_epoch),
            num_steps=phase.epochs * self._steps_an_epoch,
        )

    def _finish(self, epoch: int, *, index: int, values: dict[str, float]) -> None:
        """Judge, log and save a finished epoch; rank 0 alone."""
        phase, score = self._phases[index], None
        if self._validate is not None:
            with self._state.averaged() as supernet:
                found = self._validate(supernet, phase)
            score = found.score
            if phase.rule != SANDWICH:  # whose steps have losses of both extremes themselves
                values = values | {"loss_largest": found.loss_largest, "loss_smallest": found.loss_smallest}
            values = values | {
                "accuracy_largest": found.largest, "accuracy_smallest": found.smallest, "score": found.score
            }  # fmt: skip
        self._log.write(step=self._step, index=index, values=values)
        details: dict[str, JSON] = {
            **self._identity,
            "phase": phase.name,
            "final_phase": index == len(self._phases) - 1,
            "score": score,
            "rollback": None if self._rollback is None else self._rollback.problem,
        }
        checkpoint = self._state.checkpoint(epoch=epoch, step=self._step, details=details)
        save_checkpoint(self._directory / CHECKPOINTS, checkpoint)

    def _load_teacher(self) -> Supernet:
        finished = finished_checkpoints(self._directory / _TEACHER_DIR)
        if not finished:
            raise CheckpointError(
                f"{self._directory / _TEACHER_DIR} is missing, without which the supernet cannot be trained further",
                hint=f"delete {self._directory} and train again",
            )
        checkpoint = load_checkpoint(finished[-1], expected=self._identity)
        teacher = frozen_copy(self._state.supernet)
        teacher.load_state_dict(dict(checkpoint.weights))
        return teacher

    def _roll_back(self, problem: str) -> int:
        """Go back to the newest checkpoint, once; returns the number of finished epochs."""
        finished = finished_checkpoints(self._directory / CHECKPOINTS)
        if self._rollback is not None:
            kept = f"the last checkpoint is {finished[-1]}" if finished else "no epoch was finished"
            raise TrainingError(
                f"numbers overflowed again, at half the learning rate: {problem}; "
                f"the first time: {self._rollback.problem}; {kept}",
                hint=f"lower train.learning_rate (now {self._settings.learning_rate}) and use a new run directory",
            )
        self._rollback = Rollback(problem=problem)
        if self._context.rank == 0:
            self._rollback.save(self._directory)
        if finished:
            return self._restore(load_checkpoint(finished[-1], expected=self._identity))
        assert self._initial is not None
        return self._restore(self._initial)
