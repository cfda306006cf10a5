"""Real agents for tests: in an environment that has numpy and one runtime only, honest or with a fault."""

import importlib.metadata
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.fleet import Timeouts
from hardware.lease import UnitLock
from hardware.onsite import MeasureJob
from hardware.protocol import MeasurementProtocol
from hardware.remote import AgentHost
from hardware.testing import INPUT_SHAPE, example_network

ROOT = Path(__file__).parents[2]
FAULTY = Path(__file__).with_name("faulty_agent.py")
RUNTIME = ("numpy", "onnxruntime")

# Wide enough that a busy test machine converges, so that no test waits for quiet.
FAST = MeasurementProtocol(
    name="fast", max_rounds=12, runs_per_round=3, warmup_runs=1, interval_width=0.9, max_seconds=60.0
)
# Goes on until somebody stops it.
ENDLESS = MeasurementProtocol(
    name="endless", max_rounds=10_000_000, runs_per_round=3, warmup_runs=1, min_seconds=3000, max_seconds=3600.0
)


def make_environment(directory: Path) -> Path:
    """Make an environment whose only packages are numpy and onnxruntime; returns its interpreter.

    The packages are links to those of the environment that runs the tests: no network, and a tenth of a second.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    (site,) = directory.glob("lib/python*/site-packages")
    for name in RUNTIME:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        distribution = importlib.metadata.distribution(importlib.metadata.packages_distributions()[name][0])
        information = package.parent / f"{distribution.metadata['Name']}-{distribution.version}.dist-info"
        for path in (package, package.parent / f"{name}.libs", information):
            if path.exists():
                (site / path.name).symlink_to(path)
    return directory / "bin" / "python"


def write_script(path: Path, *, python: Path, locks: Path, fault: str = "") -> Path:
    """Write what stands in for the interpreter of a device: starts an agent, with a fault if one is named."""
    program = f'"$@" --lock-directory {shlex.quote(str(locks))}'
    if fault:
        program = f"-P {shlex.quote(str(FAULTY))} {fault} --lock-directory {shlex.quote(str(locks))}"
    environment = shlex.join([f"TMPDIR={path.parent}", f"PYTHONPATH={ROOT}"])
    path.write_text(f"#!/bin/sh\nexec env {environment} {shlex.quote(str(python))} {program}\n")
    path.chmod(0o755)
    return path


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A device, a network and the places for agents to work in."""

    device: Device
    artifact: Artifact
    directory: Path
    python: Path
    locks: Path

    @property
    def unit(self) -> UnitLock:
        return UnitLock(self.device.spec.physical_unit(), directory=self.locks)

    def job(self, protocol: MeasurementProtocol = FAST, *, timeout_s: float | None = 60.0) -> MeasureJob:
        return MeasureJob(
            spec=self.device.spec,
            artifacts={"small": self.artifact},
            reference=self.artifact,
            protocol=protocol,
            seed=1,
            owner="test",
            timeout_s=timeout_s,
        )

    def script(self, fault: str = "") -> Path:
        name = f"python-{fault.replace('/', '_').replace(' ', '_') or 'honest'}"
        return write_script(self.directory / name, python=self.python, locks=self.locks, fault=fault)

    def command(self, fault: str = "") -> tuple[str, ...]:
        return (str(self.script(fault)), "-P", "-m", "hardware.agent")

    def host(self, fault: str = "", *, connect_s: float = 60.0, call_s: float = 60.0) -> AgentHost:
        return AgentHost(
            self.command(fault),
            place="device 'test'",
            backend=self.device.backend,
            timeouts=Timeouts(connect_s=connect_s, call_s=call_s),
        )


def make_bench(directory: Path, *, python: Path) -> Bench:
    """Build the example network, and give it places in a directory."""
    device = get_device("onnxruntime-cpu")
    artifact = device.backend.build(
        example_network(), example=torch.zeros(1, *INPUT_SHAPE), path=directory / "small network.onnx"
    )
    return Bench(device=device, artifact=artifact, directory=directory, python=python, locks=directory / "locks")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def agents_in(directory: Path) -> Iterator[int]:
    """Process ids of the agents that use the lock files of a directory."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and path.name != str(os.getpid()):
            try:
                arguments = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(directory).encode() in arguments and is_alive(int(path.name)):
                yield int(path.name)


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait until something holds; the test's own time limit ends what never does."""
    while not condition():
        time.sleep(0.1)
    return True
