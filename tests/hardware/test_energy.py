"""Energy from a made-up tree of powercap files and from a made-up NVML: this project's machines have neither."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from hardware.energy import EnergyReader, NvmlReader, RaplReader

RANGE_UJ = 262_143_328_850


class FakeClock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def now_utc(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def zone(root: Path, directory: str, *, name: str, energy_uj: int = 0, range_uj: int = RANGE_UJ) -> Path:
    path = root / directory
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def use(path: Path, microjoules: int) -> None:
    """Let a zone's counter go on, beginning again at its range."""
    after = int((path / "energy_uj").read_text()) + microjoules
    (path / "energy_uj").write_text(f"{after % int((path / 'max_energy_range_uj').read_text())}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A server with two packages, as Linux shows it; the packages and memories are what counts."""
    (tmp_path / "intel-rapl").mkdir()
    zone(tmp_path, "intel-rapl:0", name="package-0", energy_uj=5_000_000)
    zone(tmp_path, "intel-rapl:0:0", name="core", energy_uj=1)
    zone(tmp_path, "intel-rapl:0:1", name="dram", energy_uj=7_000_000, range_uj=65_712_999_613)
    zone(tmp_path, "intel-rapl:1", name="package-1", energy_uj=RANGE_UJ - 400_000)
    zone(tmp_path, "intel-rapl:2", name="psys", energy_uj=9)
    zone(tmp_path, "intel-rapl-mmio:0", name="package-0", energy_uj=77)
    return tmp_path


def test_packages_and_memory_are_counted_once_and_their_parts_are_not(root: Path) -> None:
    clock = FakeClock()
    reader = RaplReader(root=root, clock=clock)
    assert reader.missing() is None
    with reader.interval() as interval:
        assert (interval.joules, interval.seconds) == (None, None)
        clock.now_s += 2.5
        for directory, microjoules in (
            ("intel-rapl:0", 1_250_000), ("intel-rapl:0:0", 900_000), ("intel-rapl:0:1", 125_000),
            ("intel-rapl:1", 500), ("intel-rapl:2", 10_000_000), ("intel-rapl-mmio:0", 1_250_000),
        ):  # fmt: skip
            use(root / directory, microjoules)
    assert interval.seconds == 2.5
    parts = {"package-0": 1.25, "package-1": 0.0005, "package-0/dram": 0.125}
    assert interval.joules_by_part == pytest.approx(parts, abs=1e-9)
    assert interval.joules == pytest.approx(1.3755, abs=1e-9)


def test_a_counter_that_begins_again_loses_nothing(root: Path) -> None:
    with RaplReader(root=root, clock=FakeClock()).interval() as interval:
        use(root / "intel-rapl:1", 900_000)
        assert (root / "intel-rapl:1" / "energy_uj").read_text() == "500000\n"
    assert interval.joules == pytest.approx(0.9, abs=1e-9)


def test_an_interval_in_which_a_counter_may_have_begun_again_twice_has_no_energy(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The memory's counter holds 65.7 kJ: at 1 kW it is full after 65.7 s.
    for seconds, has_energy in ((65.0, True), (66.0, False)):
        clock = FakeClock()
        with RaplReader(root=root, clock=clock).interval() as interval:
            clock.now_s += seconds
            use(root / "intel-rapl:0", 1_000_000)
        assert (interval.joules is not None) is has_energy
        assert interval.seconds == seconds
    assert interval.joules_by_part == {}
    assert "package-0/dram may have begun again more than once in 66 s" in caplog.text


def test_a_machine_without_counters_has_no_energy(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        reader = RaplReader(root=root, clock=FakeClock())
        said = reader.missing()
        assert said is not None
        assert str(root) in said
        with reader.interval() as interval:
            pass
        assert interval.joules is None
        assert interval.seconds == 0.0


def test_counters_that_may_not_be_read_are_absent_and_the_way_out_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = root / "intel-rapl:0" / "energy_uj"
    secret.chmod(0)
    if os.geteuid() == 0:
        # Nothing is forbidden to root, so the refusal is made up.
        read_text = Path.read_text

        def refuse(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
            if self == secret:
                raise PermissionError(13, "Permission denied", str(self))
            return read_text(self, encoding=encoding, errors=errors)

        monkeypatch.setattr(Path, "read_text", refuse)
    reader = RaplReader(root=root, clock=FakeClock())
    said = reader.missing()
    assert said is not None
    assert f"chmod a+r {secret}" in said
    with reader.interval() as interval:
        pass
    assert interval.joules is None


def _remove(path: Path) -> None:
    path.unlink()


def _fill_with_words(path: Path) -> None:
    path.write_text("none\n")


@pytest.mark.parametrize("damage", [_remove, _fill_with_words])
def test_a_counter_that_fails_in_between_leaves_no_energy(
    root: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    reader = RaplReader(root=root, clock=FakeClock())
    with reader.interval() as interval:
        damage(root / "intel-rapl:1" / "energy_uj")
    assert interval.joules is None
    assert "an interval has no energy" in caplog.text
    assert reader.missing() is not None


def test_an_error_inside_the_interval_comes_out_and_what_was_used_is_told(root: Path) -> None:
    reader = RaplReader(root=root, clock=FakeClock())
    intervals = []

    def fail() -> None:
        with reader.interval() as interval:
            intervals.append(interval)
            use(root / "intel-rapl:0", 2_000_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert intervals[0].joules == pytest.approx(2.0, abs=1e-9)


def test_this_machine_tells_its_energy_or_says_why_not() -> None:
    readers: list[EnergyReader] = [RaplReader(), NvmlReader()]
    for reader in readers:
        said = reader.missing()
        with reader.interval() as interval:
            sum(range(100_000))
        assert (interval.joules is None) is (said is not None)
        assert said is None or len(said) > 20


class FakeNvml(ModuleType):
    """NVML with two accelerators, the second of which has no counter."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.millijoules = 123_456
        self.users = 0
        self.broken = False

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")
        self.users += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 1:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return self.millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_an_accelerator_tells_millijoules(nvml: FakeNvml) -> None:
    clock = FakeClock()
    reader = NvmlReader(clock=clock)
    assert reader.missing() is None
    with reader.interval() as interval:
        assert nvml.users == 1
        nvml.millijoules += 2_750
        clock.now_s += 10_000.0
    assert interval.joules == pytest.approx(2.75)
    assert interval.joules_by_part == pytest.approx({"accelerator-0": 2.75})
    assert nvml.users == 0


@pytest.mark.parametrize(("index", "reason"), [(1, "Not Supported"), (2, "Invalid Argument")])
def test_an_accelerator_without_counter_or_without_existence_has_no_energy(
    nvml: FakeNvml, index: int, reason: str
) -> None:
    reader = NvmlReader(index=index, clock=FakeClock())
    said = reader.missing()
    assert said is not None
    assert f"accelerator {index}: {reason}" in said
    with reader.interval() as interval:
        pass
    assert interval.joules is None
    assert nvml.users == 0


def test_a_machine_without_driver_has_no_energy(nvml: FakeNvml) -> None:
    nvml.broken = True
    reader = NvmlReader(clock=FakeClock())
    assert "Driver Not Loaded" in str(reader.missing())
    with reader.interval() as interval:
        pass
    assert interval.joules is None


def test_an_accelerators_counter_that_went_back_has_no_energy(nvml: FakeNvml) -> None:
    with NvmlReader(clock=FakeClock()).interval() as interval:
        nvml.millijoules = 5  # the driver was loaded again
    assert interval.joules is None


def test_without_the_package_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in str(NvmlReader().missing())
