"""What a person sees of a training while workers on some machine do it: the newest rows of its log as one line."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from experiments.reporter import Reporter
from nas.training.history import HistoryReader, HistoryRow
from nas.training.phases import SANDWICH, Phase

_POLL_SECONDS = 0.5


@contextmanager
def following(history: HistoryReader, *, phases: Sequence[Phase], reporter: Reporter) -> Iterator[None]:
    """Show the training log while a worker writes it."""
    stop = threading.Event()

    def follow() -> None:
        told = False
        extremes: HistoryRow | None = None
        while not stop.wait(_POLL_SECONDS):
            if rows := history.new_rows():
                row = rows[-1]
                extremes = next((one for one in reversed(rows) if "loss_largest" in one), extremes)
                text = progress_text(row, extremes=extremes, phases=phases)
                reporter.progress(row["step"], row["num_steps"], text=text, seconds_left=row["eta_seconds"])
                if row["rollbacks"] and not told:
                    reporter.message("numbers overflowed: training went back, and goes on at half the learning rate")
                    told = True

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def progress_text(row: HistoryRow, *, extremes: HistoryRow | None, phases: Sequence[Phase]) -> str:
    """What the bar says of a training.

    Args:
        row: the newest one.
        extremes: the newest one that has losses of the largest and the smallest subnet.
        phases: of the training.
    """
    phase = f"{phases[int(row['phase']) - 1].name}, " if len(phases) > 1 else ""
    losses = f"loss {row['loss']:.3f}"
    if extremes is not None:
        on_validation = "score" in extremes and phases[int(extremes["phase"]) - 1].rule != SANDWICH
        losses += (
            f" ({'validation: ' if on_validation else ''}largest {extremes['loss_largest']:.3f}, "
            f"smallest {extremes['loss_smallest']:.3f})"
        )
    return f"{phase}epoch {row['epoch']:.0f}, {losses}, {row['images_per_second']:.0f} images/s"
