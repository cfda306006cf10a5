"""Energy where the machine counts it: RAPL of Intel and AMD processors, NVML of NVIDIA accelerators.

    reader = RaplReader()
    with reader.interval() as interval:
        run()
    interval.joules          # None where the machine does not tell; reader.missing() says why

The counters are of the whole package or accelerator: whatever else runs there counts too, so hold the lease of the unit
and subtract what an idle interval of the same length takes. Nothing is estimated: an interval that cannot be read to
its end has no energy.
"""

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hardware.clock import Clock, SystemClock

_LOG = logging.getLogger(__name__)

_POWERCAP = Path("/sys/class/powercap")
# No package draws more, so within range / this many watts a counter turns over once at most.
_MOST_WATTS = 1000.0


@dataclass(slots=True, kw_only=True)
class EnergyInterval:
    """The energy of one interval, filled in when it ends.

    Attributes:
        seconds: how long it took; None before its end.
        joules: energy of all counted parts; None before its end, and where it could not be read.
        joules_by_part: the same by counter, for example {"package-0": 1.25, "package-0/dram": 0.125}.
    """

    seconds: float | None = None
    joules: float | None = None
    joules_by_part: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    """State of a counter in joules, which begins again at 0 beyond `range_joules`; None: it never does."""

    joules: float
    range_joules: float | None


_Read = Callable[[], Mapping[str, _Count]]


class _NoEnergyError(RuntimeError):
    """There is no energy to be read; the text says why."""


class EnergyReader(ABC):
    """Reads energy over intervals.

    Args:
        clock: for the length of intervals; the system's if None.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock

    @abstractmethod
    def _counters(self) -> AbstractContextManager[_Read]:
        """Open the counters. Opening and reading raise _NoEnergyError."""

    def missing(self) -> str | None:
        """Say why there is no energy to be read here, or None if there is."""
        try:
            with self._counters() as read:
                read()
        except _NoEnergyError as e:
            return str(e)
        return None

    @contextmanager
    def interval(self) -> Iterator[EnergyInterval]:
        """Count what is used inside the `with` block. Without counters, or if they fail, `joules` stays None."""
        interval = EnergyInterval()
        with ExitStack() as stack:
            read = before = None
            try:
                read = stack.enter_context(self._counters())
                before = read()
            except _NoEnergyError as e:
                _LOG.info("no energy: %s", e)
            started_s = self._clock.monotonic_s()
            try:
                yield interval
            finally:
                interval.seconds = self._clock.monotonic_s() - started_s
                if read is not None and before is not None:
                    try:
                        used = _used(before, read(), seconds=interval.seconds)
                        interval.joules, interval.joules_by_part = sum(used.values()), used
                    except _NoEnergyError as e:
                        _LOG.warning("an interval has no energy: %s", e)


def _used(before: Mapping[str, _Count], after: Mapping[str, _Count], *, seconds: float) -> dict[str, float]:
    """Joules by counter.

    Raises:
        _NoEnergyError: a counter may have begun again more than once.
    """
    used: dict[str, float] = {}
    for name, count in before.items():
        used[name] = after[name].joules - count.joules
        if count.range_joules is not None:
            longest_s = count.range_joules / _MOST_WATTS
            if seconds >= longest_s:
                raise _NoEnergyError(
                    f"{name} may have begun again more than once in {seconds:.0f} s (> {longest_s:.0f} s)"
                )
            used[name] %= count.range_joules
        if used[name] < 0:
            raise _NoEnergyError(f"{name} went backwards, by {-used[name]:g} J")
    return used


class RaplReader(EnergyReader):
    """Processor packages and their memory, from Linux' powercap files.

    Counted are the packages and, below them, the zone "dram"; the other zones below a package (cores, uncore) are parts
    of it, and a platform zone ("psys") holds it. Intervals must be shorter than a counter's range at 1 kW, a minute or
    more; longer ones have no energy. Most systems let only root read the counters.

    Args:
        root: the directory of the zones.
        clock: see `EnergyReader`.
    """

    def __init__(self, *, root: Path = _POWERCAP, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._root = root

    @contextmanager
    def _counters(self) -> Iterator[_Read]:
        zones = self._zones()
        if not zones:
            raise _NoEnergyError(
                f"no RAPL counters in {self._root}: this processor or virtual machine does not offer them"
            )
        yield lambda: {
            name: _Count(joules=_joules(path / "energy_uj"), range_joules=_joules(path / "max_energy_range_uj"))
            for name, path in zones.items()
        }

    def _zones(self) -> dict[str, Path]:
        """Directories of the counted zones by name."""
        packages: dict[str, Path] = {}
        memories: dict[str, Path] = {}
        # A package can be there twice, through registers (intel-rapl:0) and through memory (intel-rapl-mmio:0).
        for path in (*sorted(self._root.glob("intel-rapl:*")), *sorted(self._root.glob("intel-rapl-mmio:*"))):
            parent, _, _ = path.name.rpartition(":")
            name = _text(path / "name")
            if ":" not in parent and name.startswith("package"):
                packages.setdefault(name, path)
            elif ":" in parent and name == "dram":
                memories.setdefault(f"{_text(self._root / parent / 'name')}/{name}", path)
        return packages | memories


def _joules(path: Path) -> float:
    text = _text(path)
    if not text.isdecimal():
        raise _NoEnergyError(f"{path} holds {text!r}, not microjoules")
    return int(text) / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError as e:
        raise _NoEnergyError(f"{path} may not be read; root allows it until the next start by chmod a+r {path}") from e
    except OSError as e:
        raise _NoEnergyError(f"{path} cannot be read: {e.strerror}") from e


class NvmlReader(EnergyReader):
    """An NVIDIA accelerator (Volta or newer), from its own counter of millijoules; needs the package nvidia-ml-py.

    Args:
        index: number of the accelerator, as NVML counts.
        clock: see `EnergyReader`.
    """

    def __init__(self, *, index: int = 0, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._index = index

    @contextmanager
    def _counters(self) -> Iterator[_Read]:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError as e:
            raise _NoEnergyError("the package pynvml is not installed: pip install nvidia-ml-py") from e

        def read() -> dict[str, _Count]:
            try:
                millijoules = nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(self._index))
            except nvml.NVMLError as e:
                raise _NoEnergyError(f"NVML tells no energy of accelerator {self._index}: {e}") from e
            return {f"accelerator-{self._index}": _Count(joules=millijoules / 1e3, range_joules=None)}

        try:
            nvml.nvmlInit()
        except nvml.NVMLError as e:
            raise _NoEnergyError(f"NVML does not start: {e}") from e
        try:
            yield read
        finally:
            nvml.nvmlShutdown()


def energy_reader(backend: str) -> EnergyReader | None:
    """The reader for what a backend computes on, or None where the machine tells no energy."""
    reader = _reader(backend)
    return reader if reader.missing() is None else None


def energy_missing(backend: str) -> str | None:
    """Why there is no energy of what a backend computes on, on this machine; None if there is."""
    return _reader(backend).missing()


def _reader(backend: str) -> EnergyReader:
    return NvmlReader() if backend.endswith("cuda") else RaplReader()
