"""What of this machine a measurement depends on, as far as the system tells."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """The machine at the start of a measurement.

    Attributes:
        cpu_model: the processor's name.
        governor: the frequency governor of the first core; None where there is none or it is not told.
        load_average: of the last minute.
    """

    cpu_model: str
    governor: str | None
    load_average: float


def look_at_host() -> HostState:
    """Return the state of this machine now."""
    return HostState(cpu_model=_cpu_model(), governor=_governor(), load_average=os.getloadavg()[0])


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text(encoding="ascii").strip()
    # Virtual machines have none, and some systems do not tell everybody.
    except OSError:
        return None
