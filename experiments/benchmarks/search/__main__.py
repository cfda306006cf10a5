"""Search against published truth, ours against Optuna's samplers and once-for-all's own evolution.

No sampler sees anything of an architecture that it has not evaluated; ideal, nadir and reference point serve the scores
alone. Only unique evaluations count: repetitions are told from a cache.

nb201: the exact fronts of NAS-Bench-201 on six devices, and of accuracy and two devices. Its accuracies come with the
PyPI package analog-nasbench 0.1.3 (--accuracy). devices: one search for all of these devices, latencies computed.
macro: the exact front of NAS-Bench-Macro in accuracy, MACs and parameters. ofa: the whole front of OFA-MobileNetV3 by
the published accuracy predictor and operator table, against 20 evolutions under one limit each. supernet: verified
fronts of our own supernet (--run), and what measuring while searching costs and brings.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.search.devices import add_devices
from experiments.benchmarks.search.macro import add_macro
from experiments.benchmarks.search.nb201 import add_nb201
from experiments.benchmarks.search.ofa import add_ofa
from experiments.benchmarks.search.samplers import BUDGETS, SAMPLERS
from experiments.benchmarks.search.supernet import add_supernet

_PARTS: Mapping[str, Callable[[BenchmarkReport, argparse.Namespace], None]] = {
    "nb201": add_nb201,
    "devices": add_devices,
    "macro": add_macro,
    "ofa": add_ofa,
    "supernet": add_supernet,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = benchmark_parser("search", description=__doc__, seeds=10)
    for name, known in (("parts", tuple(_PARTS)), ("samplers", SAMPLERS)):
        parser.add_argument(
            f"--{name}",
            type=_some_of(known),
            default=known,
            metavar="LIST",
            help=f"some of {','.join(known)} [default: all]",
        )
    parser.add_argument(
        "--devices", type=lambda text: tuple(text.split(",")), metavar="LIST", help="of nb201 [default: all]"
    )
    parser.add_argument(
        "--accuracy", type=Path, metavar="FILE", help="of nb201: data.anb of analog-nasbench, or its wheel"
    )
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="settings of ofa were chosen on 0 to 2 [default: 0]"
    )
    parser.add_argument("--run", type=Path, metavar="RUN", help="of supernet: a run with a trained supernet")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps finished searches, one file a sampler")
    parser.add_argument(
        "--evaluations",
        type=_budgets,
        default={},
        metavar="LIST",
        help=f"budgets [default: {','.join(f'{name}={budget}' for name, budget in BUDGETS.items())}]",
    )
    parser.add_argument(
        "--ceiling",
        action="store_true",
        help="of nb201: what a search reaches that is told far more (minutes a device)",
    )
    parser.add_argument(
        "--slow-seeds",
        type=int,
        default=3,
        metavar="N",
        help="at most so many of tpe, gp, ofa-evolution, gradient [default: %(default)s]",
    )
    options, report = start(parser, argv)
    for name in options.parts:
        _PARTS[name](report, options)
        report.save()
    return report.finish()


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        some = tuple(text.split(","))
        if not set(some) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(known)}")
        return some

    return read


def _budgets(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",")]
    if any(name not in BUDGETS or not number.isdecimal() or int(number) < 1 for name, _, number in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is no list like tpe=300,gp=100 of {', '.join(BUDGETS)}")
    return {name: int(number) for name, _, number in pairs}


if __name__ == "__main__":
    raise SystemExit(main())
