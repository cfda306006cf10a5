"""What of this machine a measurement depends on, as far as the system tells."""

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """The machine at one moment.

    Attributes:
        cpu_model: the processor's name.
        governor: the frequency governor of the first core; None where there is none or it is not told.
        clock_mhz: clock of the first core; None where it is not told. Virtual machines tell the nominal one.
        load_average: of the last minute.
        affinity: cores that this process may use.
        num_cores: of the machine; 0 where it is not told.
    """

    cpu_model: str
    governor: str | None
    clock_mhz: float | None
    load_average: float
    affinity: tuple[int, ...]
    num_cores: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Processor time since the start of the machine, in seconds.

    Attributes:
        busy_s: of all processes, on all cores; None where the system does not tell.
        stolen_s: that the hypervisor gave to others.
        own_s: of this process and its finished children.
    """

    busy_s: float | None
    stolen_s: float
    own_s: float


def look_at_host() -> HostState:
    """Return the state of this machine now."""
    return HostState(
        cpu_model=_cpu_model(),
        governor=_first_line(_FREQUENCY / "scaling_governor"),
        clock_mhz=_clock_mhz(),
        load_average=os.getloadavg()[0],
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        num_cores=os.cpu_count() or 0,
    )


def look_at_cpu_times() -> CpuTimes:
    """Return the processor times now; the difference of two says what else the machine did in between."""
    own_s = sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
    line = _first_line(_STAT)
    if line is None or not line.startswith("cpu "):
        return CpuTimes(busy_s=None, stolen_s=0.0, own_s=own_s)
    # user nice system idle iowait irq softirq steal ...; see `man 5 proc`
    ticks = [int(text) for text in line.split()[1:9]]
    per_second = os.sysconf("SC_CLK_TCK")
    busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
    return CpuTimes(busy_s=busy / per_second, stolen_s=ticks[7] / per_second, own_s=own_s)


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _clock_mhz() -> float | None:
    khz = _first_line(_FREQUENCY / "scaling_cur_freq")
    if khz is not None and khz.isdigit():
        return int(khz) / 1000
    mhz = _cpuinfo("cpu MHz")
    return None if mhz is None else float(mhz)


def _cpuinfo(key: str) -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").splitlines()[0].strip()
    # Virtual machines have no such files, some systems do not show them to everybody, and some are empty.
    except (OSError, IndexError):
        return None
