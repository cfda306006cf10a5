"""Proxies, rank correlations against scipy's, and front regrets that can be checked by hand."""

import numpy as np
import pytest
from scipy import stats

from experiments.benchmarks.proxies import (
    PROXIES,
    _kendalls,
    _spearmans,
    front_regret,
    peaks_of,
    proxy_costs,
    rank_correlations,
)
from hardware.device import Device, DeviceSpec, find_backend
from hardware.roofline import Peaks
from searchspaces import get_space

HOST = Peaks(macs_per_s=4e10, bytes_per_s=1e10, source="measured")


def device(backend: str, *, precision: str = "fp32") -> Device:
    spec = DeviceSpec(device_id=f"{backend}-{precision}", backend=backend, precision=precision)
    return Device(spec=spec, backend=find_backend(backend))


@pytest.mark.parametrize("levels", [3, 1000])
def test_correlations_of_every_draw_are_those_of_scipy_ties_included(levels: int) -> None:
    rng = np.random.default_rng(levels)
    a_N = rng.integers(levels, size=14).astype(float)
    b_N = a_N + rng.integers(levels, size=14).astype(float)
    draws_DN = rng.integers(14, size=(25, 14))
    for compute, reference in ((_spearmans, stats.spearmanr), (_kendalls, stats.kendalltau)):
        expected_D = np.array([reference(a_N[draw_N], b_N[draw_N]).statistic for draw_N in draws_DN])
        np.testing.assert_allclose(compute(a_N, b_N, draws_DN), expected_D, rtol=1e-12)


def test_a_proxy_in_the_same_order_is_perfect_and_one_in_the_opposite_order_the_worst() -> None:
    cost_N = np.random.default_rng(0).random(20)
    for proxy_N, expected in ((np.sqrt(cost_N), 1.0), (-2.0 * cost_N, -1.0)):
        for found in rank_correlations(proxy_N, cost_N).values():
            assert (found.value, found.low, found.high) == pytest.approx((expected,) * 3)


def test_the_interval_holds_the_value_and_narrows_with_more_subnets() -> None:
    rng = np.random.default_rng(1)
    cost_N = rng.random(120)
    proxy_N = cost_N + 0.3 * rng.random(120)
    for name, many in rank_correlations(proxy_N, cost_N).items():
        few = rank_correlations(proxy_N[:12], cost_N[:12])[name]
        assert many.low < many.value < many.high < 1
        assert many.high - many.low < few.high - few.low


def test_a_constant_proxy_has_no_correlation() -> None:
    found = rank_correlations(np.ones(5), np.array([0.0, 1.0, 2.0, 3.0, 4.0]))["kendall"]
    assert np.isnan([found.value, found.low, found.high]).all()


def test_the_regret_of_a_small_front_by_hand() -> None:
    accuracy_N = np.array([0.5, 0.6, 0.7, 0.9])
    cost_N = np.array([1.0, 2.0, 3.0, 5.0])
    # Up to accuracy .5 and cost 5 the second dominates .1 x 3, the third .2 x 2, both .3 + .4 - .1 x 2 = .5.
    all_of_them = front_regret(accuracy_N, cost_N**2, cost_N)
    assert all_of_them.value == pytest.approx(0.0)
    assert (all_of_them.num_chosen, all_of_them.num_true) == (4, 4)
    assert all_of_them.reference == (0.5, 5.0)
    # For this proxy the third is cheaper than the second, which is lost: .4 of .5 is left.
    without_second = front_regret(accuracy_N, np.array([1.0, 4.0, 3.0, 5.0]), cost_N)
    assert without_second.value == pytest.approx(0.2)
    assert (without_second.num_chosen, without_second.num_true) == (3, 4)


def test_a_subnet_that_the_proxy_flatters_costs_what_it_costs() -> None:
    accuracy_N, cost_N = np.array([0.5, 0.8, 0.85, 0.9]), np.array([1.0, 2.0, 7.0, 10.0])
    proxy_N = np.array([1.0, 5.0, 0.5, 10.0])  # the third looks cheaper than the two before
    regret = front_regret(accuracy_N, proxy_N, cost_N)
    assert regret.num_chosen == 2
    assert regret.value == pytest.approx(1 - 0.35 * 3 / (0.3 * 8 + 0.05 * 3))


def test_regret_does_not_depend_on_the_order_and_is_never_negative() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        accuracy_N, proxy_N, cost_N = rng.random((3, 15))
        regret = front_regret(accuracy_N, proxy_N, cost_N)
        order = rng.permutation(15)
        assert 0 <= regret.value <= 1
        assert front_regret(accuracy_N[order], proxy_N[order], cost_N[order]).value == pytest.approx(regret.value)


def test_there_is_no_regret_where_nothing_can_be_gained() -> None:
    assert np.isnan(front_regret(np.array([0.5, 0.5]), np.array([1.0, 2.0]), np.array([1.0, 1.0])).value)


def test_the_proxies_of_a_space_and_what_is_missing_without_peaks() -> None:
    space = get_space("mbconv-small")
    table = space.op_table(space.sample_many(50, np.random.default_rng(0)))
    found = proxy_costs(table, peaks=HOST)
    assert tuple(found) == PROXIES
    assert {values_N.shape for values_N in found.values()} == {(50,)}
    np.testing.assert_array_equal(found["operators"], [len(table.graph(row).operators) for row in range(50)])
    assert set(PROXIES) - set(proxy_costs(table, peaks=None)) == {"roofline"}


def test_int8_has_the_ranks_of_fp32() -> None:
    space = get_space("mbconv-small")
    table = space.op_table(space.sample_many(50, np.random.default_rng(0)))
    peaks = peaks_of(device("onnxruntime-cpu", precision="int8"), host_peaks=HOST)
    fp32 = proxy_costs(table, peaks=HOST)["roofline"]
    np.testing.assert_allclose(proxy_costs(table, peaks=peaks)["roofline"], fp32 / 4)


def test_peaks_are_measured_given_or_unknown() -> None:
    assert peaks_of(device("onnxruntime-cpu"), host_peaks=HOST) == HOST
    assert peaks_of(device("onnxruntime-cpu"), host_peaks=None) is None
    assert peaks_of(device("torch-cuda"), host_peaks=HOST) is None
    accelerator = peaks_of(device("ethos-u85-256", precision="int8"), host_peaks=None)
    assert accelerator == Peaks(macs_per_s=256e9, bytes_per_s=32e9, precision="int8")
    assert peaks_of(device("cortex-m4", precision="int8"), host_peaks=HOST) == Peaks(
        macs_per_s=2e9, bytes_per_s=4e9, precision="int8"
    )
