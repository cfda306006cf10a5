"""One training step up to its gradients: the sandwich rule, progressive shrinking, and its teacher.

Gradients of a step's subnets are summed in the weights that they share. Tensor letters: N images, C classes.
"""

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from nas.data import Preprocessing
from nas.training.distillation import label_loss, progressive_loss, student_loss
from nas.training.phases import PROGRESSIVE, SANDWICH, Phase, smallest_open
from nas.training.precision import forward_context, resolve_precision
from nas.training.schedules import layer_seed, open_subnets, sandwich_subnets
from nas.training.settings import TrainSettings
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """One worker's share of a step.

    Attributes:
        inputs: raw (augmented) images or series, on the device that computes.
        labels_N: their classes.
        step: global step, the same on every worker.
        rank: this worker's number.
    """

    inputs: torch.Tensor
    labels_N: torch.Tensor
    step: int
    rank: int


def frozen_copy(supernet: Supernet) -> Supernet:
    """A teacher: a copy that learns nothing and normalises by the batch, as in training."""
    return copy.deepcopy(supernet).requires_grad_(False).train()


class SubnetSteps:
    """Computes the gradients of the subnets of a step in the weights of one supernet.

    Attributes:
        teacher: the network that subnets learn from in progressive shrinking; set when such a phase begins.
    """

    def __init__(
        self, supernet: Supernet, *, preprocessing: Preprocessing, settings: TrainSettings, device: torch.device
    ) -> None:
        self.teacher: Supernet | None = None
        self._supernet, self._preprocessing, self._settings = supernet, preprocessing, settings
        self._device = device
        self._precision = resolve_precision(settings.precision, device=device)

    def backward(self, phase: Phase, batch: StepBatch) -> dict[str, float]:
        """Add the gradients of all subnets of a step.

        Returns:
            "loss", the mean over the subnets; with the sandwich rule also "loss_largest" and "loss_smallest".
        """
        # Dropout draws from torch's own generator: every step has its seed, so that a resumed training repeats it.
        with self._own_random_numbers():
            torch.manual_seed(layer_seed(seed=self._settings.seed, step=batch.step, rank=batch.rank))
            losses = self._sandwich(phase, batch) if phase.rule == SANDWICH else self._open(phase, batch)
        found = {"loss": sum(losses) / len(losses)}
        if phase.rule == SANDWICH:
            found |= {"loss_largest": losses[0], "loss_smallest": losses[-1]}
        return found

    def extremes(self, phase: Phase, batch: StepBatch) -> dict[str, float]:
        """Label losses of the largest and the smallest open subnet on a batch, for the log; nothing is learnt.

        Returns:
            "loss_largest" and "loss_smallest".
        """
        space = self._supernet.space
        found = {}
        with torch.no_grad(), self._own_random_numbers():
            for name, arch in (("largest", space.largest), ("smallest", smallest_open(space, phase.opened))):
                logits_NC = self._logits(self._supernet, self._prepare(arch, batch), arch)
                loss = label_loss(logits_NC, batch.labels_N, smoothing=self._settings.label_smoothing)
                found[f"loss_{name}"] = loss.item()
        return found

    def _sandwich(self, phase: Phase, batch: StepBatch) -> list[float]:
        """The largest (label loss), random ones and the smallest (loss to the largest one's probabilities)."""
        settings, space = self._settings, self._supernet.space
        archs = sandwich_subnets(space, phase.opened, seed=settings.seed, step=batch.step, num_random=phase.num_subnets)
        largest_NC = self._logits(self._supernet, self._prepare(archs[0], batch), archs[0])
        losses = [self._learn(label_loss(largest_NC, batch.labels_N, smoothing=settings.label_smoothing))]
        for arch in archs[1:]:
            loss = student_loss(
                self._logits(self._supernet, self._prepare(arch, batch), arch),
                batch.labels_N,
                teacher_logits_NC=largest_NC,
                distillation=settings.distillation,
                smoothing=settings.label_smoothing,
            )
            losses.append(self._learn(loss))
        return losses

    def _open(self, phase: Phase, batch: StepBatch) -> list[float]:
        """Random open subnets, taught by the frozen largest network where there is one (else by labels alone)."""
        settings, space, opened = self._settings, self._supernet.space, phase.opened
        archs = open_subnets(space, opened, seed=settings.seed, step=batch.step, num=phase.num_subnets)
        x = self._prepare(archs[0], batch)
        teacher_NC: torch.Tensor | None = None
        if phase.rule == PROGRESSIVE:
            assert self.teacher is not None
            # With everything closed: the largest network at this step's input size.
            (largest,) = open_subnets(space, dict.fromkeys(opened, 1), seed=settings.seed, step=batch.step, num=1)
            with torch.no_grad():
                teacher_NC = self._logits(self.teacher, x, largest)
        losses = []
        for arch in archs:
            logits_NC = self._logits(self._supernet, x, arch)
            if teacher_NC is None:
                loss = label_loss(logits_NC, batch.labels_N, smoothing=settings.label_smoothing)
            else:
                loss = progressive_loss(
                    logits_NC,
                    batch.labels_N,
                    teacher_logits_NC=teacher_NC,
                    distillation=settings.distillation,
                    smoothing=settings.label_smoothing,
                )
            losses.append(self._learn(loss))
        return losses

    def _own_random_numbers(self) -> AbstractContextManager[None]:
        """Leaves torch's generators as they were."""
        return torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else [])

    def _prepare(self, arch: Architecture, batch: StepBatch) -> torch.Tensor:
        shape = self._supernet.space.input_shape(arch)
        return self._preprocessing.batch(batch.inputs, shape=shape)

    def _logits(self, supernet: Supernet, x: torch.Tensor, arch: Architecture) -> torch.Tensor:
        with forward_context(self._precision, device=self._device):
            return supernet(x, arch)

    @staticmethod
    def _learn(loss: torch.Tensor) -> float:
        loss.backward()
        return loss.item()
