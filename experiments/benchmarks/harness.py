"""What all benchmarks share: arguments, figures with their targets, tables, the machine's facts and the JSON file.

A benchmark is a module with a `main` like this one:

    def main(argv: Sequence[str] | None = None) -> int:
        parser = benchmark_parser("fbnet", description=__doc__, seeds=10)
        parser.add_argument("--device", default="gold_6226")                       # its own arguments, if any
        options, report = start(parser, argv)
        table = report.data_file("fbnet/latency.csv")                              # None if absent: the part is skipped
        if table is not None:
            report.add("fbnet/task3/n20/ours/spearman", 0.93, at_least=0.90)       # a figure with a target
            report.add("fbnet/task3/n20/ridge/spearman", 0.88)                     # a figure without one
            report.show("FBNet, task 3", headings=["method", "Spearman"], rows=[["ours", "0.930"], ["ridge", "0.880"]])
        return report.finish()

    if __name__ == "__main__":
        raise SystemExit(main())

Keys of figures are paths `case/method/metric`. The file holds {"figures": {key: value}, "targets": {key: {"value",
"at_most" or "at_least", "met"}}, "environment": {...}}; what was skipped, and why, is in the environment. A benchmark
that draws puts its pictures beside the file: `options.out.with_suffix(".svg")`.
"""

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hardware.files import JSON, write_json
from hardware.host import look_at_host

_PACKAGES = ("archsmith", "torch", "numpy", "optuna", "onnxruntime", "scikit-learn")
_WIDTH_OF_A_FILE = 140


def benchmark_parser(name: str, *, description: str | None, seeds: int = 1) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks have; add the benchmark's own to it.

    Args:
        name: the module's name.
        description: what is measured; the first paragraph of the text is shown by --help.
        seeds: default of --seeds: how often a part that depends on chance is repeated.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.benchmarks.{name}", description=(description or "").partition("\n\n")[0]
    )
    parser.set_defaults(benchmark=name)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="where the figures are written")
    parser.add_argument("--data", type=Path, metavar="DIR", help="published data; parts without their file are skipped")
    parser.add_argument(
        "--seeds", type=_positive, default=seeds, metavar="N", help="repetitions [default: %(default)s]"
    )
    parser.add_argument("--quick", action="store_true", help="a small part of it, for trying out")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed or a part is skipped")
    parser.add_argument(
        "--torch-threads", type=_positive, metavar="N", help="threads of torch in this process [default: torch's own]"
    )
    return parser


def start(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, "BenchmarkReport"]:
    """Parse the arguments, set torch's threads and open the report.

    Args:
        parser: from `benchmark_parser`.
        argv: arguments without the program's name; None reads the command line. Wrong usage exits with 2.
    """
    options = parser.parse_args(argv)
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data {options.data} is no directory")
    if options.torch_threads is not None:
        import torch

        torch.set_num_threads(options.torch_threads)
    return options, BenchmarkReport(options)


class BenchmarkReport:
    """Collects a benchmark's figures; `finish` shows the targets and writes the file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)
        self._figures: dict[str, JSON] = {}
        self._targets: dict[str, dict[str, JSON]] = {}
        self._skipped: dict[str, JSON] = {}
        self._facts: dict[str, JSON] = {}
        # The load before the benchmark itself makes some.
        self._host = look_at_host()
        self._started_s = time.monotonic()

    def add(
        self, key: str, value: float | str | None, *, at_most: float | None = None, at_least: float | None = None
    ) -> bool:
        """Record a figure.

        Args:
            key: path `case/method/metric`, used once.
            value: number, word, or None where there is none; NaN and infinity become None.
            at_most: target: the value must not exceed it. A value of None misses every target.
            at_least: target: the value must reach it.

        Returns:
            Whether the targets are met; True where there is none.
        """
        assert key not in self._figures, f"figure {key!r} was recorded twice"
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        self._figures[key] = value
        if at_most is None and at_least is None:
            return True
        met = isinstance(value, int | float) and not (
            (at_most is not None and value > at_most) or (at_least is not None and value < at_least)
        )
        limits: dict[str, JSON] = {"at_most": at_most, "at_least": at_least}
        self._targets[key] = {"value": value, **{k: v for k, v in limits.items() if v is not None}, "met": met}
        return met

    def note(self, name: str, fact: JSON) -> None:
        """Add a fact to the environment, for example a peer's version."""
        self._facts[name] = fact

    def skip(self, part: str, reason: str) -> None:
        """Say that a part is left out, and why or how to get what it needs; one line."""
        self._skipped[part] = reason
        self._console.print(f"[yellow]skipped[/yellow] {escape(part)}: {escape(reason)}", highlight=False)

    def data_file(self, name: str) -> Path | None:
        """The published data file `name` below --data; None, after a line that says so, if it is not there."""
        if self._options.data is None:
            self.skip(name, "no published data was named, pass --data DIR")
            return None
        path: Path = self._options.data / name
        if not path.is_file():
            self.skip(name, f"{path} does not exist")
            return None
        return path

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self._console.print(escape(text), highlight=False)

    def show(self, title: str, *, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; the first column is aligned to the left, the others to the right."""
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number else "left")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self._console.print(table)

    def finish(self) -> int:
        """Print the targets, write the file and return the exit code: 0, or 1 under --strict if something failed.

        Raises:
            StorageError: the file cannot be written.
        """
        missed = [key for key, target in self._targets.items() if not target["met"]]
        rows = []
        for key, target in self._targets.items():
            limits = [f"{sign} {target[k]:g}" for k, sign in (("at_least", ">="), ("at_most", "<=")) if k in target]
            value = target["value"]
            shown = f"{value:.4g}" if isinstance(value, int | float) else str(value)
            rows.append([key, shown, " and ".join(limits), "met" if target["met"] else "missed"])
        if rows:
            self.show("Targets", headings=["figure", "value", "target", ""], rows=rows)
        self.save()
        self.say(f"{len(self._targets) - len(missed)} of {len(self._targets)} targets met; wrote {self._options.out}")
        return 1 if self._options.strict and (missed or self._skipped) else 0

    def save(self) -> None:
        """Write what there is so far, so that a benchmark that is stopped leaves its figures.

        Raises:
            StorageError: the file cannot be written.
        """
        content: dict[str, JSON] = {
            "figures": self._figures,
            "targets": self._targets,
            "environment": self._environment(),
        }
        write_json(self._options.out, content)

    def _environment(self) -> dict[str, JSON]:
        return {
            "benchmark": self._options.benchmark,
            "quick": self._options.quick,
            "seeds": self._options.seeds,
            "utc_time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._started_s, 1),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: number for name in _PACKAGES if (number := _version(name)) is not None},
            "cpu_model": self._host.cpu_model,
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "load_average": self._host.load_average,
            "torch_threads": _torch_threads(),
            "skipped": self._skipped,
            **self._facts,
        }


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
