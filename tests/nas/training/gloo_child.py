"""One of two training processes that talk over gloo; prints what it saw and ended with, as JSON."""

import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from experiments.datasets import load_dataset
from experiments.recipe_settings import DataSettings
from nas.data import DataSplits
from nas.errors import TrainingError
from nas.training.loop import train_supernet
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet
from tests.nas.tiny_run import SEED, SPACE, TRAIN, fresh_supernet

NUM_IMAGES, BATCH = 64, 16


class GlooContext:
    """`TrainContext` over gloo; `averages` can be switched off to see what it is good for."""

    def __init__(self, *, averages: bool) -> None:
        self._averages = averages

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        return dist.get_world_size()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if self._averages and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world_size

    def mean(self, value: float) -> float:
        total = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(total)
        return float(total.item()) / self.world_size

    def barrier(self) -> None:
        dist.barrier()

    def computing(self) -> AbstractContextManager[object]:
        return nullcontext()


def small_digits() -> DataSplits:
    """The first 64 training images, not augmented, so that they can be recognised."""
    data = load_dataset(DataSettings(dataset="digits", search=400, verify=400, report=300), seed=SEED)
    train = data.train
    few = replace(
        train,
        images_NCHW=train.images_NCHW[:NUM_IMAGES],
        labels_N=train.labels_N[:NUM_IMAGES],
        indices_N=train.indices_N[:NUM_IMAGES],
    )
    return replace(data, train=few, augmentation="none")


def weights_sha256(supernet: Supernet) -> str:
    digest = hashlib.sha256()
    for tensor in supernet.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def train(directory: Path, *, data: DataSplits, averages: bool, epochs: int) -> dict[str, object]:
    """Train from the same weights as the other process; return images and subnets by step, and the end's weights."""
    supernet = fresh_supernet()
    at_start = weights_sha256(supernet)
    images: list[list[str]] = []
    subnets: list[list[str]] = []

    def look(module: nn.Module, arguments: tuple[torch.Tensor, Architecture]) -> None:
        x_NCHW, arch = arguments
        if arch == SPACE.largest:
            images.append([hashlib.sha256(x_CHW.numpy().tobytes()).hexdigest()[:12] for x_CHW in x_NCHW.contiguous()])
            subnets.append([])
        subnets[-1].append(arch.arch_id)

    supernet.register_forward_pre_hook(look)
    train_supernet(
        supernet,
        data=data,
        settings=replace(TRAIN, epochs=epochs, batch_size=BATCH),
        directory=directory,
        context=GlooContext(averages=averages),
    )
    return {"images": images, "subnets": subnets, "start": at_start, "end": weights_sha256(supernet)}


def main(rank: int, place: Path) -> dict[str, object]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place / 'rendezvous'}", rank=rank, world_size=2)
    try:
        data = small_digits()
        found: dict[str, object] = {
            "averaged": train(place / "averaged", data=data, averages=True, epochs=1),
            "apart": train(place / "apart", data=data, averages=False, epochs=1),
        }
        spoilt_NCHW = data.train.images_NCHW * (float("nan") if rank == 1 else 1.0)
        spoilt = replace(data, train=replace(data.train, images_NCHW=spoilt_NCHW))
        try:
            train(place / "spoilt", data=spoilt, averages=True, epochs=1)
        except TrainingError as e:
            found["error"] = str(e)
        return found
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]))))
