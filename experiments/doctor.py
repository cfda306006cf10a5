"""What of this machine works (`nas doctor`)."""

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from experiments.datasets import locate_dataset
from experiments.errors import DataError
from experiments.recipe import DataSettings
from hardware.device import DeviceStatus, list_devices
from hardware.errors import DeviceError
from hardware.lease import UnitLock
from hardware.lock_files import default_lock_directory

_PACKAGES = ("torch", "ray", "optuna", "mlflow", "pandas", "scikit-learn", "onnx", "onnxruntime")
_LEAST_GIB = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One checked thing: works, or what to do."""

    subject: str
    ok: bool
    text: str
    hint: str = ""


def examine() -> list[Finding]:
    """Check interpreter, packages, processor, memory, disk, locks, devices and data sets; takes a second or two."""
    findings = [_python(), *(_package(name) for name in _PACKAGES), _processor(), _memory(), _disk(), _locks(), _gpu()]
    for status in _statuses(findings):
        versions = ", ".join(f"{name} {number}" for name, number in status.versions.items())
        findings.append(
            Finding(
                subject=f"device {status.device_id}",
                ok=status.available,
                text=versions if status.available else status.reason,
                hint=status.hint,
            )
        )
    findings.append(_dataset(DataSettings(dataset="digits", search=1, verify=1, report=1)))
    findings.append(_dataset(DataSettings(dataset="fashion-mnist", search=1, verify=1, report="official")))
    return findings


def _statuses(findings: list[Finding]) -> list[DeviceStatus]:
    """All devices; an error in `devices.yaml` becomes a finding and hides no other."""
    from experiments.ray.device_host import ray_connectors

    try:
        return list_devices(connectors=ray_connectors())
    except DeviceError as e:
        findings.append(Finding(subject="devices.yaml", ok=False, text=str(e), hint=e.hint))
        return []


def _python() -> Finding:
    return Finding(
        subject="python",
        ok=sys.version_info >= (3, 11),
        text=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        hint="install Python 3.11 or newer",
    )


def _package(name: str) -> Finding:
    module = {"scikit-learn": "sklearn"}.get(name, name)
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(subject=name, ok=False, text="not installed", hint="make install")
    return Finding(subject=name, ok=importlib.util.find_spec(module) is not None, text=found)


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    quiet = load < 0.5 * cores
    return Finding(
        subject="processor",
        ok=quiet,
        text=f"{cores} core(s), load {load:.2f}",
        hint="the host is busy: measurements will be slow to settle or suspect",
    )


def _memory() -> Finding:
    available = psutil.virtual_memory().available / 2**30
    return Finding(
        subject="memory",
        ok=available >= _LEAST_GIB,
        text=f"{available:.1f} GiB free",
        hint=f"the quickstart needs up to {_LEAST_GIB:g} GiB",
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    writable = os.access(Path.cwd(), os.W_OK)
    return Finding(
        subject="disk",
        ok=free >= 1.0 and writable,
        text=f"{free:.1f} GiB free here{'' if writable else ', not writable'}",
        hint="runs are written to ./runs: change to a writable place with 1 GiB free, or use --run-dir",
    )


def _locks() -> Finding:
    try:
        with UnitLock("doctor").computing(owner="nas doctor", timeout_s=1.0):
            return Finding(subject="device locks", ok=True, text=f"work in {default_lock_directory()}")
    except DeviceError as e:
        return Finding(subject="device locks", ok=False, text=str(e), hint=e.hint)


def _gpu() -> Finding:
    found = shutil.which("nvidia-smi")
    return Finding(subject="gpu", ok=True, text="nvidia driver found" if found else "none (not needed)")


def _dataset(settings: DataSettings) -> Finding:
    subject = f"data {settings.dataset}"
    try:
        return Finding(subject=subject, ok=True, text=locate_dataset(settings))
    except DataError as e:
        return Finding(subject=subject, ok=False, text=str(e), hint=e.hint)
