"""`TrainContext` on Ray: gradients by torch.distributed, and the compute locks of all hosts in one fixed order."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce

import torch
import torch.distributed as dist
from torch import nn

from experiments.ray.loading import HostLock


class RayTrainContext:
    """One worker of a torch.distributed process group that is set up already (gloo on CPUs, nccl on GPUs)."""

    def __init__(self, lock: HostLock, *, device: torch.device) -> None:
        """Agree with the other workers on who takes which lock; every worker has to be constructed.

        Args:
            lock: of the host that this worker runs on.
            device: where this worker computes, and where collectives want their tensors.
        """
        self._lock, self._device = lock, device
        units = _gather(lock.unit)
        self._hosts = sorted(set(units))
        self._takes_lock = units.index(lock.unit) == self.rank

    @property
    def device(self) -> torch.device:
        """The worker's GPU, or its CPU."""
        return self._device

    @property
    def rank(self) -> int:
        """This worker's number, 0 ... world_size - 1."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return dist.get_world_size()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the workers, in one all-reduce.

        A missing gradient counts as zero. One that is missing everywhere stays missing, as with a single worker: the
        optimiser then leaves the parameter alone instead of applying momentum and weight decay to it.
        """
        held = list(parameters)
        if self.world_size == 1 or not held:
            return
        # One flag a parameter travels behind the gradients: on how many workers it has one.
        dtype = reduce(torch.promote_types, (parameter.dtype for parameter in held), torch.float32)
        pieces = [
            torch.zeros(parameter.numel(), dtype=dtype, device=parameter.device)
            if parameter.grad is None
            else parameter.grad.reshape(-1).to(dtype)
            for parameter in held
        ]
        flags = torch.tensor([parameter.grad is not None for parameter in held], dtype=dtype, device=held[0].device)
        flat = torch.cat([*pieces, flags])
        dist.all_reduce(flat)
        *sums, num_present = flat.split([*(len(piece) for piece in pieces), len(held)])
        for parameter, total, present in zip(held, sums, num_present.tolist(), strict=True):
            if present:
                mean = total / self.world_size
                parameter.grad = mean.view_as(parameter).to(parameter.dtype)

    def mean(self, value: float) -> float:
        """Mean of `value` over the workers (NaN if one worker has NaN)."""
        if self.world_size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return float(total.item()) / self.world_size

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.world_size > 1:
            dist.barrier()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold the compute lock of every worker's host; entered and left by all workers together.

        One worker a host takes the lock for all workers of that host. If each took it, the first could hold it while a
        measurer queues up: the lock is fair, so the second worker waits behind the measurer, the measurer waits for the
        first worker, and the first one waits for the second in the next all-reduce, for ever.

        For the same reason the hosts come one after the other, in the order of their names: two trainings that share
        two hosts, each holding one and waiting behind a measurer on the other, would wait in a circle. In one order for
        all, whoever holds a host only ever waits for later ones.

        The barriers around the block are what "for all workers" rests on: nobody computes before the last lock is held,
        and no lock is given back while a worker still computes. After an error there is no barrier, because the other
        workers may never come; Ray ends them.
        """
        with ExitStack() as held:
            for host in self._hosts:
                if self._takes_lock and host == self._lock.unit:
                    held.enter_context(self._lock.computing())
                self.barrier()
            yield
            self.barrier()


def _gather(text: str) -> list[str]:
    """What every worker says, by rank."""
    everything: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(everything, text)
    return everything
