"""One of two training processes that talk over gloo; prints what it saw and ended with, as JSON.

Imports little, so that two processes start quickly.
"""

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

from nas.data import DataSplits, Examples, Preprocessing
from nas.errors import TrainingError
from nas.training.loop import train_supernet
from nas.training.settings import TrainSettings
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet
from searchspaces.mbconv import MBConvConfig, MBConvSpace, Stage

NUM_IMAGES, BATCH, NUM_CLASSES = 64, 16, 10


def one_stage(
    *, kernels: tuple[int, ...] = (3, 5), expands: tuple[int, ...] = (1, 2), dropout: float = 0.0
) -> MBConvSpace:
    """A space with one elastic stage, for 8 and 12 pixels."""
    stage = Stage(channels=8, stride=2, depths=(1, 2), kernels=kernels, expands=expands)
    return MBConvSpace(
        MBConvConfig(resolutions=(8, 12), stem_stride=2, stages=(stage,), head_channels=16, dropout=dropout)
    )


SMALL = one_stage()
ONE_EPOCH = TrainSettings(
    epochs=1,
    batch_size=BATCH,
    learning_rate=0.05,
    weight_decay=3e-5,
    label_smoothing=0.0,
    warmup_epochs=0.1,
    random_subnets=1,
    distillation=0.5,
    gradient_clip=5.0,
    seed=0,
)
# Two epochs of the teacher, then one each of kernel, depth and expand ratio.
PROGRESSIVE = replace(ONE_EPOCH, method="progressive", epochs=5, distillation=1.0)


class GlooContext:
    """`TrainContext` over gloo; `averages` can be switched off to see what it is good for."""

    device = torch.device("cpu")

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


def noise_images() -> DataSplits:
    """64 training images of noise, not augmented, so that they can be recognised."""
    generator = torch.Generator().manual_seed(0)

    def split(num: int, part: str) -> Examples:
        return Examples(
            inputs=torch.randint(0, 256, (num, 1, 8, 8), generator=generator, dtype=torch.uint8),
            labels_N=torch.randint(0, NUM_CLASSES, (num,), generator=generator),
            indices_N=torch.arange(num),
            part=part,
        )

    return DataSplits(
        name="noise",
        class_names=tuple("0123456789"),
        source_sha256="0" * 64,
        train=split(NUM_IMAGES, "train"),
        search=split(20, "search"),
        verify=split(20, "verify"),
        report=split(20, "report"),
        preprocessing=Preprocessing(mean=(128.0,), std=(74.0,)),
        augmentation="none",
    )


def fresh_supernet(*, seed: int = 0) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SMALL.build_supernet(num_classes=NUM_CLASSES)


def weights_sha256(supernet: Supernet) -> str:
    digest = hashlib.sha256()
    for tensor in supernet.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def train(
    directory: Path,
    *,
    data: DataSplits,
    averages: bool = True,
    settings: TrainSettings = ONE_EPOCH,
    poisoned_pass: int | None = None,
) -> dict[str, object]:
    """Train from the same weights as the other process; return images and subnets by step, and the end's weights."""
    supernet = fresh_supernet()
    at_start = weights_sha256(supernet)
    images: list[list[str]] = []
    subnets: list[list[str]] = []
    passes: list[int] = []

    def look(module: nn.Module, arguments: tuple[torch.Tensor, Architecture]) -> None:
        x_NCHW, arch = arguments
        if not torch.is_grad_enabled():
            return  # teaching, or looking on for the log
        if arch == SMALL.largest:
            images.append([hashlib.sha256(x_CHW.numpy().tobytes()).hexdigest()[:12] for x_CHW in x_NCHW.contiguous()])
            subnets.append([])
        if subnets:
            subnets[-1].append(arch.arch_id)

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        passes.append(len(passes))
        return gradient * float("nan") if passes[-1] == poisoned_pass else gradient

    supernet.register_forward_pre_hook(look)
    next(supernet.parameters()).register_hook(spoil)
    train_supernet(supernet, data=data, settings=settings, directory=directory, context=GlooContext(averages=averages))
    return {"images": images, "subnets": subnets, "start": at_start, "end": weights_sha256(supernet)}


def main(rank: int, place: Path) -> dict[str, object]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place / 'rendezvous'}", rank=rank, world_size=2)
    try:
        data = noise_images()
        found: dict[str, object] = {
            "averaged": train(place / "averaged", data=data),
            "apart": train(place / "apart", data=data, averages=False),
            "progressive": train(place / "progressive", data=data, settings=PROGRESSIVE),
            "poisoned": train(place / "poisoned", data=data, poisoned_pass=4 if rank == 1 else None),
        }
        spoilt = data.train.inputs * (float("nan") if rank == 1 else 1.0)
        try:
            train(place / "spoilt", data=replace(data, train=replace(data.train, inputs=spoilt)))
        except TrainingError as e:
            found["error"] = str(e)
        return found
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]))))
