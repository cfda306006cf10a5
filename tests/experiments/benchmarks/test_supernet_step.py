"""The benchmark of training steps, without the reference package."""

import json
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import supernet_step
from experiments.benchmarks.supernet_step import (
    CASES,
    LEAST_ROUNDS,
    Case,
    PeerError,
    Reference,
    best_layout,
    main,
    measure,
    subnets,
)

TINY = Case(space_id="mbconv-small", resolution=16, batch=2, num_classes=3)


def test_every_way_has_one_time_a_round_and_the_first_round_is_dropped() -> None:
    turns_taken: list[str] = []

    def turn(name: str) -> float:
        turns_taken.append(name)
        return float(len(turns_taken))

    turns = {("supernet", "nchw"): lambda: turn("supernet"), ("static", "nchw"): lambda: turn("static")}
    times_ms = measure(turns, rounds=5, seconds=600.0, seed=0)
    assert [len(times) for times in times_ms.values()] == [5, 5]
    assert min(min(times) for times in times_ms.values()) == 3.0
    rounds = [turns_taken[start : start + 2] for start in range(0, 12, 2)]
    assert all(sorted(names) == ["static", "supernet"] for names in rounds)
    assert len({tuple(names) for names in rounds}) == 2  # in one order and in the other


def test_no_round_begins_after_the_time_once_there_are_enough() -> None:
    times_ms = measure({("supernet", "nchw"): lambda: 1.0}, rounds=100, seconds=0.0, seed=0)
    assert len(times_ms["supernet", "nchw"]) == LEAST_ROUNDS


def test_the_best_layout_has_the_lower_median() -> None:
    times_ms = {
        ("supernet", "channels-last"): [2.0, 2.0, 99.0],
        ("supernet", "nchw"): [1.0, 3.0, 3.0],
        ("static", "nchw"): [0.5, 0.5, 0.5],
    }
    assert best_layout(times_ms, "supernet") == ("supernet", "channels-last")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.space_id)
def test_the_middle_subnet_lies_between_the_others(case: Case) -> None:
    space = case.space()
    macs = {name: int(space.op_table(space.genomes([arch])).macs.sum()) for name, arch in subnets(space).items()}
    assert macs["smallest"] < macs["middle"] < macs["largest"]


def test_figures_without_the_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supernet_step, "QUICK_CASES", (TINY,))
    assert main(["--quick", "--torch-threads", "1", "--out", str(tmp_path / "out.json")]) == 0
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    for dtype in ("fp32", "bf16"):
        key = f"step/mbconv-small/largest/{dtype}"
        times_ms = [content["figures"][f"{key}/supernet/{layout}_ms"] for layout in ("channels-last", "nchw")]
        assert min(times_ms) > 0
        assert content["targets"][f"{key}/supernet_over_static"]["at_most"] == 1.05
    assert not any("reference" in key for key in content["figures"])
    assert "--reference-python" in content["environment"]["skipped"]["reference"]


def test_an_interpreter_without_the_package_is_reported() -> None:
    with pytest.raises(PeerError, match="exit code 1"):
        Reference(Path(sys.executable), CASES[-1], keeps_memory=True)


def test_an_interpreter_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="does not start"):
        Reference(tmp_path / "python", CASES[-1], keeps_memory=False)
