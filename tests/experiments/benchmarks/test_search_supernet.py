"""The supernet part of the search benchmark: judged once, verified alike, and paid for by the measurement."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.search.__main__ import main
from experiments.benchmarks.search.device_cost import Cost, Measured
from experiments.benchmarks.search.kept_scores import KeptScores
from experiments.benchmarks.search.supernet import compare_on_supernet
from experiments.benchmarks.search.supernet_runs import SupernetRuns
from hardware.cost import analytic_costs
from hardware.measurement import CostMeasurement
from nas import near_front
from nas.accuracy import Accuracy
from nas.candidate import Candidate
from nas.materialise import Workbench
from nas.near_front import possible_front
from nas.run import open_run
from nas.search.pool import SubnetScore
from searchspaces import Architecture, get_space
from tests.hardware.test_measurement import measurement

SPACE = get_space("nas-bench-macro")
ARCHS = list(dict.fromkeys(SPACE.sample(np.random.default_rng(n)) for n in range(12)))[:8]
# Accuracies on the two splits and latencies; no. 4 was promised more than is found, no. 5 is dominated everywhere.
SEARCHED = (0.70, 0.80, 0.85, 0.90, 0.88, 0.60)
VERIFIED = (0.70, 0.80, 0.85, 0.90, 0.75, 0.60)
LATENCY_MS = (1.0, 2.0, 3.0, 4.0, 3.5, 5.0)
# Predicted for 1 a little too much and for 4 too little, so that 4 seems to beat 2.
PREDICTED_MS = (1.0, 2.1, 3.0, 4.0, 2.9, 5.0)


def score(arch: Architecture, accuracy: float) -> SubnetScore:
    found = Accuracy(metric="top1", value=accuracy, interval=(0.0, 1.0), num_correct=1, num_images=2)
    return SubnetScore(arch_id=arch.arch_id, accuracy=found, seconds=0.25)


class CountingJudge:
    """Says how often it was asked for which architecture."""

    def __init__(self) -> None:
        self.asked: list[Architecture] = []

    def __call__(self, archs: Sequence[Architecture]) -> tuple[SubnetScore, ...]:
        self.asked += archs
        return tuple(score(arch, SEARCHED[ARCHS.index(arch)]) for arch in archs)


def test_each_subnet_is_judged_once_on_each_split_and_a_torn_line_is_judged_again(tmp_path: Path) -> None:
    path, search, verify = tmp_path / "work" / "judged.jsonl", CountingJudge(), CountingJudge()

    def kept(weights: str = "w") -> KeptScores:
        return KeptScores(path, weights=weights, judges={"search-5": search, "verify-7": verify})

    first = kept().judge(ARCHS[:2], split="search-5")
    assert first == kept().judge(ARCHS[:2], split="search-5")
    assert search.asked == ARCHS[:2]
    path.write_text(path.read_text()[:-9])
    again = kept()
    assert again.judge([ARCHS[1], ARCHS[0]], split="search-5") == first[::-1]
    again.judge(ARCHS[:1], split="verify-7")
    assert search.asked == [*ARCHS[:2], ARCHS[1]]
    assert (verify.asked, len(kept())) == (ARCHS[:1], 3)
    assert len(kept(weights="another")) == 0


class FakeRuns:
    """Searches that evaluated known architectures, and a device that knows their latencies."""

    def __init__(self) -> None:
        self.measured_ids: set[str] = set()
        self.verified_ids: set[str] = set()

    def facts(self) -> Mapping[str, str | int]:
        return {"space_id": "fake"}

    def profiled(self, name: str, *, share: float) -> Cost:
        return Cost(subnets=round(10 * share), seconds=20.0 * share)

    def searched(self, sampler: str, *, profiled: str, seed: int, evaluations: int) -> pd.DataFrame:
        order = [0, 1, 2, 4, 3, 5] if sampler == "surrogate" else [5, 0, 1, 4, 2]
        return self._rows(order[:evaluations], PREDICTED_MS)

    def actively_searched(
        self, *, profiled: str, share: float, seed: int, evaluations: int
    ) -> tuple[pd.DataFrame, Cost]:
        return self._rows([0, 1, 2, 4, 3, 5], LATENCY_MS), Cost(subnets=2, seconds=4.0)

    def measured(self, archs: Sequence[Architecture]) -> Measured:
        self.measured_ids = {arch.arch_id for arch in archs}
        latency_ms = {arch.arch_id: LATENCY_MS[ARCHS.index(arch)] for arch in archs}
        return Measured(latency_ms=latency_ms, num_suspect=1, cost=Cost(subnets=len(archs), seconds=2.0 * len(archs)))

    def verified(self, archs: Sequence[Architecture]) -> Mapping[str, float]:
        self.verified_ids = {arch.arch_id for arch in archs}
        return {arch.arch_id: VERIFIED[ARCHS.index(arch)] for arch in archs}

    def _rows(self, order: Sequence[int], latency_ms: Sequence[float]) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {
                    "arch_id": ARCHS[n].arch_id,
                    "architecture": ARCHS[n].to_json(),
                    "accuracy": SEARCHED[n],
                    "latency_predicted_ms": latency_ms[n],
                    "latency_predicted_low_ms": 0.8 * latency_ms[n],
                    "latency_predicted_high_ms": 1.2 * latency_ms[n],
                }
                for n in order
            ]
        )


@pytest.fixture
def report(tmp_path: Path) -> BenchmarkReport:
    return start(benchmark_parser("search", description=None), ["--out", str(tmp_path / "out.json")])[1]


def figures(report: BenchmarkReport, path: Path) -> dict[str, Any]:
    report.save()
    found = json.loads(path.read_text())["figures"]
    assert isinstance(found, dict)
    return found


def test_fronts_are_promised_by_prediction_and_scored_by_what_is_found(report: BenchmarkReport, tmp_path: Path) -> None:
    runs, out = FakeRuns(), tmp_path / "out.json"
    compare_on_supernet(report, cast(SupernetRuns, runs), samplers=["surrogate", "nsga2"], seeds=4, at=(2, 5), out=out)
    found = figures(report, out)
    # The worst one is on no front after two evaluations.
    assert runs.verified_ids == {ARCHS[n].arch_id for n in range(5)}
    # Scaled by the front of 0 to 3, (1, .9) to (4, .7): 0 and 1 alone leave out what 2 and 3 add.
    whole = 1.1 * 0.1 + (2 / 3 + 0.1) * 0.5 + (1 / 3 + 0.1) * 0.25 + 0.1 * 0.25
    early = 1.1 * 0.1 + (2 / 3 + 0.1) * 0.5
    assert found["supernet/surrogate/verified_hypervolume_at_2"] == pytest.approx(early / whole)
    # 4 was believed to beat 2, which therefore was not promised.
    assert found["supernet/surrogate/verified_hypervolume_at_5"] == pytest.approx((early + 0.1 * 0.5) / whole)
    assert found["supernet/surrogate/num_seeds"] == 4
    at_5 = [found[f"supernet/{name}/verified_hypervolume_at_5"] for name in ("surrogate", "nsga2")]
    assert found["supernet/surrogate_over_nsga2/verified_hypervolume_at_5"] == pytest.approx(at_5[0] / at_5[1])
    assert found["supernet/surrogate/evaluations_to_nsga2_at_5"] == 2
    assert "<polygon" in (tmp_path / "out-supernet.svg").read_text()


def test_ways_of_measuring_are_paid_by_the_measurement_at_the_mean_price(
    report: BenchmarkReport, tmp_path: Path
) -> None:
    runs, out = FakeRuns(), tmp_path / "out.json"
    compare_on_supernet(report, cast(SupernetRuns, runs), samplers=["surrogate"], seeds=4, at=(2, 6), out=out)
    found = figures(report, out)
    assert found["supernet/measured/device_seconds_per_subnet"] == pytest.approx(2.0)
    measurements = {way: found[f"supernet/measure_{way}/measurements"] for way in ("verify", "active", "everything")}
    # Verify: 10 of the profile and the 4 promised. Active: 5, 2 while searching, 5 promised. Everything: 10 and all 6.
    assert measurements == {"verify": 14, "active": 12, "everything": 16}
    assert found["supernet/measure_active/device_seconds"] == pytest.approx(24.0)
    assert found["supernet/measure_active_over_everything/device_seconds"] == pytest.approx(12 / 16)
    # Those who know that 4 is slower than 2 have promised 2 as well.
    assert found["supernet/measure_everything/verified_hypervolume"] == pytest.approx(1.0)
    assert found["supernet/measure_active/verified_hypervolume"] == pytest.approx(1.0)
    assert found["supernet/measure_verify/verified_hypervolume"] < 0.99
    assert found["supernet/measure_verify/num_seeds"] == 3
    # The worst one surely is on no front, so that nobody needs its latency.
    assert ARCHS[5].arch_id not in runs.measured_ids


def test_without_ours_nothing_is_said_of_measuring(report: BenchmarkReport, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    compare_on_supernet(report, cast(SupernetRuns, FakeRuns()), samplers=["nsga2"], seeds=1, at=(3,), out=out)
    found = figures(report, out)
    assert "supernet/nsga2/verified_hypervolume_at_3" in found
    assert not any("measure_" in key or "over" in key for key in found)


def test_without_a_run_or_with_none_that_is_one_the_part_says_what_it_needs(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--parts", "supernet", "--out", str(out)]
    assert main(arguments) == 0
    assert "--run RUN" in json.loads(out.read_text())["environment"]["skipped"]["supernet"]
    assert main([*arguments, "--run", str(tmp_path / "nothing")]) == 0
    assert "is not a run directory" in json.loads(out.read_text())["environment"]["skipped"]["supernet"]


class FakeDevice:
    """A device that needs a microsecond and a nanosecond for every MAC, and a second for every network of a session."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions: list[list[str]] = []
        monkeypatch.setattr(Workbench, "artifact", self.artifact)
        monkeypatch.setattr("nas.measure.measure_many", self.measure_many)

    @staticmethod
    def artifact(bench: Workbench, candidate: Candidate) -> object:
        space = bench.run.space
        macs = analytic_costs(space.op_table(space.genomes([candidate.architecture]))).macs_N[0]
        return SimpleNamespace(latency_ms=1e-3 + 1e-6 * float(macs))

    def measure_many(
        self, device: object, artifacts: Mapping[str, Any], *, on_session: Callable[[float], None], **_: object
    ) -> dict[str, CostMeasurement]:
        self.sessions.append(list(artifacts))
        on_session(float(len(artifacts)))
        return {
            name: measurement(
                session_id=f"{len(self.sessions):012x}",
                p50=one.latency_ms,
                p90=one.latency_ms,
                p99=1.1 * one.latency_ms,
                low=one.latency_ms,
                high=one.latency_ms,
                raw_ms=((one.latency_ms,),) * 10,
                suspect=False,
                suspect_reason="",
            )
            for name, one in artifacts.items()
        }


def all_of_the_front(rows: pd.DataFrame, *, measured: set[str]) -> list[Architecture]:
    return [arch for arch in possible_front(rows) if arch.arch_id not in measured]


def test_searches_share_what_was_judged_and_a_second_call_does_nothing_again(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, lines = FakeDevice(monkeypatch), list[str]()
    monkeypatch.setattr("nas.measure._require_same_machine", lambda _: None)
    # So few subnets lie too far apart for a place on the front to be undecided.
    monkeypatch.setattr(near_front, "open_subnets", all_of_the_front)

    def everything() -> tuple[list[pd.DataFrame], list[Cost], Measured]:
        runs = SupernetRuns(trained_run, directory=tmp_path / "work", say=lines.append)
        few = runs.profiled("few", share=0.25)
        passive = runs.searched("nsga2", profiled="few", seed=0, evaluations=6)
        active, cost = runs.actively_searched(profiled="few", share=0.25, seed=0, evaluations=6)
        measured = runs.measured([Architecture.from_json(text) for text in passive["architecture"]])
        verified = runs.verified([Architecture.from_json(text) for text in passive["architecture"][:2]])
        assert all(0.0 < value < 1.0 for value in verified.values())
        return [passive, active], [few, cost], measured

    tables, costs, measured = everything()
    assert [len(table) for table in tables] == [6, 6]
    # Sessions while searching have the reference beside what they are for; when profiling it is one of the subnets.
    assert costs[0] == Cost(subnets=14, seconds=14.0)
    assert costs[1].seconds > costs[1].subnets > 0
    assert set(measured.latency_ms) == set(tables[0]["arch_id"])
    lines_before, sessions_before = len(lines), len(device.sessions)
    kept = (tmp_path / "work" / "judged.jsonl").read_text().splitlines()
    of_search = {row["arch_id"] for row in map(json.loads, kept) if row["split"].startswith("search-")}
    assert of_search == {arch_id for table in tables for arch_id in table["arch_id"]}
    again, costs_again, measured_again = everything()
    assert (len(lines), len(device.sessions)) == (lines_before, sessions_before)
    for before, after in zip(tables, again, strict=True):
        pd.testing.assert_frame_equal(before, after)
    assert (costs_again, measured_again) == (costs, measured)
    # The run with the supernet is only read.
    assert not len(open_run(trained_run).evaluations())
    names = sorted(path.name for path in (tmp_path / "work" / "runs").iterdir())
    assert names == ["active-seed0", "few", "nsga2-seed0", "truth"]
