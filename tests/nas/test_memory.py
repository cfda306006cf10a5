"""Freed memory stays with the process: once a training has settled, its steps meet hardly a page fault."""

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys, torch
from nas.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
torch.set_num_threads(1)
layers = [layer for _ in range(6) for layer in (torch.nn.Conv2d(16, 16, 1), torch.nn.ReLU())]
network, x = torch.nn.Sequential(*layers), torch.randn(64, 16, 64, 64)
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network.zero_grad()
    network(x).sum().backward()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, sum(faults[5:]))
"""


def _run(mode: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, mode], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_the_steps_of_a_training_reuse_the_memory_of_the_steps_before() -> None:
    kept, faults = _run("keep")
    assert kept == "True"
    # Otherwise some 200,000 pages of 4 KiB, fewer where the kernel hands out larger ones.
    assert faults < 0.5 * _run("default")[1]
