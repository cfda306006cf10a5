"""Roofline times by hand, and the calibration with a clock that the test sets."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from hardware.cost import analytic_costs
from hardware.errors import MeasurementError
from hardware.roofline import Peaks, measure_peaks, roofline_ms
from searchspaces import get_space, list_spaces
from searchspaces.graph import OpTable, OpTableBuilder


def two_operators() -> OpTable:
    """One that computes (1,000 MACs, 30 elements moved), and one that moves 300 elements, in the first network only."""
    build = OpTableBuilder(2, network_input_elements=10)
    build.add("conv", kind="conv", stage=0, macs=1000, params=10, input_elements=10, output_elements=10)
    present_N = np.array([True, False])
    build.add("pool", kind="pool", stage=0, macs=0, params=0, input_elements=10, output_elements=290, present=present_N)
    return build.build()


def test_each_operator_takes_the_longer_of_computing_and_moving() -> None:
    # fp32: 1,000 MACs take 10 s, their 120 bytes 1.2 s; the 1,200 bytes of the pool 12 s
    peaks = Peaks(macs_per_s=100.0, bytes_per_s=100.0)
    np.testing.assert_allclose(roofline_ms(two_operators(), peaks=peaks), [22_000.0, 10_000.0])
    # with a tenth of the bandwidth the convolution waits for its bytes, too
    peaks = Peaks(macs_per_s=100.0, bytes_per_s=10.0)
    np.testing.assert_allclose(roofline_ms(two_operators(), peaks=peaks), [132_000.0, 12_000.0])


def test_int8_moves_a_quarter_of_the_bytes() -> None:
    peaks = Peaks(macs_per_s=100.0, bytes_per_s=10.0, precision="int8")
    np.testing.assert_allclose(roofline_ms(two_operators(), peaks=peaks), [40_000.0, 10_000.0])


@pytest.mark.parametrize("name", list_spaces())
def test_no_time_is_shorter_than_all_arithmetic_or_all_traffic(name: str) -> None:
    space = get_space(name)
    table = space.op_table(space.sample_many(2000, np.random.default_rng(0)))
    peaks = Peaks(macs_per_s=3e10, bytes_per_s=1e10)
    times_N = roofline_ms(table, peaks=peaks)
    costs = analytic_costs(table)
    compute_N, memory_N = 1e3 * costs.macs_N / 3e10, 1e3 * costs.bytes_moved_N / 1e10
    assert times_N.shape == (2000,)
    assert (times_N >= np.maximum(compute_N, memory_N) * (1 - 1e-12)).all()
    assert (times_N <= (compute_N + memory_N) * (1 + 1e-12)).all()


def ticking(durations_ns: Iterator[int]) -> Callable[[], int]:
    """A clock whose every second reading is one of `durations_ns` after the one before."""
    now = 0
    steps = itertools.chain.from_iterable((0, duration) for duration in durations_ns)

    def read() -> int:
        nonlocal now
        now += next(steps)
        return now

    return read


def test_the_peaks_are_those_of_the_best_turn_and_the_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    products = [50, 40, 32, *[60] * 7]
    copies = [9, 7, 8, *[20] * 7]
    peaks = measure_peaks(threads=1, timer_ns=ticking(iter([n * 1_000_000 for n in products + copies])))
    assert peaks.macs_per_s == pytest.approx(1024**3 / 32e-3)
    assert peaks.bytes_per_s == pytest.approx(2 * 128 * 2**20 / 7e-3)
    assert peaks.source == "measured"
    assert torch.get_num_threads() == before


def test_this_machine_has_peaks() -> None:
    peaks = measure_peaks()
    assert (peaks.source, peaks.precision) == ("measured", "fp32")
    # A machine with less than a thousandth of a gigabyte a second, or more than a million, was measured wrong.
    assert 1e6 < peaks.bytes_per_s < 1e15
    assert 1e6 < peaks.macs_per_s < 1e15


def test_a_clock_that_stands_still_is_refused_and_the_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(MeasurementError, match="clock stood still") as refusal:
        measure_peaks(threads=1, timer_ns=lambda: 5)
    assert refusal.value.hint
    assert torch.get_num_threads() == before


def test_fewer_than_one_thread_is_refused() -> None:
    with pytest.raises(MeasurementError, match="threads is 0"):
        measure_peaks(threads=0)


@pytest.mark.parametrize(
    ("macs_per_s", "bytes_per_s", "named"),
    [(0.0, 1.0, "macs_per_s is 0.0"), (float("nan"), 1.0, "macs_per_s is nan"), (1.0, -1.0, "bytes_per_s is -1.0"),
     (1.0, float("inf"), "bytes_per_s is inf")],
)  # fmt: skip
def test_a_peak_that_is_none_is_refused(macs_per_s: float, bytes_per_s: float, named: str) -> None:
    with pytest.raises(MeasurementError, match=named) as refusal:
        Peaks(macs_per_s=macs_per_s, bytes_per_s=bytes_per_s)
    assert "measure_peaks" in refusal.value.hint


def test_peaks_of_an_unknown_precision_are_refused() -> None:
    with pytest.raises(MeasurementError, match="'fp16'"):
        Peaks(macs_per_s=1.0, bytes_per_s=1.0, precision="fp16")
