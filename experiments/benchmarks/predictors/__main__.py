"""Few-shot latency prediction on published measurements, against plain ridge.

Every measurement on the target device is counted, the test set is every other network, untrimmed. "ours" measures the
networks that tell most; "ours_random" random ones, as all others do: ridges on one-hot genes, on analytic cost (MACs,
bytes moved, operators) and on what the source devices say; "macs", the plain count; "best_source", what the one source
device says that orders the measured networks best. "ceiling" is one-hot ridge on 4,000 of a device's own networks.

FBNet: six transfer tasks (data of HELP). OFA: every device without sources and with those of other GPU families.
NAS-Bench-201: every device without and with the others. HAT: transformers, from averages of their layers. This
machine's devices: what proxy_audit measured. Operators: an operator lookup table of this machine's CPU, which is
measured here. Accuracy: NAS-Bench-Macro and, where their files are given, OFA-MobileNetV3 and NAS-Bench-201
(--accuracy), from 50 to 250 networks. Every `lat_*` column of a file is a device.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.predictors.accuracy import add_accuracy
from experiments.benchmarks.predictors.few_shot import add_fbnet, add_nasbench201, add_ofa
from experiments.benchmarks.predictors.hat import add_hat
from experiments.benchmarks.predictors.local import add_local
from experiments.benchmarks.predictors.operators import add_operators
from experiments.benchmarks.predictors.speed import measure_speed
from experiments.errors import DataError
from predictors import PredictorError

PARTS = ("fbnet", "ofa", "nb201", "hat", "local", "operators", "accuracy", "speed")
RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = benchmark_parser("predictors", description=__doc__, seeds=10)
    parser.add_argument(
        "--parts", type=_parts, default=PARTS, metavar="LIST", help=f"some of {','.join(PARTS)} [default: all]"
    )
    parser.add_argument(
        "--measurements", type=Path, metavar="DIR", help="of this machine's devices: proxy_audit's --work"
    )
    parser.add_argument(
        "--accuracy", type=Path, metavar="FILE", help="of NAS-Bench-201: data.anb of analog-nasbench, or its wheel"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps what the part operators has measured")
    parser.add_argument(
        "--recipe", type=Path, default=RECIPE, metavar="RECIPE", help="names their space [default: quickstart.yaml]"
    )
    options, report = start(parser, argv)
    parts: Mapping[str, Callable[[BenchmarkReport, argparse.Namespace], None]] = {
        "fbnet": add_fbnet,
        "ofa": add_ofa,
        "nb201": add_nasbench201,
        "hat": add_hat,
        "local": add_local,
        "operators": add_operators,
        "accuracy": add_accuracy,
        "speed": measure_speed,
    }
    for name in options.parts:
        try:
            parts[name](report, options)
        except (DataError, PredictorError) as e:
            report.skip(name, f"{e}; {e.hint}")
        finally:
            report.save()
    return report.finish()


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    raise SystemExit(main())
