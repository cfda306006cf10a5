"""Freed memory stays with the process: once a training has settled, its steps meet hardly a page fault."""

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, torch
from nas.memory import keep_freed_memory

torch.set_num_threads(1)
layers = [layer for _ in range(2) for layer in (torch.nn.Conv2d(16, 16, 1), torch.nn.ReLU())]
network, x = torch.nn.Sequential(*layers), torch.randn(64, 16, 64, 64)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        network.zero_grad()
        network(x).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, kept = faults(), keep_freed_memory()
faults()  # takes what it needs
print(kept, before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_the_steps_of_a_training_reuse_the_memory_of_the_steps_before() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    kept, before, after = done.stdout.split()
    assert kept == "True"
    # Before it is tens of thousands of pages of 4 KiB, fewer where the kernel hands out larger ones.
    assert int(after) < 0.5 * int(before)
