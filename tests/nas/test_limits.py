"""Limits read from a recipe and held against tables."""

import math
from pathlib import Path

import pandas as pd
import pytest

from nas.errors import RunError
from nas.limits import recipe_limits, within_limits
from nas.objectives import Limit
from nas.run import Run
from tests.nas.predicted_run import add_device, predicted_run

RECIPE = "name: test\nsearch:\n  limits: {latency_ms: %s, macs: null, params: null}\n"


def limit(run: Run, latency_ms: float) -> None:
    run.recipe_path.write_text(RECIPE % f"{latency_ms:.12f}", encoding="utf-8")


@pytest.mark.parametrize("text", ["", "name: tiny\n", "search: {evaluations: 3}\n", "search: {limits: null}\n"])
def test_a_recipe_without_limits_has_none(text: str) -> None:
    assert recipe_limits(text) == ()


def test_the_limits_of_a_recipe_are_read_and_a_damaged_one_is_refused() -> None:
    assert recipe_limits(RECIPE % 0.5) == (Limit(name="latency_ms", value=0.5, unit="ms"),)
    with pytest.raises(RunError, match="cannot be read"):
        recipe_limits("search: {")


def test_rows_at_a_limit_are_within_and_failed_ones_are_not() -> None:
    rows = pd.DataFrame({"latency_ms": [1.0, 1.1, math.nan], "macs": [5, 5, 5]})
    limits = [Limit(name="latency_ms", value=1.0, unit="ms"), Limit(name="macs", value=5, unit="")]
    assert within_limits(rows, limits, latency="latency_ms").tolist() == [True, False, False]
    assert within_limits(rows, (), latency="latency_ms").all()


def test_a_limit_set_later_holds_for_every_front_of_its_device(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    add_device(run, "parallel")
    before = run.front()
    middle = before.points[len(before.points) // 2].latency_ms
    limit(run, middle)
    after = run.front()
    assert [point.candidate for point in after.points] == [p.candidate for p in before.points if p.latency_ms <= middle]
    assert len(after.points) < len(before.points)
    assert all(point.latencies["d"].latency_ms <= middle for point in run.joint_front().points)
    # its latency is that of the recipe's device
    assert run.limits("parallel") == ()
    assert run.front(device="parallel").points[-1].latency_ms > 0
    limit(run, 1e-9)
    assert run.front().points == ()
