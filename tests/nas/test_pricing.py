"""Prices: predicted latency, analytic counts, limits that cannot be met."""

import numpy as np
import pytest

from hardware.cost import analytic_costs
from nas.errors import InfeasibleError
from nas.pricing import Pricer, latency_limit, require_reachable
from searchspaces import SpaceError, get_space
from tests.nas.tiny_run import NUM_CLASSES, SPACE, TinyRun, make_pricer


def test_a_price_has_the_predictors_latency_and_the_analytic_counts(profiled: TinyRun) -> None:
    pricer = make_pricer(profiled)
    archs = [SPACE.smallest, SPACE.largest, *SPACE.architectures(SPACE.sample_many(3, np.random.default_rng(5)))]
    prices = pricer.price(archs)
    prediction = profiled.predictor().predict(archs)
    costs = analytic_costs(SPACE.op_table(SPACE.genomes(archs), num_classes=NUM_CLASSES))
    for n, price in enumerate(prices):
        assert price.latency_predicted_ms == prediction.mean[n]
        assert (price.latency_predicted_low_ms, price.latency_predicted_high_ms) == (
            prediction.lower[n],
            prediction.upper[n],
        )
        assert price.in_range == prediction.in_range[n]
        assert (price.macs, price.params) == (costs.macs_N[n], costs.params_N[n])
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


def test_without_a_limit_everything_is_reachable(macs_pricer: Pricer) -> None:
    assert latency_limit(None) is None
    require_reachable(macs_pricer, limit=None, seed=0)


def test_a_limit_that_something_meets_passes(macs_pricer: Pricer) -> None:
    _, price = macs_pricer.fastest(seed=0)
    limit = latency_limit(price.latency_predicted_ms * 1.0001)
    assert limit is not None
    assert limit.violation(price.latency_predicted_ms) < 0
    require_reachable(macs_pricer, limit=limit, seed=0)


def test_an_infeasible_limit_names_the_smallest_reachable_latency(macs_pricer: Pricer) -> None:
    arch, price = macs_pricer.fastest(seed=0)
    with pytest.raises(InfeasibleError) as caught:
        require_reachable(macs_pricer, limit=latency_limit(price.latency_predicted_ms / 2), seed=0)
    reachable = f"{price.latency_predicted_ms:.4g} ms"
    assert f"the smallest reachable latency is {reachable} (predicted, {arch.arch_id})" in str(caught.value)
    assert f"latency_ms <= {price.latency_predicted_ms / 2:g} ms" in str(caught.value)
    assert f"search.limits.latency_ms above {reachable}" in caught.value.hint


def test_a_limit_is_violated_relative_to_its_value() -> None:
    limit = latency_limit(2.0)
    assert limit is not None
    assert limit.violation(3.0) == pytest.approx(0.5)
    assert limit.violation(2.0) == 0.0
    assert limit.violation(1.0) == pytest.approx(-0.5)
