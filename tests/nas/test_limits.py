"""Limits read from a recipe and held against tables."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware.cost import peak_activation_bytes
from nas.errors import RunError
from nas.limits import recipe_limits, with_peak_memory, within_limits
from nas.objectives import Limit
from nas.run import Run
from searchspaces import Architecture
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
    # its latency is that of the recipe's device, others have limits of their own
    assert run.limits("parallel") == ()
    assert run.front(device="parallel").points[-1].latency_ms > 0
    limit(run, 1e-9)
    assert run.front().points == ()


def test_a_further_device_has_a_limit_on_latency_of_its_own(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    add_device(run, "parallel")
    own, before = run.front(), run.front(device="parallel")
    middle = before.points[len(before.points) // 2].latency_ms
    devices = f"devices: [{{id: parallel, limits: {{latency_ms: {middle:.12f}}}}}, {{id: other}}]\n"
    run.recipe_path.write_text(RECIPE % "null" + devices, encoding="utf-8")
    assert [str(limit) for limit in run.limits("parallel")] == [f"latency_ms <= {middle:g} ms"]
    assert run.limits("d") == run.limits("other") == ()
    assert [point.candidate for point in run.front().points] == [point.candidate for point in own.points]
    kept = [point.candidate for point in run.front(device="parallel").points]
    assert kept == [point.candidate for point in before.points if point.latency_ms <= middle * (1 + 1e-9)]
    joint = run.joint_front().points
    assert joint
    assert all(point.latencies["parallel"].latency_ms <= middle * (1 + 1e-9) for point in joint)


def test_a_limit_on_memory_is_held_against_what_is_counted(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    before = run.front()
    genomes_NG = run.space.genomes([Architecture.from_json(point.architecture) for point in before.points])
    peak_N = peak_activation_bytes(run.space.op_table(genomes_NG, num_classes=7))
    limit_bytes = int(np.median(peak_N))
    assert peak_N.min() <= limit_bytes < peak_N.max()
    assert "peak_memory_bytes" not in run.evaluations_on("d")
    run.recipe_path.write_text(f"search: {{limits: {{peak_memory_bytes: {limit_bytes}}}}}\n", encoding="utf-8")
    ids = {point.candidate for point, peak in zip(before.points, peak_N, strict=True) if peak <= limit_bytes}
    after = {point.candidate: point for point in run.front().points}
    assert ids <= set(after)
    assert not ({point.candidate for point in before.points} - ids) & set(after)
    assert {point.arch_id for point in run.joint_front().points} == {point.arch_id for point in after.values()}
    # an element of int8 takes a quarter
    rows = run.evaluations_on("d")
    small = with_peak_memory(rows, space=run.space, num_classes=7, precision="int8")
    assert (4 * small["peak_memory_bytes"]).tolist() == rows["peak_memory_bytes"].tolist()
