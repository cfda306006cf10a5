"""Runs under an interpreter that has the once-for-all reference package: times training steps when it is asked to.

Reads a JSON object a line and answers each with one. The first request names our space, the number of classes, a seed
and the threads of torch; its answer holds the versions. Every further one names a subnet's settings, the resolution,
the batch, whether memory is channels-last and whether autocast to bfloat16 is on; its answer is the milliseconds of a
step. Between requests the process waits and leaves the processor to whoever takes the next turn.
"""

import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn


def step_ms(
    compute_logits: Callable[[torch.Tensor], torch.Tensor],
    x_NCHW: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    parameters: Iterable[nn.Parameter],
    bfloat16: bool,
) -> float:
    """Milliseconds of one training step: no gradients, forward pass, cross entropy, backward pass; no optimiser.

    A step before it is not timed: the network that had the last turn has left its own data in the caches.
    """
    duration_ns = 0
    parameters = list(parameters)
    for _ in range(2):
        started_ns = time.perf_counter_ns()
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(compute_logits(x_NCHW), labels_N)
        loss.backward()
        duration_ns = time.perf_counter_ns() - started_ns
    return duration_ns / 1e6


def random_batch(shape: tuple[int, ...], *, num_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of that shape, in torch's ordinary layout, and a label for each."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randint(num_classes, shape[:1], generator=generator)


def _serve(requests: IO[str], answers: IO[str]) -> None:
    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    first = json.loads(requests.readline())
    seed, num_classes = first["seed"], first["num_classes"]
    random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(first["threads"])
    reference = importlib.import_module("ofa_reference")
    networks = {
        layout: reference.reference_network(first["space"], n_classes=num_classes).train().to(memory_format=layout)
        for layout in (torch.contiguous_format, torch.channels_last)
    }
    answer({"versions": {"ofa": version("ofa"), "torch": torch.__version__}})
    for line in requests:
        request = json.loads(line)
        layout = torch.channels_last if request["channels_last"] else torch.contiguous_format
        network = networks[layout]
        network.set_active_subnet(**request["settings"])
        shape = (request["batch"], 3, request["resolution"], request["resolution"])
        x_NCHW, labels_N = random_batch(shape, num_classes=num_classes, seed=seed)
        ms = step_ms(
            network,
            x_NCHW.contiguous(memory_format=layout),
            labels_N,
            parameters=network.parameters(),
            bfloat16=request["bfloat16"],
        )
        answer({"ms": ms})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    channel, sys.stdout = sys.stdout, sys.stderr  # whatever the package prints must not get between the answers
    _serve(sys.stdin, channel)
