"""Prices: predicted latency, analytic counts, limits that cannot be met."""

import numpy as np
import pytest

from hardware.cost import analytic_costs, peak_activation_bytes
from nas.errors import InfeasibleError
from nas.pricing import LIMITS, Pricer, further_limit, require_reachable, search_limits, violations
from searchspaces import SpaceError, get_space
from tests.nas.tiny_run import NUM_CLASSES, SPACE, TinyRun, make_pricer


def test_a_price_has_the_predictors_latency_and_the_analytic_counts(profiled: TinyRun) -> None:
    pricer = make_pricer(profiled)
    archs = [SPACE.smallest, SPACE.largest, *SPACE.architectures(SPACE.sample_many(3, np.random.default_rng(5)))]
    prices = pricer.price(archs)
    prediction = profiled.predictor().predict(archs)
    table = SPACE.op_table(SPACE.genomes(archs), num_classes=NUM_CLASSES)
    costs = analytic_costs(table)
    for n, price in enumerate(prices):
        assert price.latency_predicted_ms == prediction.mean[n]
        assert (price.latency_predicted_low_ms, price.latency_predicted_high_ms) == (
            prediction.lower[n],
            prediction.upper[n],
        )
        assert price.in_range == prediction.in_range[n]
        assert (price.macs, price.params) == (costs.macs_N[n], costs.params_N[n])
        assert price.peak_memory_bytes == peak_activation_bytes(table)[n]
        assert "peak_memory_bytes" not in price.row()
        assert price.device_id == "onnxruntime-cpu"
    assert prices[0].macs < prices[1].macs


def test_the_counts_are_those_of_the_network_that_is_built(macs_pricer: Pricer) -> None:
    for arch in (SPACE.smallest, SPACE.largest):
        network = SPACE.build_supernet(num_classes=NUM_CLASSES).extract(arch)
        assert macs_pricer.price([arch])[0].params == sum(p.numel() for p in network.parameters())


def test_no_architectures_have_no_prices(macs_pricer: Pricer) -> None:
    assert macs_pricer.price([]) == []


def test_architectures_of_another_space_have_no_price(macs_pricer: Pricer) -> None:
    with pytest.raises(SpaceError, match="belongs to space 'mbconv-small'"):
        macs_pricer.price([get_space("mbconv-small").smallest])


def test_the_fastest_architecture_is_found_among_all(macs_pricer: Pricer) -> None:
    arch, price = macs_pricer.fastest(seed=0)
    everything_NG = np.unique(SPACE.sample_many(20_000, np.random.default_rng(0)), axis=0)
    assert price.latency_predicted_ms <= macs_pricer.predictor.predict(everything_NG).mean.min() * (1 + 1e-9)
    assert macs_pricer.price([arch])[0] == price


def test_costs_are_those_of_the_price(macs_pricer: Pricer) -> None:
    archs = SPACE.architectures(SPACE.sample_many(5, np.random.default_rng(2)))
    prices = macs_pricer.price(archs)
    assert list(macs_pricer.costs) == list(LIMITS)
    for name, cost in macs_pricer.costs.items():
        assert cost(SPACE.genomes(archs)).tolist() == [price.cost(name) for price in prices]


def test_memory_that_nothing_is_content_with_is_refused_with_the_least_one(macs_pricer: Pricer) -> None:
    least_bytes = macs_pricer.price([SPACE.smallest])[0].peak_memory_bytes
    limits = search_limits({"peak_memory_bytes": least_bytes / 2})
    with pytest.raises(InfeasibleError, match="peak_memory_bytes binds") as caught:
        require_reachable(SPACE, costs=macs_pricer.costs, limits=limits, seed=0)
    assert f"peak_memory_bytes {least_bytes:.6g} bytes (estimated, " in str(caught.value)


def test_a_further_device_has_a_price_and_a_cost(macs_pricer: Pricer) -> None:
    both = Pricer(SPACE, predictor=macs_pricer.predictor, num_classes=NUM_CLASSES, further=[macs_pricer.predictor])
    price = both.price([SPACE.smallest])[0]
    assert price.cost("latency_ms@macs") == price.latency_predicted_ms
    assert both.costs["latency_ms@macs"](SPACE.genomes([SPACE.smallest])).tolist() == [price.latency_predicted_ms]
    limits = [further_limit("macs", price.latency_predicted_ms / 2)]
    with pytest.raises(InfeasibleError, match=r"latency_ms@macs [\d.]+ ms \(predicted.*latency_ms@macs binds"):
        require_reachable(SPACE, costs=both.costs, limits=limits, seed=0)


def test_without_limits_everything_is_reachable(macs_pricer: Pricer) -> None:
    assert search_limits({"latency_ms": None, "macs": None, "params": None}) == ()
    require_reachable(SPACE, costs=macs_pricer.costs, limits=(), seed=0)
    assert violations(SPACE.genomes([SPACE.smallest]), costs=macs_pricer.costs, limits=()).tolist() == [0.0]


def test_limits_that_something_meets_pass(macs_pricer: Pricer) -> None:
    price = macs_pricer.price([SPACE.smallest])[0]
    limits = search_limits({name: price.cost(name) * 1.0001 for name in LIMITS})
    require_reachable(SPACE, costs=macs_pricer.costs, limits=limits, seed=0)
    assert len(limits) == len(LIMITS)
    assert violations(SPACE.genomes([SPACE.smallest]), costs=macs_pricer.costs, limits=limits) <= 0


def test_infeasible_limits_are_answered_with_the_smallest_values_and_what_binds(macs_pricer: Pricer) -> None:
    arch, price = macs_pricer.fastest(seed=0)
    fewest = macs_pricer.price([SPACE.smallest])[0].params
    limits = search_limits({"latency_ms": price.latency_predicted_ms / 2, "macs": None, "params": fewest * 1.5})
    with pytest.raises(InfeasibleError) as caught:
        require_reachable(SPACE, costs=macs_pricer.costs, limits=limits, seed=0)
    text = str(caught.value)
    assert f"meets latency_ms <= {price.latency_predicted_ms / 2:g} ms, params <= {fewest * 1.5:g};" in text
    assert f"latency_ms {price.latency_predicted_ms:.6g} ms (predicted, {arch.arch_id})" in text
    assert f"params {fewest:.6g} (estimated, " in text
    assert text.endswith("latency_ms binds")
    assert "raise latency_ms above" in caught.value.hint


def test_limits_that_can_only_be_met_one_at_a_time_bind_together(macs_pricer: Pricer) -> None:
    # A cost that is small where the network is large.
    ends = [macs_pricer.price([arch])[0].macs for arch in (SPACE.smallest, SPACE.largest)]
    costs = {**macs_pricer.costs, "params": lambda genomes_NG: sum(ends) - macs_pricer.costs["macs"](genomes_NG)}
    limits = search_limits({"macs": ends[0] * 1.01, "params": ends[0] * 1.01})
    with pytest.raises(InfeasibleError, match="macs and params bind together, each alone can be met"):
        require_reachable(SPACE, costs=costs, limits=limits, seed=0)


def test_a_limit_is_violated_relative_to_its_value() -> None:
    (limit,) = search_limits({"latency_ms": 2.0})
    assert limit.violation(3.0) == pytest.approx(0.5)
    assert limit.violation(2.0) == 0.0
    assert limit.violation(1.0) == pytest.approx(-0.5)
