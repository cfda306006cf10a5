import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hardware.energy import RaplReader
from hardware.errors import DeviceError, MeasurementError
from hardware.judging import bootstrap_median_interval, drift_of, judge
from hardware.protocol import MeasurementProtocol, get_protocol
from hardware.timing import time_interleaved

PROTOCOL = MeasurementProtocol(name="test", max_rounds=30, runs_per_round=4, warmup_runs=2, max_seconds=1000.0)


class Machine:
    """A machine whose time we control: a run takes what its network says, and nothing else takes time."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.visits: list[str] = []
        self.num_runs = 0

    def network(self, name: str, *, costs_ns: Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            self.num_runs += 1
            self.now_ns += round(costs_ns())
            if not self.visits or self.visits[-1] != name:
                self.visits.append(name)

        return run

    def timer_ns(self) -> int:
        return self.now_ns

    def monotonic_s(self) -> float:
        return self.now_ns / 1e9

    def now_utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps while it times")


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def steady(cost_ns: float) -> Callable[[], float]:
    return lambda: cost_ns


def noisy(cost_ns: float, *, spread: float, seed: int = 1) -> Callable[[], float]:
    noise = np.random.default_rng(seed)
    return lambda: cost_ns * (1 + spread * float(noise.standard_normal()))


def test_steady_networks_need_the_fewest_rounds_and_come_out_exactly(
    machine: Machine, rng: np.random.Generator
) -> None:
    runners = {
        name: machine.network(name, costs_ns=steady(cost)) for name, cost in (("a", 1000), ("b", 5000), ("ref", 300))
    }
    found = time_interleaved(
        runners, reference="ref", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns
    )
    assert found.drift == 0
    assert found.reference == "ref"
    for name, cost in (("a", 1000), ("b", 5000), ("ref", 300)):
        times = found.times[name]
        assert times.raw_ns.shape == (10, 4)
        assert times.raw_ns.dtype == np.int64
        assert (times.raw_ns == cost).all()
        assert (times.slowdown == 1).all()
        # Two windows of five runs agree at once.
        assert times.warmup_runs == 10
        judged = found.judged(protocol=PROTOCOL, rng=rng)[name]
        assert (judged.low_ns, judged.median_ns, judged.high_ns) == (cost, cost, cost)
        assert judged.converged
        assert not judged.reasons
    # A probe is one untimed and three timed runs; two a round here.
    assert machine.num_runs == 3 * 10 + 10 * (3 * (4 + 2) + 2 * 4)


def test_a_network_is_warmed_up_until_it_is_steady(machine: Machine, rng: np.random.Generator) -> None:
    num_runs = 0

    def cost_ns() -> float:
        nonlocal num_runs
        num_runs += 1
        return 1000 + 3000 * 0.9**num_runs

    runners = {
        "cold": machine.network("cold", costs_ns=cost_ns),
        "restless": machine.network("restless", costs_ns=noisy(1000, spread=0.15)),
    }
    found = time_interleaved(
        runners, reference="cold", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns
    )
    assert 20 <= found.times["cold"].warmup_runs <= 60
    assert 10 <= found.times["restless"].warmup_runs <= 100
    assert found.times["cold"].raw_ns.max() < 1100


def test_warm_up_runs_of_a_round_do_not_count(machine: Machine, rng: np.random.Generator) -> None:
    seen = 0

    def cost_ns() -> float:
        # The first two runs of every visit of six are cold; warming up (10 runs) and probes (4 runs) come in between.
        nonlocal seen
        seen += 1
        position = (seen - 11) % 14
        return 9000.0 if seen > 10 and position in (4, 5) else 10.0

    found = time_interleaved(
        {"cold": machine.network("cold", costs_ns=cost_ns)},
        reference="cold",
        protocol=PROTOCOL,
        rng=rng,
        clock=machine,
        timer_ns=machine.timer_ns,
    )
    assert (found.times["cold"].raw_ns == 10).all()


@pytest.mark.parametrize("step_ns", [0, -5])
def test_a_clock_that_stands_still_or_goes_backwards_is_refused(rng: np.random.Generator, step_ns: int) -> None:
    now_ns = 10**9

    def timer_ns() -> int:
        nonlocal now_ns
        now_ns += step_ns
        return now_ns

    with pytest.raises(MeasurementError, match="stood still or went backwards") as caught:
        time_interleaved({"a": lambda: None}, reference="a", protocol=PROTOCOL, rng=rng, timer_ns=timer_ns)
    assert "nas devices check" in caught.value.hint


def test_the_reference_is_run_after_every_eight_networks(machine: Machine, rng: np.random.Generator) -> None:
    runners = {f"net{n}": machine.network(f"net{n}", costs_ns=steady(100)) for n in range(17)}
    runners["ref"] = machine.network("ref", costs_ns=steady(50))
    found = time_interleaved(
        runners, reference="ref", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns
    )
    # 18 networks: before the first, the ninth and the seventeenth, and at the end of the round.
    assert len(found.probes_ns) == 4 * 10


def test_every_round_visits_everybody_in_an_order_of_its_own(machine: Machine, rng: np.random.Generator) -> None:
    names = ["a", "b", "c", "ref"]
    runners = {name: machine.network(name, costs_ns=steady(100)) for name in names}
    orders: list[tuple[str, ...]] = []

    def after_round(num_rounds: int) -> None:
        orders.append(tuple(machine.visits))
        machine.visits.clear()
        assert num_rounds == len(orders)

    time_interleaved(
        runners,
        reference="ref",
        protocol=PROTOCOL,
        rng=rng,
        clock=machine,
        timer_ns=machine.timer_ns,
        on_round=after_round,
    )
    # The reference is also run before and after everybody.
    others = [tuple(name for name in order if name != "ref") for order in orders[1:]]
    assert all(sorted(order) == names[:3] for order in others)
    assert len(set(others)) >= 3


def test_all_networks_stay_in_every_round_until_the_noisy_one_is_certain(
    machine: Machine, rng: np.random.Generator
) -> None:
    runners = {
        "steady": machine.network("steady", costs_ns=steady(1000)),
        "noisy": machine.network("noisy", costs_ns=noisy(1000, spread=0.08)),
        "ref": machine.network("ref", costs_ns=steady(500)),
    }
    found = time_interleaved(
        runners, reference="ref", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns
    )
    num_rounds = {name: len(times.raw_ns) for name, times in found.times.items()}
    assert 10 < num_rounds["noisy"] == num_rounds["steady"] == num_rounds["ref"]
    wide = found.judged(protocol=PROTOCOL, rng=rng)["noisy"]
    assert wide.low_ns < wide.median_ns < wide.high_ns
    assert wide.converged == (wide.high_ns - wide.low_ns <= 0.03 * wide.median_ns)


def test_a_hopeless_network_ends_at_the_cap_and_is_not_called_converged(
    machine: Machine, rng: np.random.Generator
) -> None:
    runners = {"wild": machine.network("wild", costs_ns=noisy(1000, spread=0.25))}
    found = time_interleaved(
        runners, reference="wild", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns
    )
    assert len(found.times["wild"].raw_ns) == PROTOCOL.max_rounds
    judged = found.judged(protocol=PROTOCOL, rng=rng)["wild"]
    assert not judged.converged
    assert "interval of the median" in judged.reasons[0]


def test_the_cap_on_seconds_ends_it_but_never_before_ten_rounds(machine: Machine, rng: np.random.Generator) -> None:
    runners = {"slow": machine.network("slow", costs_ns=noisy(1e9, spread=0.2))}
    for max_seconds, num_rounds in ((1.0, 10), (210.0, 16)):
        found = time_interleaved(
            runners,
            reference="slow",
            protocol=replace(PROTOCOL, max_seconds=max_seconds),
            rng=rng,
            clock=machine,
            timer_ns=machine.timer_ns,
        )
        assert abs(len(found.times["slow"].raw_ns) - num_rounds) <= 1


@pytest.mark.parametrize("change", [0.2, -0.2])
def test_drift_is_the_change_of_the_reference_and_values_are_corrected_for_it(
    machine: Machine, rng: np.random.Generator, change: float
) -> None:
    num_rounds = 0

    def speed() -> float:
        return 1 + change * (num_rounds >= 15)

    def after_round(finished: int) -> None:
        nonlocal num_rounds
        num_rounds = finished

    found = time_interleaved(
        {
            "ref": machine.network("ref", costs_ns=lambda: 1000 * speed()),
            "other": machine.network("other", costs_ns=lambda: 5000 * speed()),
        },
        reference="ref",
        protocol=replace(PROTOCOL, min_rounds=20, max_rounds=20),
        rng=rng,
        clock=machine,
        timer_ns=machine.timer_ns,
        on_round=after_round,
    )
    assert found.drift == pytest.approx(change, rel=0.01)
    judged = found.judged(protocol=PROTOCOL, rng=rng)["other"]
    assert judged.corrected
    assert judged.median_ns == pytest.approx(5000, rel=0.01)
    assert not judged.reasons


def test_a_host_that_becomes_another_one_is_not_corrected_but_suspect(
    machine: Machine, rng: np.random.Generator
) -> None:
    num_rounds = 0

    def after_round(finished: int) -> None:
        nonlocal num_rounds
        num_rounds = finished

    found = time_interleaved(
        {"ref": machine.network("ref", costs_ns=lambda: 1000 * (1 + 2 * (num_rounds >= 15)))},
        reference="ref",
        protocol=replace(PROTOCOL, min_rounds=20, max_rounds=20),
        rng=rng,
        clock=machine,
        timer_ns=machine.timer_ns,
        on_round=after_round,
    )
    judged = found.judged(protocol=PROTOCOL, rng=rng)["ref"]
    assert not judged.corrected
    assert "drifted" in judged.reasons[0]


def test_a_slow_patch_in_the_middle_is_drift_and_little_is_none() -> None:
    assert drift_of(np.array([1.0] * 4 + [1.3] * 4 + [1.0] * 8)) == pytest.approx(0.3)
    assert abs(drift_of(np.array([1.0, 1.01, 0.99, 1.0, 1.02, 1.0, 1.0, 0.99]))) < 0.02
    assert drift_of(np.array([1.0, 2.0, 3.0])) == 0.0


def test_a_few_rounds_that_somebody_disturbed_do_not_count_and_many_make_a_network_suspect(
    machine: Machine, rng: np.random.Generator
) -> None:
    for disturbed, suspect in (({4, 11}, False), (set(range(0, 28, 4)), True)):
        finished = [0]

        def cost_ns(finished: list[int] = finished, disturbed: set[int] = disturbed) -> float:
            return 1000 * (3 if finished[-1] in disturbed else 1)

        found = time_interleaved(
            {
                "net": machine.network("net", costs_ns=cost_ns),
                "ref": machine.network("ref", costs_ns=steady(500)),
            },
            reference="ref",
            protocol=replace(PROTOCOL, min_rounds=30, max_rounds=30),
            rng=rng,
            clock=machine,
            timer_ns=machine.timer_ns,
            on_round=finished.append,
        )
        judged = found.judged(protocol=PROTOCOL, rng=rng)["net"]
        assert judged.num_outliers == len(disturbed)
        assert judged.median_ns == 1000
        assert bool(judged.reasons) == suspect


def test_the_protocols_least_number_of_runs_and_busy_time_are_kept(machine: Machine, rng: np.random.Generator) -> None:
    for changes, rounds in (({"min_runs": 100}, 25), ({"min_busy_seconds": 6e-4}, 15)):
        found = time_interleaved(
            {"a": machine.network("a", costs_ns=steady(10_000))},
            reference="a",
            protocol=replace(PROTOCOL, **changes),
            rng=rng,
            clock=machine,
            timer_ns=machine.timer_ns,
        )
        assert rounds <= len(found.times["a"].raw_ns) <= rounds + 3


def test_interleaving_keeps_the_order_of_networks_on_a_machine_that_slows_down(
    machine: Machine, rng: np.random.Generator
) -> None:
    def slowing(cost_ns: float) -> Callable[[], float]:
        return lambda: cost_ns * (1 + machine.now_ns / 3e6)

    costs = {f"net{n}": 1000.0 + 20 * n for n in range(8)}
    runners = {name: machine.network(name, costs_ns=slowing(cost)) for name, cost in costs.items()}
    found = time_interleaved(
        runners,
        reference="net0",
        protocol=replace(PROTOCOL, max_rounds=20, min_rounds=20),
        rng=rng,
        clock=machine,
        timer_ns=machine.timer_ns,
    )
    medians = [float(np.median(found.times[name].round_medians_ns)) for name in costs]
    assert found.drift != 0
    assert stats.spearmanr(medians, list(costs.values())).statistic > 0.9
    # One network after the other, the same machine makes the last one look slower by far more than it is.
    assert max(medians) / min(medians) < 1.3


def test_the_garbage_collector_is_off_while_timing_and_back_on_after(
    machine: Machine, rng: np.random.Generator
) -> None:
    seen: list[bool] = []

    def run() -> None:
        seen.append(gc.isenabled())
        machine.now_ns += 10

    assert gc.isenabled()
    time_interleaved({"a": run}, reference="a", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns)
    assert not any(seen)
    assert gc.isenabled()


def test_a_failing_network_is_named_and_the_garbage_collector_comes_back(
    machine: Machine, rng: np.random.Generator
) -> None:
    def explode() -> None:
        raise ValueError("out of registers")

    runners = {"good": machine.network("good", costs_ns=steady(10)), "bad-one": explode}
    with pytest.raises(MeasurementError, match="'bad-one' failed while it was warmed up: out of registers") as caught:
        time_interleaved(runners, reference="good", protocol=PROTOCOL, rng=rng, clock=machine)
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, ValueError)
    assert gc.isenabled()


def test_errors_of_ours_and_ctrl_c_pass_unchanged(rng: np.random.Generator) -> None:
    def lost() -> None:
        raise DeviceError("lost", hint="h")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(DeviceError, match=r"^lost$"):
        time_interleaved({"a": lost}, reference="a", protocol=PROTOCOL, rng=rng)
    with pytest.raises(KeyboardInterrupt):
        time_interleaved({"a": interrupted}, reference="a", protocol=PROTOCOL, rng=rng)


def test_a_reference_that_is_not_there_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(MeasurementError, match="'ref' is not among the 0"):
        time_interleaved({}, reference="ref", protocol=get_protocol("quick"), rng=rng)


@pytest.mark.parametrize("num_rounds", [10, 25])
def test_the_interval_agrees_with_scipys_bootstrap(num_rounds: int) -> None:
    medians = np.random.default_rng(3).lognormal(0.0, 0.1, num_rounds)
    low, high = bootstrap_median_interval(medians, level=0.95, rng=np.random.default_rng(0))
    other = stats.bootstrap(
        (medians,), np.median, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    # Medians of samples jump from value to value, so it is the tails beyond our bounds that are compared.
    samples = other.bootstrap_distribution
    assert low < np.median(medians) < high
    assert np.mean(samples < low - 1e-12) <= 0.025 + 0.015
    assert np.mean(samples <= low + 1e-12) >= 0.025 - 0.015
    assert np.mean(samples > high + 1e-12) <= 0.025 + 0.015
    assert np.mean(samples >= high - 1e-12) >= 0.025 - 0.015


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_median_interval(rng.normal(10.0, 1.0, 12), level=0.95, rng=rng)
        covered += low <= 10.0 <= high
    assert 0.88 <= covered / 300 <= 0.995


def test_a_higher_level_gives_a_wider_interval_and_the_same_seed_the_same_one() -> None:
    medians = np.random.default_rng(0).normal(10.0, 1.0, 20)

    def interval(level: float) -> tuple[float, float]:
        return bootstrap_median_interval(medians, level=level, rng=np.random.default_rng(0))

    assert interval(0.8) == interval(0.8)
    assert interval(0.99)[0] <= interval(0.8)[0] < interval(0.8)[1] <= interval(0.99)[1]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0], [3.0, 4.0]]])
def test_an_interval_of_too_little_or_not_finite_values_is_refused(values: list[object]) -> None:
    with pytest.raises(MeasurementError, match="at least 2 finite"):
        bootstrap_median_interval(np.array(values, dtype=np.float64), level=0.95, rng=np.random.default_rng(0))


@pytest.fixture(autouse=True)
def _garbage_collector_is_left_alone() -> Iterator[None]:
    yield
    assert gc.isenabled()


def test_a_session_lasts_at_least_as_long_as_the_protocol_asks(machine: Machine, rng: np.random.Generator) -> None:
    runners = {
        "steady": machine.network("steady", costs_ns=steady(1000)),
        "ref": machine.network("ref", costs_ns=steady(500)),
    }
    start_s = machine.monotonic_s()
    found = time_interleaved(
        runners,
        reference="ref",
        protocol=replace(PROTOCOL, min_seconds=0.001, max_rounds=10**6),
        rng=rng,
        clock=machine,
        timer_ns=machine.timer_ns,
    )
    assert machine.monotonic_s() - start_s >= 0.001
    assert len(found.times["steady"].raw_ns) > 10


def test_the_energy_of_a_run_is_that_of_its_own_turns(
    machine: Machine, rng: np.random.Generator, tmp_path: Path
) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "0"), ("max_energy_range_uj", str(10**12))):
        (zone / name).write_text(text)

    def using(name: str, *, microjoules: int) -> Callable[[], None]:
        run = machine.network(name, costs_ns=steady(1000))

        def run_and_count() -> None:
            run()
            counter = zone / "energy_uj"
            counter.write_text(str(int(counter.read_text()) + microjoules))

        return run_and_count

    runners = {"a": using("a", microjoules=3000), "ref": using("ref", microjoules=500)}
    energy = RaplReader(root=tmp_path, clock=machine)
    found = time_interleaved(
        runners, reference="ref", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns, energy=energy
    )
    assert found.times["a"].energy_mj == pytest.approx(3.0)
    assert found.times["ref"].energy_mj == pytest.approx(0.5)


def test_without_a_counter_there_is_no_energy(machine: Machine, rng: np.random.Generator, tmp_path: Path) -> None:
    runners = {"a": machine.network("a", costs_ns=steady(1000))}
    for energy in (None, RaplReader(root=tmp_path, clock=machine)):
        found = time_interleaved(
            runners, reference="a", protocol=PROTOCOL, rng=rng, clock=machine, timer_ns=machine.timer_ns, energy=energy
        )
        assert found.times["a"].energy_mj is None


@pytest.mark.parametrize("shared", [True, False])
def test_a_network_is_corrected_without_drift_where_that_narrows_its_interval(
    shared: bool, rng: np.random.Generator
) -> None:
    # The host is up to a third slower in some rounds, at random; the probes see that, or see only noise of their own.
    speed_R = 1 + rng.random(40) / 3
    seen_R = speed_R if shared else 1 + rng.random(40) / 3
    medians_KR = (1000 * speed_R if shared else 1000 + rng.random(40))[None]
    (found,) = judge(medians_KR, slowdown_KR=seen_R[None], drift=0.01, protocol=PROTOCOL, rng=rng)
    assert found.corrected == shared
    assert found.width < 0.01
    assert found.median_ns == pytest.approx(1000, rel=0.01)
    (drifted,) = judge(medians_KR, slowdown_KR=seen_R[None], drift=0.06, protocol=PROTOCOL, rng=rng)
    assert drifted.corrected
    (lost,) = judge(medians_KR, slowdown_KR=seen_R[None], drift=0.6, protocol=PROTOCOL, rng=rng)
    assert not lost.corrected
    assert lost.reasons
