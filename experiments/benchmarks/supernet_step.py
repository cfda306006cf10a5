"""How long a training step of a subnet takes inside the supernet.

Three ways to train the same subnet take turns, each in channels-last and in ordinary memory, in float32 and under
autocast to bfloat16, in every round in another order:

- supernet: `supernet(x, arch)`;
- static: the extracted network, made of plain torch layers, in training mode;
- reference: the dynamic network of the once-for-all package, in a process of its own that waits between its turns;
- unaided reference: the same in a process whose C library is left as it is. The others keep the memory that they free,
  as our training does (`nas.memory`).

A step is a forward pass, cross entropy and a backward pass, without optimiser, which all would share. Ratios are taken
within a round, so that what else the machine does falls on all alike; the figure is their median over the rounds,
beside it the quartiles. A way's best layout is the one with the lower median time.

Targets: not slower than the static network (5 % allowed), in no layout slower than the reference with the same memory
settings, and, each in its best layout, 1.3 times as fast as the reference is by itself.

The reference package lives in an environment of its own, see `experiments.benchmarks.ofa_equivalence`.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.peers.ofa_step import random_batch, step_ms
from nas.data import fastest_layout
from nas.memory import keep_freed_memory
from searchspaces import Architecture, SearchSpace, get_space
from searchspaces.elastic.supernet import Supernet
from searchspaces.ofa_mbconv import OfaMBConvSpace

NAME = "supernet_step"
LEAST_ROUNDS = 5
HIGHEST_OVER_STATIC = 1.05
HIGHEST_OVER_REFERENCE = 1.0
LOWEST_SPEEDUP = 1.3

# What `nas.memory.keep_freed_memory` tells the C library, for a process without that module.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
PRECISIONS = ("fp32", "bf16")
_LAYOUTS = ("channels-last", "nchw")
_SCRIPT = Path(__file__).parent / "peers" / "ofa_step.py"
_HOW_TO_GET_IT = "needs --reference-python PATH, an interpreter with the package ofa; see ofa_equivalence"

Way = tuple[str, str]  # "supernet", "static", "reference" or "unaided-reference", and one of the layouts


class PeerError(RuntimeError):
    """The reference process does not answer; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A space, and the batch that its subnets are trained with.

    Attributes:
        space_id: name in `get_space`.
        resolution: height and width of the images in pixels.
        batch: images a step.
        num_classes: of the classifier.
    """

    space_id: str
    resolution: int
    batch: int
    num_classes: int

    def space(self) -> SearchSpace:
        """The space with this resolution only."""
        return get_space(self.space_id, resolutions=[self.resolution])


CASES = (
    Case(space_id="mbconv-small", resolution=28, batch=128, num_classes=10),
    Case(space_id="ofa-mobilenetv3-w1.0", resolution=128, batch=32, num_classes=1000),
)
QUICK_CASES = (
    Case(space_id="mbconv-small", resolution=16, batch=8, num_classes=10),
    Case(space_id="ofa-mobilenetv3-w1.0", resolution=128, batch=1, num_classes=1000),
)


class Reference:
    """A process that runs the reference package; use it in a `with` statement."""

    def __init__(self, python: Path, case: Case, *, keeps_memory: bool) -> None:
        self.name = "reference" if keeps_memory else "unaided-reference"
        environment = {name: value for name, value in os.environ.items() if name not in _KEEP_FREED_MEMORY}
        # Isolated (-I): neither PYTHONPATH nor this folder may decide what the reference imports.
        try:
            self._process = subprocess.Popen(
                [str(python), "-I", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment | (_KEEP_FREED_MEMORY if keeps_memory else {}),
                text=True,
            )
        except OSError as e:
            raise PeerError(f"{python} does not start: {e.strerror}") from e
        self._case = case
        self.versions = self._ask(
            space=case.space_id, num_classes=case.num_classes, seed=0, threads=torch.get_num_threads()
        )["versions"]

    def step_ms(self, settings: Mapping[str, object], *, channels_last: bool, bfloat16: bool) -> float:
        """Milliseconds of a step of the subnet with these once-for-all lists."""
        answer = self._ask(
            settings=settings,
            resolution=self._case.resolution,
            batch=self._case.batch,
            channels_last=channels_last,
            bfloat16=bfloat16,
        )
        return float(answer["ms"])

    def _ask(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: the empty answer below says so
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"the reference ended with exit code {self._process.wait()}, its error is above")
        return cast(dict[str, Any], json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def subnets(space: SearchSpace) -> dict[str, Architecture]:
    """The smallest, the largest, and the one in the middle: of an even number of values the larger middle one."""
    middle_1G = np.array([[len(choice.values) // 2 for choice in space.choices]], dtype=np.int8)
    (middle,) = space.architectures(space.canonicalise(middle_1G))
    return {"smallest": space.smallest, "middle": middle, "largest": space.largest}


def measure(
    turns: Mapping[Way, Callable[[], float]], *, rounds: int, seconds: float, seed: int
) -> dict[Way, list[float]]:
    """Milliseconds of every way, round by round; a first round is not counted.

    Args:
        turns: way -> a function that makes a step and returns its milliseconds.
        rounds: turns of each way.
        seconds: no further round begins after so much time, once there are `LEAST_ROUNDS`.
        seed: of the order in every round.
    """
    rng = np.random.default_rng(seed)
    ways = list(turns)
    times_ms: dict[Way, list[float]] = {way: [] for way in ways}
    started_s = time.monotonic()
    for number in range(rounds + 1):
        if number > LEAST_ROUNDS and time.monotonic() - started_s > seconds:
            break
        for position in rng.permutation(len(ways)):
            ms = turns[ways[position]]()
            if number > 0:
                times_ms[ways[position]].append(ms)
    return times_ms


def best_layout(times_ms: Mapping[Way, Sequence[float]], name: str) -> Way:
    """The way called `name` in the layout with the lower median time."""
    return min((way for way in times_ms if way[0] == name), key=lambda way: statistics.median(times_ms[way]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = benchmark_parser(NAME, description=__doc__)
    parser.add_argument("--reference-python", type=Path, metavar="PATH", help="interpreter with the package ofa")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="turns of each way [default: %(default)s]")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help=f"no new round of a subnet after so long, once it has {LEAST_ROUNDS} [default: %(default)s]",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=PRECISIONS,
        help="bf16 takes very long on processors without instructions for it [default: both]",
    )
    options, report = start(parser, argv)
    report.note("keeps_freed_memory", keep_freed_memory())
    if options.reference_python is None:
        report.skip("reference", _HOW_TO_GET_IT)
    rows: list[list[str]] = []
    for case in QUICK_CASES if options.quick else CASES:
        with ExitStack() as stack:
            references: list[Reference] = []
            if options.reference_python is not None and isinstance(case.space(), OfaMBConvSpace):
                try:
                    for keeps_memory in (True, False):
                        reference = Reference(options.reference_python, case, keeps_memory=keeps_memory)
                        references.append(stack.enter_context(reference))
                        report.note("reference", reference.versions)
                except PeerError as e:
                    references = []
                    report.skip(f"reference/{case.space_id}", str(e))
            measured = partial(measure, rounds=3 if options.quick else options.rounds, seconds=options.seconds, seed=0)
            rows += _measure_case(report, case, precisions=options.precisions, references=references, measured=measured)
    headings = ["subnet", "supernet ms", "static ms", "reference ms", "supernet / static", "reference / supernet"]
    report.show("Training steps, best layout of each", headings=headings, rows=rows)
    return report.finish()


def _measure_case(
    report: BenchmarkReport,
    case: Case,
    *,
    precisions: Sequence[str],
    references: Sequence[Reference],
    measured: Callable[[Mapping[Way, Callable[[], float]]], dict[Way, list[float]]],
) -> list[list[str]]:
    """Measure all subnets of a space; returns their rows of the table."""
    torch.manual_seed(0)
    supernet = case.space().build_supernet(num_classes=case.num_classes).train()
    rows = []
    for subnet, arch in subnets(supernet.space).items():
        for dtype in precisions:
            times_ms = measured(_turns(supernet, arch, case=case, bfloat16=dtype == "bf16", references=references))
            rows.append(_report(report, f"step/{case.space_id}/{subnet}/{dtype}", times_ms))
            report.save()
    return rows


def _turns(
    supernet: Supernet, arch: Architecture, *, case: Case, bfloat16: bool, references: Sequence[Reference]
) -> dict[Way, Callable[[], float]]:
    """What takes turns: functions that make a step and return its milliseconds."""
    space = supernet.space
    shape = (case.batch, *space.input_shape(arch))
    ordinary_NCHW, labels_N = random_batch(shape, num_classes=case.num_classes, seed=0)

    def ours(network: nn.Module, x_NCHW: torch.Tensor, *more: Architecture) -> float:
        return step_ms(
            lambda x: network(x, *more), x_NCHW, labels_N, parameters=network.parameters(), bfloat16=bfloat16
        )

    # As training does it (`nas.training.state`): the weights too.
    supernet_last = copy.deepcopy(supernet).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    static = supernet.extract(arch).train()
    static_last = supernet.extract(arch).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_last = fastest_layout(ordinary_NCHW)
    turns: dict[Way, Callable[[], float]] = {
        ("supernet", "channels-last"): lambda: ours(supernet_last, x_last, arch),
        ("supernet", "nchw"): lambda: ours(supernet, ordinary_NCHW, arch),
        ("static", "channels-last"): lambda: ours(static_last, x_last),
        ("static", "nchw"): lambda: ours(static, ordinary_NCHW),
    }
    for reference in references:
        assert isinstance(space, OfaMBConvSpace)
        settings = {name: value for name, value in space.to_ofa(arch).items() if name != "resolution"}
        ask = partial(reference.step_ms, settings, bfloat16=bfloat16)
        for layout in _LAYOUTS:
            turns[reference.name, layout] = partial(ask, channels_last=layout == "channels-last")
    return turns


def _report(report: BenchmarkReport, key: str, times_ms: Mapping[Way, Sequence[float]]) -> list[str]:
    """Add the figures of a subnet; returns its row of the table."""
    for (name, layout), values in times_ms.items():
        report.add(f"{key}/{name}/{layout}_ms", statistics.median(values))

    def add_ratio(name: str, above: Way, below: Way, **target: float) -> str:
        ratios = [a / b for a, b in zip(times_ms[above], times_ms[below], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        report.add(f"{key}/{name}", median, **target)
        report.add(f"{key}/{name}_quartiles", f"{low:.3f} to {high:.3f}")
        return f"{median:.3f}"

    supernet, static = best_layout(times_ms, "supernet"), best_layout(times_ms, "static")
    shown = {"static": add_ratio("supernet_over_static", supernet, static, at_most=HIGHEST_OVER_STATIC)}
    reference_ms = "-"
    if any(name == "reference" for name, _ in times_ms):
        for layout in _LAYOUTS:
            add_ratio(
                f"supernet_over_reference_{layout}",
                ("supernet", layout),
                ("reference", layout),
                at_most=HIGHEST_OVER_REFERENCE,
            )
        add_ratio("reference_over_supernet", best_layout(times_ms, "reference"), supernet)
        unaided = best_layout(times_ms, "unaided-reference")
        shown["reference"] = add_ratio("unaided_reference_over_supernet", unaided, supernet, at_least=LOWEST_SPEEDUP)
        reference_ms = f"{statistics.median(times_ms[unaided]):.1f}"
    milliseconds = [f"{statistics.median(times_ms[way]):.1f}" for way in (supernet, static)]
    report.say(f"{key}: {shown}")
    return [key.partition("/")[2], *milliseconds, reference_ms, shown["static"], shown.get("reference", "-")]


if __name__ == "__main__":
    sys.exit(main())
