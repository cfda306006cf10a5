"""Measuring near the front: which subnets are open, and when it ends."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from nas import near_front
from nas.errors import RunError
from nas.materialise import Workbench
from nas.near_front import measure_near_front, open_subnets, possible_front
from nas.profile import ProfileSettings
from nas.run import Run
from searchspaces import Architecture
from tests.nas.predicted_run import empty_run, predicted_run

SETTINGS = ProfileSettings(fit=10, held_out=4, max_measured=20, max_mape_percent=5.0, protocol="quick", seed=0)


def rows(run: Run, points: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    """Evaluations with (accuracy, lowest, mean, highest latency)."""
    archs = list(dict.fromkeys(run.space.sample(np.random.default_rng(n)) for n in range(40)))
    return pd.DataFrame(
        [
            {
                "arch_id": arch.arch_id,
                "architecture": arch.to_json(),
                "accuracy": accuracy,
                "latency_predicted_low_ms": low,
                "latency_predicted_ms": mean,
                "latency_predicted_high_ms": high,
            }
            for arch, (accuracy, low, mean, high) in zip(archs, points, strict=False)
        ]
    )


def test_only_subnets_whose_place_is_undecided_are_open_the_least_certain_first(tmp_path: Path) -> None:
    table = rows(
        empty_run(tmp_path / "run"),
        [
            (0.9, 1.0, 1.1, 1.2),  # on the front
            (0.8, 0.9, 1.3, 2.0),  # slower than the first on average, but it may be faster
            (0.8, 1.3, 1.4, 1.5),  # slower than the first for sure, and worse
            (0.95, 2.0, 2.2, 2.4),  # on the front or behind the next one, and measured
            (0.95, 2.3, 2.4, 2.5),  # just as accurate, and perhaps as fast
            (float("nan"), 0.1, 0.2, 0.3),  # its evaluation failed
            (0.7, 0.5, 0.6, 0.7),  # on the front, apart from all others
        ],
    )
    found = open_subnets(table, measured={table["arch_id"][3]})
    # The first is on the front whatever its latency is, but that decides of the second.
    assert [arch.arch_id for arch in found] == list(table["arch_id"][[1, 0, 4]])
    assert {arch.arch_id for arch in possible_front(table)} == set(table["arch_id"][[0, 1, 3, 4, 6]])


class Device:
    """Measures nothing: every call reveals what the run's predictor says already."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.measured = run, cast(list[Architecture], [])
        monkeypatch.setattr(near_front, "measure_missing", self.measure)
        monkeypatch.setattr(near_front, "fit_profile", lambda *_, **__: ({}, None))
        monkeypatch.setattr(near_front, "store_profile", lambda *_: None)
        monkeypatch.setattr(
            near_front,
            "profiled_subnets",
            lambda *_, **__: pd.DataFrame({"arch_id": [arch.arch_id for arch in self.measured]}),
        )

    @property
    def bench(self) -> Workbench:
        return cast(
            Workbench, SimpleNamespace(run=self.run, device=SimpleNamespace(spec=SimpleNamespace(device_id="d")))
        )

    def measure(self, _: object, purposes: Mapping[Architecture, str], **__: Any) -> None:
        assert set(purposes.values()) == {"profile-fit"}
        self.measured.extend(purposes)


def measure(device: Device, *, budget: int) -> near_front.NearFront:
    return measure_near_front(
        device.bench, budget=budget, settings=SETTINGS, on_progress=lambda *_: None, on_message=lambda _: None
    )


def test_it_ends_when_the_ranking_stays_and_never_beyond_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(predicted_run(tmp_path / "run"), monkeypatch)
    one = measure(device, budget=1)
    assert (one.num_measured, one.settled) == (1, False)
    assert len(one.front) > 1
    more = measure(device, budget=100)
    assert more.settled
    # two batches at most, since no measurement changed anything
    assert more.num_measured <= 12
    ids = [arch.arch_id for arch in device.measured]
    assert len(set(ids)) == len(ids)


def test_nothing_evaluated_or_no_budget_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(empty_run(tmp_path / "run"), monkeypatch)
    with pytest.raises(RunError, match="no evaluated architectures"):
        measure(device, budget=5)
    with pytest.raises(RunError, match="a budget of 0 measurements"):
        measure(device, budget=0)
