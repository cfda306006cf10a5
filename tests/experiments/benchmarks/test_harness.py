"""The frame of the benchmarks: figures, targets, skipped parts, exit codes and the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start


def open_report(path: Path, *arguments: str) -> BenchmarkReport:
    parser = benchmark_parser("example", description="What it measures.\n\nMore.", seeds=3)
    return start(parser, ["--out", str(path), *arguments])[1]


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_the_file_holds_figures_targets_and_the_environment(tmp_path: Path) -> None:
    report = open_report(tmp_path / "deep" / "out.json", "--quick", "--torch-threads", "1")
    assert report.add("a/ours/spearman", 0.9, at_least=0.8)
    assert report.add("a/peer/spearman", 0.7)
    report.note("peer_version", "1.2")
    assert report.finish() == 0
    content = read(tmp_path / "deep" / "out.json")
    assert list(content) == ["figures", "targets", "environment"]
    assert content["figures"] == {"a/ours/spearman": 0.9, "a/peer/spearman": 0.7}
    assert content["targets"] == {"a/ours/spearman": {"value": 0.9, "at_least": 0.8, "met": True}}
    environment = content["environment"]
    assert environment["benchmark"] == "example"
    assert environment["seeds"] == 3
    assert environment["quick"] is True
    assert environment["torch_threads"] == 1
    assert environment["peer_version"] == "1.2"
    assert environment["cpu_model"]
    assert "torch" in environment["packages"]


@pytest.mark.parametrize(
    ("value", "at_most", "at_least", "met"),
    [(1.0, 1.0, None, True), (1.1, 1.0, None, False), (1.0, None, 1.0, True), (0.9, None, 1.0, False),
     (1.5, 2.0, 1.0, True), (2.5, 2.0, 1.0, False), (float("nan"), 1.0, None, False), (None, None, 1.0, False)],
)  # fmt: skip
def test_a_target_is_met_on_its_limit_and_never_by_a_missing_number(
    tmp_path: Path, value: float | None, at_most: float | None, at_least: float | None, met: bool
) -> None:
    report = open_report(tmp_path / "out.json")
    assert report.add("case/method/metric", value, at_most=at_most, at_least=at_least) is met
    report.finish()
    assert read(tmp_path / "out.json")["targets"]["case/method/metric"]["met"] is met


def test_a_missed_target_fails_only_under_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (([], 0), (["--strict"], 1)):
        report = open_report(tmp_path / "out.json", *arguments)
        report.add("case/ours/error", 2.0, at_most=1.0)
        assert report.finish() == code
    assert "missed" in capsys.readouterr().out


def test_a_skipped_part_is_told_and_fails_only_under_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (([], 0), (["--strict"], 1)):
        report = open_report(tmp_path / "out.json", *arguments)
        report.skip("part [1]", "needs a peer: pip install peer")
        assert report.finish() == code
    assert read(tmp_path / "out.json")["environment"]["skipped"] == {"part [1]": "needs a peer: pip install peer"}
    assert "skipped part [1]: needs a peer" in capsys.readouterr().out


def test_an_absent_data_file_is_skipped_and_a_present_one_found(tmp_path: Path) -> None:
    (tmp_path / "here.csv").write_text("x")
    without = open_report(tmp_path / "out.json")
    assert without.data_file("here.csv") is None
    report = open_report(tmp_path / "out.json", "--data", str(tmp_path))
    assert report.data_file("here.csv") == tmp_path / "here.csv"
    assert report.data_file("gone.csv") is None
    report.finish()
    assert list(read(tmp_path / "out.json")["environment"]["skipped"]) == ["gone.csv"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--out", "x.json", "--seeds", "0"],
        ["--out", "x.json", "--seeds", "many"],
        ["--out", "x.json", "--data", "/no/such"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        start(benchmark_parser("example", description=None), arguments)
    assert error.value.code == 2
    assert "usage: python -m experiments.benchmarks.example" in capsys.readouterr().err
