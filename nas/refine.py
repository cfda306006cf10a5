"""Refinement: candidates around the front are fine-tuned from their inherited weights."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from hardware.files import JSON, read_json, write_json
from nas.accuracy import Accuracy, accuracy_row
from nas.candidate import Candidate
from nas.candidate_store import CandidateStore
from nas.data import DataSplits
from nas.errors import CheckpointError, TrainingError
from nas.evaluation import SubnetJudge
from nas.pareto import front_order
from nas.recalibration import recalibrate
from nas.training.augmentation import augment
from nas.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from nas.training.distillation import student_loss
from nas.training.finished import finished_checkpoints
from nas.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from nas.training.schedules import cosine_rate, shard_batches
from nas.training.settings import OptimizerName
from searchspaces import Architecture, SearchSpace

_RESULT_FILE = "result.json"
# Half of the loss comes from the labels, half from the largest subnet.
_DISTILLATION, _SMOOTHING = 0.5, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineSettings:
    """How candidates are fine-tuned; the recipe's section `refine` has the same names.

    Attributes:
        candidates: how many.
        epochs: passes over the training split.
        learning_rate: first rate; cosine to zero.
        batch_size, weight_decay: as in training.
        seed: of shuffling and augmentation.
        optimizer: as in training.
    """

    candidates: int
    epochs: int
    learning_rate: float
    batch_size: int
    weight_decay: float
    seed: int
    optimizer: OptimizerName = "sgd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """The end of one fine-tuning.

    Attributes:
        candidate: the new one.
        accuracy: on the search split.
        seconds: of the last process that worked on it.
        curve: accuracy after each epoch; empty if an earlier version wrote the result.
    """

    candidate: Candidate
    accuracy: Accuracy
    seconds: float
    curve: tuple[float, ...] = ()


def choose_for_refinement(evaluations: pd.DataFrame, *, device_id: str, num: int) -> list[Architecture]:
    """Architectures around the predicted front of the inherited candidates, spread over its latencies."""
    rows = evaluations[(evaluations["device_id"] == device_id) & (evaluations["weights_kind"] == "inherited")]
    rows = rows.drop_duplicates("arch_id", keep="last").sort_values(["latency_predicted_ms", "arch_id"])
    order = front_order(rows["accuracy"].to_numpy(dtype=float), rows["latency_predicted_ms"].to_numpy(dtype=float))
    return [Architecture.from_json(rows["architecture"].iloc[n]) for n in order[:num]]


class FineTuning:
    """Fine-tunes subnets of one trained supernet; used inside a worker.

    Attributes:
        judge: gives networks with inherited weights and scores them.
        precision: that the judge scores in, and that candidates are deployed in.
    """

    def __init__(
        self,
        *,
        judge: SubnetJudge,
        space: SearchSpace,
        data: DataSplits,
        store: CandidateStore,
        settings: RefineSettings,
        precision: str = "fp32",
        device: str = "cpu",
    ) -> None:
        """Keep what all fine-tunings share.

        Args:
            judge: see above.
            space: of the supernet.
            data: what is trained on.
            store: takes the new candidates.
            settings: of the fine-tuning.
            precision: see above.
            device: where torch trains; candidates are judged on the CPU in any case.
        """
        self._precision = precision
        self._device = torch.device(device)
        self._judge, self._space, self._data, self._store, self._settings = judge, space, data, store, settings
        self._teacher = judge.network(space.largest).to(self._device)

    def run(self, arch: Architecture, *, directory: Path, on_epoch: Callable[[dict[str, float]], None]) -> None:
        """Fine-tune one subnet, going on from the newest checkpoint in `directory`, and store the candidate.

        Writes `directory`/epoch-NNNN while it runs and `directory`/result.json at the end.

        Args:
            arch: the subnet.
            directory: this candidate's own directory.
            on_epoch: called after every epoch with epoch, loss, the seconds of this process, and the numbers of
                `accuracy_row` on the search split.

        Raises:
            TrainingError: the loss is not a number.
            CheckpointError: the newest checkpoint is damaged or of other settings.
        """
        start = time.perf_counter()
        network = self._judge.network(arch).to(self._device)
        identity: dict[str, JSON] = {"architecture": arch.to_json(), "settings": asdict(self._settings)}
        optimizer = make_optimizer(
            network,
            name=self._settings.optimizer,
            learning_rate=self._settings.learning_rate,
            weight_decay=self._settings.weight_decay,
        )
        parameters = dict(network.named_parameters())
        first = 0
        curve: list[float] = []
        if finished := finished_checkpoints(directory):
            checkpoint = load_checkpoint(finished[-1], expected=identity)
            network.load_state_dict(dict(checkpoint.weights))
            restore_optimizer(optimizer, parameters, checkpoint.optimizer)
            first = checkpoint.epoch
            curve = _curve(checkpoint.details)
        network.to("cpu")
        shape = self._space.input_shape(arch)
        accuracy = self._judge.score_network(network, shape=shape)
        for epoch in range(first, self._settings.epochs):
            loss = self._epoch(network.to(self._device), optimizer, arch=arch, epoch=epoch)
            network.to("cpu")
            recalibrate(network, self._judge.recalibration_batches(shape))
            accuracy = self._judge.score_network(network, shape=shape)
            curve.append(accuracy.value)
            save_checkpoint(
                directory,
                Checkpoint(
                    epoch=epoch + 1,
                    step=epoch + 1,
                    weights=network.state_dict(),
                    optimizer=optimizer_tensors(optimizer, parameters),
                    details={**identity, "curve": [*curve]},
                ),
            )
            numbers = {name: value for name, value in accuracy_row(accuracy).items() if not isinstance(value, str)}
            on_epoch({"epoch": epoch + 1, "loss": loss, "seconds": time.perf_counter() - start, **numbers})
        candidate = self._store.save_trained(arch, network, precision=self._precision)
        result: dict[str, JSON] = {
            "candidate": dict(candidate.row()),
            "accuracy": accuracy_row(accuracy),
            "seconds": time.perf_counter() - start,
            "curve": [*curve],
        }
        write_json(directory / _RESULT_FILE, result)

    def _epoch(self, network: nn.Module, optimizer: torch.optim.Optimizer, *, arch: Architecture, epoch: int) -> float:
        settings, data, space = self._settings, self._data, self._space
        shapes = space.input_shape(arch), space.input_shape(space.largest)
        batches = shard_batches(
            len(data.train), batch_size=settings.batch_size, seed=settings.seed, epoch=epoch, rank=0, world_size=1
        )
        network.train()
        total = 0.0
        for number, positions in enumerate(batches):
            step = epoch * len(batches) + number
            raw = augment(data.train.inputs[positions], name=data.augmentation, seed=settings.seed, step=step, rank=0)
            raw = raw.to(self._device)
            with torch.no_grad():
                teacher_NC = self._teacher(data.preprocessing.batch(raw, shape=shapes[1]))
            x = data.preprocessing.batch(raw, shape=shapes[0])
            loss = student_loss(
                network(x),
                data.train.labels_N[positions].to(self._device),
                teacher_logits_NC=teacher_NC,
                distillation=_DISTILLATION,
                smoothing=_SMOOTHING,
            )
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the fine-tuning loss of architecture {arch.arch_id} is {loss.item()} at step {step}",
                    hint=f"lower refine.learning_rate (now {settings.learning_rate})",
                )
            for group in optimizer.param_groups:
                group["lr"] = cosine_rate(
                    step, peak=settings.learning_rate, warmup_steps=0, num_steps=settings.epochs * len(batches)
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(batches)


def read_refined(directory: Path) -> Refined | None:
    """The result in a candidate's directory, or None while it is not finished.

    Raises:
        CheckpointError: the result is damaged.
    """
    path = directory / _RESULT_FILE
    if not path.exists():
        return None
    content = read_json(path)
    try:
        assert isinstance(content, Mapping)
        row, found = content["candidate"], content["accuracy"]
        seconds = float(str(content["seconds"]))
        assert isinstance(row, Mapping)
        assert isinstance(found, Mapping)
        candidate, accuracy, curve = Candidate.from_row(row), Accuracy.from_row(found), tuple(_curve(content))
    except (AssertionError, KeyError, ValueError) as e:
        raise CheckpointError(f"{path} is damaged: {e!r}", hint=f"delete {directory} and run `nas refine` again") from e
    return Refined(candidate=candidate, accuracy=accuracy, seconds=seconds, curve=curve)


def _curve(content: Mapping[str, JSON]) -> list[float]:
    """Accuracies after each epoch as a checkpoint or a result holds them; earlier versions kept none."""
    kept = content.get("curve", [])
    assert isinstance(kept, list), kept
    return [float(str(value)) for value in kept]
