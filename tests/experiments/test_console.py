"""What the command line shows of a stage: one bar on a terminal, a line now and then elsewhere."""

import io

import pytest
from rich.console import Console

from experiments.console import ConsoleReporter, duration


class Watch:
    """`time.monotonic` of the console by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("experiments.console.time.monotonic", lambda: self.now)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def log() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, soft_wrap=True)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=160, _environ={"TERM": "xterm"})


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_one_plain_line_every_half_minute(watch: Watch) -> None:
    console = log()
    with ConsoleReporter(console) as reporter:
        reporter.stage("train", text="supernet, 8 epochs")
        for second in range(1, 71):
            watch.now += 1.0
            reporter.progress(10 * second, 2000, text=f"epoch {second}, [x]", seconds_left=200.0 - second)
        reporter.done("finished")
    assert text_of(console).splitlines() == [
        "train    supernet, 8 epochs",
        "         300 of 2,000, epoch 30, [x], 3 min left",
        "         600 of 2,000, epoch 60, [x], 2 min left",
        "         done finished (70 s)",
    ]


def test_every_stage_begins_its_half_minute_anew_and_ends_without_a_line_if_it_is_short(watch: Watch) -> None:
    console = log()
    with ConsoleReporter(console) as reporter:
        for name in ("profile", "search"):
            reporter.stage(name, text="something")
            for done in range(1, 21):
                watch.now += 1.0
                reporter.progress(done, 20)
            reporter.done("finished")
    assert len(text_of(console).splitlines()) == 4


def test_a_line_leaves_out_what_nobody_knows(watch: Watch) -> None:
    console = log()
    with ConsoleReporter(console) as reporter:
        reporter.stage("search", text="")
        watch.now += 31.0
        reporter.progress(5, 20)
    assert text_of(console).splitlines()[-1] == "         5 of 20"


def test_the_bar_shows_the_stages_own_estimate_and_no_other() -> None:
    console = terminal()
    with ConsoleReporter(console) as reporter:
        reporter.stage("train", text="supernet")
        # Steps of later phases take longer: rich would tell a few seconds.
        for step in range(1, 11):
            reporter.progress(10 * step, 100, text=f"epoch {step}", seconds_left=7 * 3600.0)
    shown = text_of(console)
    assert "100/100" in shown
    assert "epoch 10" in shown
    last = shown.rpartition("100/100")[2]
    assert last.count("left") == 1
    assert "7.0 h left" in last
    assert "0:00" not in shown
    assert "-:--" not in shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (44.6, "45 s"), (90.0, "2 min"), (720.0, "12 min"), (12_600.0, "3.5 h")]
)
def test_a_duration_has_the_unit_that_people_would_choose(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
