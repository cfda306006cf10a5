"""Early stopping of fine-tunings: curves are made once, then replayed in many orders."""

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments.benchmarks.harness import BenchmarkReport
from experiments.workload import Workload
from nas.candidate_store import CandidateStore
from nas.pareto import hypervolume, pareto_mask, reference_latency
from nas.pricing import Pricer
from nas.refine import FineTuning, read_refined
from nas.search.stopping import FineTuningGains, beaten_by
from searchspaces import Architecture

_SUBNETS = 42  # keeps the choice of subnets apart from other uses of the seed
_ORDERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One fine-tuned subnet: accuracy after each epoch, its predicted latency, and the interval of that."""

    arch_id: str
    accuracies: tuple[float, ...]
    latency_ms: float
    fastest_ms: float
    slowest_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One order of the curves: shares of epochs saved and subnets stopped, and what that did to the front.

    Attributes:
        epochs_saved, stopped: shares.
        front, lost: points of the front of all curves, and those of them that were stopped.
        wrong: stopped subnets that would have become more accurate than the one that they were stopped for.
        num_stopped: all stopped ones.
        volume_ratio: hypervolume of those that finished over that of all.
    """

    epochs_saved: float
    stopped: float
    front: int
    lost: int
    wrong: int
    num_stopped: int
    volume_ratio: float


def add_epochs(report: BenchmarkReport, options: argparse.Namespace, *, workload: Workload, pricer: Pricer) -> None:
    """Add the figures of fine-tunings."""
    num, epochs = (4, 2) if options.quick else (options.fine_tuned, options.epochs)
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        curves = fine_tune(workload, pricer=pricer, num=num, epochs=epochs, directory=work / "fine-tuned")
    gains = [curve.accuracies[-1] - curve.accuracies[0] for curve in curves]
    report.add("train/gain_after_first_epoch", statistics.mean(gains))
    rows = []
    for confidence in sorted({0.8, 0.9, options.confidence}):
        replayed = [
            replay(
                curves, order=np.random.default_rng((order, _SUBNETS)).permutation(num).tolist(), confidence=confidence
            )
            for order in range(_ORDERS)
        ]
        key = f"train/confidence{confidence:g}"
        saved, ratio = (
            statistics.mean(r.epochs_saved for r in replayed),
            statistics.mean(r.volume_ratio for r in replayed),
        )
        lost, front = sum(r.lost for r in replayed), sum(r.front for r in replayed)
        wrong, stopped = sum(r.wrong for r in replayed), sum(r.num_stopped for r in replayed)
        report.add(f"{key}/epochs_saved", saved)
        report.add(f"{key}/front_points_lost_share", lost / front)
        report.add(f"{key}/wrong_share", wrong / stopped if stopped else 0.0, at_most=1.0 - confidence)
        report.add(f"{key}/hypervolume_ratio", ratio, at_least=0.999)
        rows.append(
            [
                f"{confidence:g}",
                f"{saved:.1%}",
                f"{stopped / _ORDERS:.1f}",
                f"{lost} of {front}",
                f"{wrong} of {stopped}",
                f"{ratio:.5f}",
            ]
        )
    report.show(
        f"{num} subnets of {epochs} epochs in {_ORDERS} orders",
        headings=["confidence", "epochs saved", "stopped", "lost of front", "wrongly stopped", "hypervolume"],
        rows=rows,
    )


def fine_tune(workload: Workload, *, pricer: Pricer, num: int, epochs: int, directory: Path) -> list[Curve]:
    """Fine-tune random subnets to the end, or read what an earlier call did.

    Args:
        workload: of a run with a trained supernet.
        pricer: of the space.
        num: subnets.
        epochs: of each.
        directory: where they are kept.
    """
    space, run = workload.run.space, workload.run
    tuning = FineTuning(
        judge=workload.subnet_judge,
        space=space,
        data=workload.data,
        store=CandidateStore(directory / "candidates", space=space, num_classes=workload.data.num_classes),
        settings=replace(workload.refine_settings, epochs=epochs),
    )
    rng = np.random.default_rng((workload.recipe.seed, _SUBNETS))
    archs = list(dict.fromkeys([space.smallest, space.largest, *space.architectures(space.sample_many(num, rng))]))[
        :num
    ]
    return [
        _curve(tuning, arch, pricer=pricer, directory=directory / f"{run.info.run_id}-{epochs}" / arch.arch_id)
        for arch in archs
    ]


def _curve(tuning: FineTuning, arch: Architecture, *, pricer: Pricer, directory: Path) -> Curve:
    if (refined := read_refined(directory)) is None:
        tuning.run(arch, directory=directory, on_epoch=lambda _: None)
        refined = read_refined(directory)
    assert refined is not None
    (price,) = pricer.price([arch])
    return Curve(
        arch_id=arch.arch_id,
        accuracies=refined.curve,
        latency_ms=price.latency_predicted_ms,
        fastest_ms=price.latency_predicted_low_ms,
        slowest_ms=price.latency_predicted_high_ms,
    )


def replay(curves: list[Curve], *, order: list[int], confidence: float) -> Replayed:
    """Fine-tune the subnets one after the other, on paper."""
    gains = FineTuningGains(confidence=confidence)
    front: dict[str, tuple[float, float]] = {}
    run, wrong, stopped = 0, 0, set[int]()
    for number in order:
        curve = curves[number]
        for epoch, accuracy in enumerate(curve.accuracies, start=1):
            run += 1
            outlook = gains.outlook(epoch, accuracy=accuracy) if epoch < len(curve.accuracies) else None
            rival = None
            if outlook is not None:
                rival = beaten_by(front, accuracy=outlook.most, fastest_ms=curve.fastest_ms)
            if rival is not None:
                stopped.add(number)
                wrong += curve.accuracies[-1] > front[rival][0]
                break
        else:
            front[curve.arch_id] = curve.accuracies[-1], curve.slowest_ms
            gains.add(curve.arch_id, curve.accuracies)
    accuracy_N = np.array([curve.accuracies[-1] for curve in curves])
    latency_N = np.array([curve.latency_ms for curve in curves])
    kept_N = np.array([number not in stopped for number in range(len(curves))])
    mask_N = pareto_mask(accuracy_N, latency_N)
    reference = (0.0, reference_latency(latency_N))
    return Replayed(
        epochs_saved=1.0 - run / sum(len(curve.accuracies) for curve in curves),
        stopped=len(stopped) / len(curves),
        front=int(mask_N.sum()),
        lost=int((mask_N & ~kept_N).sum()),
        wrong=wrong,
        num_stopped=len(stopped),
        volume_ratio=hypervolume(accuracy_N[kept_N], latency_N[kept_N], reference=reference)
        / hypervolume(accuracy_N, latency_N, reference=reference),
    )
