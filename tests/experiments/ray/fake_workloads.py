"""Workloads that workers import, good or bad as the run directory's file says."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.ray.guard import MARK
from experiments.ray.loading import Weights
from hardware.device import DeviceSpec
from hardware.files import JSON, write_json, write_text
from nas.accuracy import Accuracy
from nas.errors import CheckpointError, TrainingError
from nas.search.pool import Judge, SubnetScore
from nas.search.stopping import Stopping
from nas.training.context import TrainContext
from searchspaces import Architecture
from tests.nas.search.trainings import metrics_after, write_result

LOADER = "tests.experiments.ray.fake_workloads:load"
BEHAVIOUR = "behaviour.json"


def unit_of_this_host() -> str:
    return DeviceSpec(device_id="cpu", backend="cpu").physical_unit()


def load(run_dir: Path) -> "FakeWorkload":
    if not (run_dir / BEHAVIOUR).is_file():
        raise CheckpointError(f"{run_dir} has no supernet", hint="nas train it")
    return FakeWorkload(run_dir)


def first_time(marker: Path) -> bool:
    """Whether no process made this marker before."""
    with suppress(FileExistsError):
        marker.touch(exist_ok=False)
        return True
    return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FakeWorkload:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.behaviour: dict[str, Any] = json.loads((run_dir / BEHAVIOUR).read_text())
        self.num_judged = 0

    def train(self, context: TrainContext) -> None:
        for part in self.behaviour["train"].split():
            getattr(self, "train_" + part)(context)

    def train_averages(self, context: TrainContext) -> None:
        everywhere, on_one, nowhere = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
        everywhere.grad = torch.full((2, 2), float(context.rank + 1))
        if context.rank == 1:
            on_one.grad = torch.full((2, 2), 5.0)
        context.average_gradients([everywhere, on_one, nowhere])
        assert everywhere.grad is not None
        found: dict[str, JSON] = {
            "world_size": context.world_size,
            "everywhere": everywhere.grad.tolist(),
            "on_one": None if on_one.grad is None else on_one.grad.tolist(),
            "nowhere": None if nowhere.grad is None else nowhere.grad.tolist(),
            "mean": context.mean(float(context.rank)),
            "nan": repr(context.mean(float("nan") if context.rank == 1 else 0.0)),
            "threads": torch.get_num_threads(),
            "environment": os.environ["OMP_NUM_THREADS"],
        }
        write_json(self.run_dir / f"rank-{context.rank}.json", found)

    def train_nan(self, context: TrainContext) -> None:
        if context.rank == 1:
            raise TrainingError("the training loss is nan at step 3", hint="lower train.learning_rate (now 9.0)")
        # As in training: the other worker waits in a collective for the one that failed.
        context.barrier()

    def train_bug(self, context: TrainContext) -> None:
        (self.run_dir / f"began-{context.rank}-{os.getpid()}").touch()
        raise KeyError("stage1.depth")

    def train_dies_once(self, context: TrainContext) -> None:
        context.barrier()
        if context.rank == context.world_size - 1 and first_time(self.run_dir / "died"):
            # Later than Ray Train's own start-up, as a training that runs.
            time.sleep(1.0)
            die()
        context.barrier()
        write_json(self.run_dir / f"finished-{context.rank}.json", True)

    def train_epochs(self, context: TrainContext) -> None:
        for _ in range(self.behaviour["epochs"]):
            # The second worker comes later than the first one: time for a measurer to queue up between them.
            time.sleep(0.3 * context.rank)
            with context.computing():
                busy = self.run_dir / f"busy-{context.rank}"
                busy.touch()
                context.barrier()
                # The second worker is still at work when the first one is done.
                time.sleep(0.05 + 0.1 * context.rank)
                busy.unlink()
            context.barrier()

    def train_for_ever(self, context: TrainContext) -> None:
        self.work_for_ever("train")

    def work_for_ever(self, stage: str) -> None:
        write_text(self.run_dir / f"mark-{stage}", os.environ[MARK])
        time.sleep(600)

    def judge(self, weights: Weights | None = None) -> Judge:
        self.weights = weights
        return self.judge_subnets

    def _meet(self, num: int) -> None:
        """Wait until `num` workers have been here: on a busy machine the first one could do everything alone."""
        (self.run_dir / f"met-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while len(list(self.run_dir.glob("met-*"))) < num and time.monotonic() < deadline:
            time.sleep(0.05)

    def judge_subnets(
        self, architectures: Sequence[Architecture], /, *, stopping: Stopping | None = None
    ) -> tuple[SubnetScore, ...]:
        self.num_judged += 1
        if self.behaviour.get("judge") == "for ever":
            self.work_for_ever("search")
        busy = self.run_dir / f"busy-{os.getpid()}"
        busy.touch()
        time.sleep(self.behaviour.get("seconds", 0.0))
        self._meet(self.behaviour.get("meet", 1))
        for arch in architectures:
            match self.behaviour.get(arch.arch_id):
                case "dies":
                    die()
                case "dies once" if first_time(self.run_dir / "died"):
                    die()
                case "bug":
                    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand a second line")
                case "checkpoint":
                    raise CheckpointError("weights are damaged", hint="train again")
        busy.unlink()
        # What a worker is, told in the numbers that it returns.
        return tuple(
            SubnetScore(
                arch_id=arch.arch_id,
                accuracy=Accuracy(
                    metric="top1",
                    value=0.5 if self.weights is None else float(self.weights["w"].sum()),
                    interval=(0.4, 0.6),
                    num_correct=self.num_judged,
                    num_images=torch.get_num_threads(),
                ),
                seconds=float(os.getpid()),
            )
            for arch in architectures
        )

    def fine_tune(
        self,
        arch_json: str,
        *,
        directory: Path,
        on_epoch: Callable[[dict[str, float]], None],
        epochs: int | None = None,
        use_gpu: bool = False,
    ) -> None:
        arch = Architecture.from_json(arch_json)
        if self.behaviour.get("refine") == "for ever":
            self.work_for_ever("refine")
        directory.mkdir(parents=True, exist_ok=True)
        match self.behaviour.get(arch.arch_id, directory.name):
            case "nan":
                raise TrainingError(f"the loss of {arch.arch_id} is nan", hint="lower refine.learning_rate")
            case "bug":
                raise RuntimeError("some bug")
        first = len(list(directory.glob("epoch-*")))
        for epoch in range(first + 1, self.behaviour["epochs"] + 1):
            (directory / f"epoch-{epoch}").touch()
            metrics = {"epoch": epoch, "accuracy": 0.5, "threads": torch.get_num_threads()}
            if self.behaviour.get("refine") == "results":
                metrics = metrics_after(epoch, 0.5)
            on_epoch(metrics)
            if directory.name == "dies-once" and first_time(directory / "died"):
                die()
        if self.behaviour.get("refine") == "results":
            write_result(directory, arch, curve=[0.5] * self.behaviour["epochs"])
        (directory / "thread").write_text(threading.current_thread().name)
