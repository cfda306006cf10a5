"""Several Ray nodes on this machine; evaluations only wait, so that two processors can show what many workers do."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.throughput.searching import search
from experiments.benchmarks.throughput.simulation import Overheads, breaking_point, simulate
from experiments.benchmarks.throughput.waiting import LOADER, make_waiting
from experiments.ray.cluster import connect
from experiments.ray.pool import RayEvaluationPool
from nas.pricing import Pricer

_NODES, _QUICK_NODES = 4, 2
_WORKERS, _QUICK_WORKERS = (1, 2, 4, 8, 16), (1, 2)
_ROUNDS, _LEAST = 12, 48
_SUBNETS_PER_TASK = 1
# A sub-second evaluation, that of a small supernet, that of an ImageNet subnet on one core, fine-tuning.
_EVALUATION_S = (0.5, 2.0, 10.0, 60.0)
_SIMULATED = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_GOOD = 0.8


def add_scaling(
    report: BenchmarkReport, pricer: Pricer, overheads: Overheads, *, evaluation_s: float, quick: bool
) -> None:
    """Parallel efficiency on the nodes, beside that of the simulation with the same numbers."""
    report.note("scaling_evaluation_seconds", evaluation_s)
    workers, nodes = (_QUICK_WORKERS, _QUICK_NODES) if quick else (_WORKERS, _NODES)
    rows = []
    with tempfile.TemporaryDirectory() as folder, _nodes(nodes, cpus=max(workers) // nodes):
        for num in workers:
            run_dir = make_waiting(Path(folder) / f"run{num}", seconds=[evaluation_s])
            evaluations = max(_LEAST if not quick else 4, _ROUNDS * num if not quick else 2 * num)
            pool = RayEvaluationPool(run_dir, num_workers=num, loader=LOADER)
            try:
                _warm_up(pool, pricer, num=num)
                timeline = search(
                    Path(folder) / str(num),
                    pricer=pricer,
                    pool=pool,
                    evaluations=evaluations,
                    subnets_per_task=_SUBNETS_PER_TASK,
                )
            finally:
                pool.close()
            found = sum(timeline.busy_s) / (num * timeline.seconds)
            expected = simulate(
                workers=num,
                evaluations=evaluations,
                subnets_per_task=_SUBNETS_PER_TASK,
                evaluation_s=np.array([evaluation_s]),
                overheads=overheads,
            )
            key = f"scaling/workers_{num}"
            report.add(f"{key}/efficiency", found)
            report.add(f"{key}/efficiency_simulated", expected.efficiency)
            report.add(f"{key}/evaluations_per_second", evaluations / timeline.seconds)
            rows.append(
                [str(num), f"{evaluations / timeline.seconds:.2f}", f"{found:.0%}", f"{expected.efficiency:.0%}"]
            )
    report.show(
        f"{nodes} Ray nodes on this machine, evaluations that wait {evaluation_s:.2f} s",
        headings=["workers", "evaluations a second", "efficiency", "simulated"],
        rows=rows,
    )


def add_simulation(report: BenchmarkReport, overheads: Overheads) -> None:
    """Up to 1,000 workers, for short and long evaluations, and where four fifths of them are no longer busy."""
    rows = []
    for seconds in _EVALUATION_S:

        def efficiency(num: int, seconds: float = seconds) -> float:
            return simulate(
                workers=num,
                evaluations=max(_LEAST, _ROUNDS * num),
                subnets_per_task=_SUBNETS_PER_TASK,
                evaluation_s=np.array([seconds]),
                overheads=overheads,
            ).efficiency

        found = {num: efficiency(num) for num in _SIMULATED}
        most = breaking_point(efficiency, least=_GOOD, most=_SIMULATED[-1])
        for num, value in found.items():
            report.add(f"simulated/evaluation_{seconds:g}s/workers_{num}/efficiency", value)
        report.add(f"simulated/evaluation_{seconds:g}s/workers_at_{_GOOD:.0%}", most)
        rows.append([f"{seconds:g} s", *(f"{value:.0%}" for value in found.values()), str(most)])
    report.show(
        "Simulated: parallel efficiency by workers (simulated, not measured)",
        headings=["an evaluation", *map(str, _SIMULATED), f"most at {_GOOD:.0%}"],
        rows=rows,
    )


def _warm_up(pool: RayEvaluationPool, pricer: Pricer, *, num: int) -> None:
    """Until every actor has had a task: starting processes is no part of a search that lasts."""
    arch = pricer.space.smallest
    for number in range(-4 * num, 0):
        pool.submit(number, architectures=[arch])
    for _ in range(4 * num):
        pool.next_result()


@contextmanager
def _nodes(num: int, *, cpus: int) -> Iterator[None]:
    """Ray nodes on this machine, each with so many CPUs to give out, and this process connected to them."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus})
    try:
        for _ in range(num - 1):
            cluster.add_node(num_cpus=cpus)
        with connect(cluster.address):
            yield
    finally:
        cluster.shutdown()
