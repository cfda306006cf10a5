"""Do measurements repeat? The same subnets in two independent passes, on a quiet host and beside a process that burns.

Thirty subnets of `mbconv-small`, measured by the tool (interleaved rounds, its own checks, suspects measured again) and
the plain way (the mean of 100 runs, one network after the other, without warm-up rounds), twice each:

- quiet: Spearman's rank correlation and differences of the two passes;
- loaded: a second process burns a core. What the tool accepts (not suspect) is compared with its quiet values, and so
  is the time that it took; what it does not accept it has flagged.

Later passes are brought to the host's speed in the first one by the reference network, which takes part in all (a
virtual machine changes its speed by tens of percent for minutes); "as timed" are the values without that.

The host should have nothing else to do; the load before the start is written down.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many
from nas.calibrate import untrained_artifacts
from nas.profile import choose_subnets
from searchspaces import get_space

NAME = "repeatability"
PLAIN_RUNS = 100
_CLASSES = 10
_SETTLE_S = 2.0

Floats = npt.NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = benchmark_parser(NAME, description=__doc__)
    parser.add_argument("--device", default="onnxruntime-cpu", metavar="ID", help="[default: %(default)s]")
    parser.add_argument("--subnets", type=int, default=30, metavar="N", help="[default: %(default)s]")
    parser.add_argument("--protocol", default="standard", help="of the tool [default: %(default)s]")
    options, report = start(parser, argv)
    device = get_device(options.device)
    if device.backend.provenance != "measured":
        parser.error(f"--device {options.device} is {device.backend.provenance}: its costs are exact")
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        space = get_space("mbconv-small")
        archs = choose_subnets(space, num=6 if options.quick else options.subnets, seed=0)
        files = untrained_artifacts(
            device, space, archs, num_classes=_CLASSES, directory=Path(folder), on_progress=lambda done, total: None
        )
        artifacts = {arch.arch_id: artifact for arch, artifact in files.items()}
        return _Passes(device, artifacts, options=options, report=report).run()


class _Passes:
    """The benchmark's measurements of one set of files."""

    def __init__(
        self,
        device: Device,
        artifacts: Mapping[str, Artifact],
        *,
        options: argparse.Namespace,
        report: BenchmarkReport,
    ) -> None:
        self._device, self._artifacts, self._options, self._report = device, artifacts, options, report
        self._protocol = "quick" if options.quick else options.protocol

    def run(self) -> int:
        """Measure everything and report."""
        report = self._report
        first, first_s = self._timed(lambda: self._tool(seed=1))
        plain_first = self._plain()
        # One reference for all passes, so any record tells how fast the host was.
        reference_ms = next(iter(first.values())).comparable_reference_ms
        second, second_s = self._timed(lambda: self._tool(seed=2, reference_ms=reference_ms))
        plain_second = self._plain()
        quiet_N, again_N = _medians(first), _medians(second)
        num_suspect = sum(record.suspect for record in (*first.values(), *second.values()))
        report.add("repeatability/interleaved/quiet/suspect", num_suspect)
        self._compare("interleaved/quiet", quiet_N, again_N, targets=True)
        self._compare("interleaved/quiet/as_timed", _medians(first, as_timed=True), _medians(second, as_timed=True))
        self._compare("plain/quiet", plain_first, plain_second)
        with _burner():
            loaded, loaded_s = self._timed(lambda: self._tool(seed=3, reference_ms=reference_ms))
            plain_loaded = self._plain()
        accepted_N = np.array([not record.suspect for record in loaded.values()])
        errors_N = np.abs(_medians(loaded) / quiet_N - 1)
        report.add("repeatability/interleaved/loaded/accepted_share", float(accepted_N.mean()), at_least=0.8)
        worst = float(errors_N[accepted_N].max()) if accepted_N.any() else None
        report.add(
            "repeatability/interleaved/loaded/worst_accepted_percent",
            None if worst is None else 100 * worst,
            at_most=5.0,
        )
        quiet_s = (first_s + second_s) / 2
        report.add("repeatability/interleaved/loaded/time_over_quiet", loaded_s / quiet_s, at_most=3.0)
        report.add("repeatability/interleaved/quiet/seconds", quiet_s)
        plain_errors_N = np.abs(plain_loaded / plain_first - 1)
        report.add("repeatability/plain/loaded/worst_percent", 100 * float(plain_errors_N.max()))
        report.add("repeatability/plain/loaded/median_percent", 100 * float(np.median(plain_errors_N)))
        one = next(iter(loaded.values()))
        report.note("loaded", {"foreign_cores": one.foreign_cores, "drift": one.drift, "corrected": one.corrected})
        for case, records in (("quiet", second), ("loaded", loaded)):
            slowdown = next(iter(records.values())).host_slowdown
            report.add(f"repeatability/interleaved/{case}/host_slowdown", slowdown)
        rows = [
            [name, f"{a:.4f}", f"{b / a - 1:+.2%}", f"{c.p50 / a - 1:+.2%}", c.suspect_reason or "accepted"]
            for name, a, b, c in zip(self._artifacts, quiet_N, again_N, loaded.values(), strict=True)
        ]
        headings = ["subnet", "quiet ms", "second pass", "loaded", "the tool says"]
        report.show("Medians of two quiet passes, and beside a burning process", headings=headings, rows=rows)
        return report.finish()

    def _tool(self, *, seed: int, reference_ms: float | None = None) -> dict[str, CostMeasurement]:
        return measure_many(
            self._device,
            self._artifacts,
            # Of middle size: how much a slow host slows a network depends on its size.
            reference=sorted(self._artifacts.values(), key=lambda artifact: artifact.size_bytes)[
                len(self._artifacts) // 2
            ],
            protocol=self._protocol,
            rng=np.random.default_rng(seed),
            together=False,
            reference_ms=reference_ms,
        )

    def _plain(self) -> Floats:
        """What most tools do: the mean (N,) of some runs of one network after the other, in milliseconds."""
        means = []
        rng = np.random.default_rng(0)
        for artifact in self._artifacts.values():
            with ExitStack() as stack:
                session = self._device.backend.load(artifact, spec=self._device.spec)
                stack.callback(session.close)
                session.set_input(rng.standard_normal(artifact.input_shape).astype(artifact.input_dtype))
                started_ns = time.perf_counter_ns()
                for _ in range(PLAIN_RUNS):
                    session.run()
                means.append((time.perf_counter_ns() - started_ns) / PLAIN_RUNS / 1e6)
        return np.array(means)

    def _compare(self, case: str, a_N: Floats, b_N: Floats, *, targets: bool = False) -> None:
        differences_N = 100 * np.abs(b_N / a_N - 1)
        add = self._report.add
        add(
            f"repeatability/{case}/spearman",
            float(stats.spearmanr(a_N, b_N).statistic),
            at_least=0.999 if targets else None,
        )
        add(
            f"repeatability/{case}/median_difference_percent",
            float(np.median(differences_N)),
            at_most=0.3 if targets else None,
        )
        add(
            f"repeatability/{case}/worst_difference_percent",
            float(differences_N.max()),
            at_most=2.0 if targets else None,
        )

    @staticmethod
    def _timed(work: Callable[[], dict[str, CostMeasurement]]) -> tuple[dict[str, CostMeasurement], float]:
        started_s = time.monotonic()
        found = work()
        return found, time.monotonic() - started_s


def _medians(found: Mapping[str, CostMeasurement], *, as_timed: bool = False) -> Floats:
    return np.array([record.p50 * (record.host_slowdown if as_timed else 1.0) for record in found.values()])


@contextmanager
def _burner() -> Iterator[None]:
    """A process that computes all the time."""
    # Ends with this process, however that ends.
    code = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(_SETTLE_S)
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
