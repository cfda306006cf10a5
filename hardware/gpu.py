"""What there is of NVIDIA GPUs on this machine, found without importing anything heavy."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

# A discrete card, the card of the host under WSL, the graphics part of a Jetson.
_DEVICE_FILES = ("nvidia[0-9]*", "dxg", "nvhost-ctrl-gpu")
# Facts of the card and its limits; the clocks of the moment go up and down, and would make every measurement differ.
_FIELDS = ("name", "driver_version", "clocks.max.sm", "clocks.max.memory", "power.limit")
_NAMES = ("gpu", "nvidia-driver", "gpu-max-clock-mhz", "gpu-max-memory-clock-mhz", "gpu-power-limit-w")


def missing_gpu(device_files: Path = Path("/dev")) -> str | None:
    """Say why CUDA cannot be used on this machine, or None if a GPU seems to be there. Runs and imports nothing.

    Args:
        device_files: where the system keeps its device files.
    """
    if not any(list(device_files.glob(pattern)) for pattern in _DEVICE_FILES):
        return f"there is no NVIDIA GPU with a loaded driver on this machine: no {device_files / 'nvidia0'}"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU of this machine"
    return None


def gpu_versions() -> dict[str, str]:
    """Name, driver version, highest clocks and power limit of the first visible GPU, as far as they are told."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    return dict(_query(shutil.which("nvidia-smi"), visible))


@functools.cache
def _query(program: str | None, gpu: str) -> tuple[tuple[str, str], ...]:
    """Ask once a process: it takes up to a second, and versions belong to every measurement."""
    if program is None:
        return ()
    command = [program, f"--id={gpu}", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        # A number that the driver does not tell is left out, as on a machine without the program.
        return ()
    values = [value.strip() for value in answer.strip().splitlines()[0].split(",")] if answer.strip() else []
    return tuple(
        (name, value) for name, value in zip(_NAMES, values, strict=False) if value and not value.startswith("[")
    )
