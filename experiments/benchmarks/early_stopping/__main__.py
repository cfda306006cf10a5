"""What early stopping saves in a search, and whether it loses points of the front.

images: searches with inherited weights, by several samplers, each with and without early stopping. Every subnet that
any of them proposes is judged once, to the end, and its answers are kept image by image in --work; the searches take
these answers as they would take them from a worker: until a subnet cannot beat its rival any more. So it is known of
every stopped subnet whether it was a point of the front after all. The seconds of a search are those of its subnets: of
the recalibration, which nothing shortens, and of the judged share of the search split. At the end some subnets are
judged by the real judge both ways, by the clock.

epochs: random subnets are fine-tuned to the end, once; then they come in many random orders, and each is stopped as
soon as it cannot reach the front of those that finished before it.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.early_stopping.epochs import add_epochs
from experiments.benchmarks.early_stopping.images import add_images
from experiments.benchmarks.harness import benchmark_parser, start
from experiments.workload import load_workload
from nas.pricing import Pricer

PARTS = {"images": add_images, "epochs": add_epochs}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = benchmark_parser("early_stopping", description=__doc__, seeds=3)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="a run with supernet and profile")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps what was judged and trained, to go on from")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="A,B", help="[default: %(default)s]")
    parser.add_argument("--evaluations", type=int, default=120, metavar="N", help="of a search [default: %(default)s]")
    parser.add_argument("--samplers", default="random,nsga2,surrogate", metavar="A,B", help="[default: %(default)s]")
    parser.add_argument("--fine-tuned", type=int, default=40, metavar="N", help="subnets [default: %(default)s]")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of each [default: %(default)s]")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P", help="[default: %(default)s]")
    options, report = start(parser, argv)
    workload = load_workload(options.run)
    pricer = Pricer(workload.run.space, predictor=workload.run.predictor(), num_classes=workload.data.num_classes)
    report.note("confidence", options.confidence)
    report.note("search_images", len(workload.data.search))
    for part in options.parts.split(","):
        if part not in PARTS:
            parser.error(f"--parts: {part!r} is none of {', '.join(PARTS)}")
        PARTS[part](report, options, workload=workload, pricer=pricer)
        report.save()
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
