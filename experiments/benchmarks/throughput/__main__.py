"""How many workers one search can keep busy.

overhead: a search with one worker and real subnets: all its time over that of the evaluations alone, for three sizes of
task. driver: what proposals, study and table take by themselves, by the number of known evaluations and of pending
ones. scaling: the same search on four Ray nodes of this machine with evaluations that only wait; and a discrete-event
simulation with the measured overheads, compared with it and then taken to 1,000 workers.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import optuna

from experiments.benchmarks.harness import benchmark_parser, start
from experiments.benchmarks.subnet_evaluation import trained_a_little
from experiments.benchmarks.throughput.overhead import add_overhead, measure_overheads
from experiments.benchmarks.throughput.scaling import add_scaling, add_simulation
from experiments.benchmarks.throughput.searching import make_pricer
from experiments.workload import load_workload

_WAIT_S, _QUICK_WAIT_S = 1.0, 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = benchmark_parser("throughput", description=__doc__)
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="a run with a trained supernet [default: train a little]"
    )
    options, report = start(parser, argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as stack:
        if options.run is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            workload = trained_a_little(place, quick=options.quick)
        else:
            workload = load_workload(options.run)
        add_overhead(report, workload, quick=options.quick)
        report.save()
        pricer = make_pricer(workload.run.space, num_classes=workload.data.num_classes)
    overheads = measure_overheads(report, pricer, quick=options.quick)
    add_scaling(
        report, pricer, overheads, evaluation_s=_QUICK_WAIT_S if options.quick else _WAIT_S, quick=options.quick
    )
    add_simulation(report, overheads)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
