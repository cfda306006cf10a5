"""Early stopping of judging: searches with and without it, on subnets that are judged once."""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import optuna

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.json_lines import append_line, read_lines
from experiments.workload import Workload
from nas.accuracy import top1
from nas.evaluation import SubnetJudge
from nas.pareto import hypervolume, pareto_mask, reference_latency
from nas.pricing import Pricer
from nas.search.loop import Evaluated, run_search
from nas.search.pool import SerialPool, SubnetScore
from nas.search.settings import SearchSettings
from nas.search.stopping import Rival, Stopping, judge_until_beaten, pack_answers, unpack_answers
from nas.search.study import SearchStudy, make_sampler
from searchspaces import Architecture

_BATCH = 128
_POPULATION = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One subnet judged to the end: its answers in the judge's shuffled order, and what that took."""

    answers: bytes
    recalibration_s: float
    classification_s: float


class Known(Protocol):
    """Knows the answers of subnets on a search split of `num_images`."""

    @property
    def num_images(self) -> int:
        """Of the search split."""

    def __call__(self, arch: Architecture) -> Judged:
        """What is known of a subnet."""


class JudgedStore:
    """Judges each subnet of a run once; a file keeps what is known, if a directory is given."""

    def __init__(self, judge: SubnetJudge, *, directory: Path | None) -> None:
        self._judge = judge
        self._path = None if directory is None else directory / "judged.jsonl"
        self._known: dict[str, Judged] = {}
        if self._path is not None:
            for content in read_lines(self._path):
                arch_id, answers = content.pop("arch_id"), bytes.fromhex(content.pop("answers"))
                self._known[arch_id] = Judged(answers=answers, **content)

    @property
    def num_images(self) -> int:
        """Of the search split."""
        return len(self._judge.data.search)

    def __call__(self, arch: Architecture) -> Judged:
        """What is known of a subnet."""
        if arch.arch_id not in self._known:
            # Nobody to beat: judged to the end.
            started = time.perf_counter()
            self._judge.network(arch)
            recalibration_s = time.perf_counter() - started
            (score,) = self._judge.judge([arch], stopping=Stopping(confidence=0.5, rivals=(None,)))
            assert score.answers is not None
            judged = Judged(
                answers=score.answers,
                recalibration_s=recalibration_s,
                classification_s=max(0.0, score.seconds - recalibration_s),
            )
            self._known[arch.arch_id] = judged
            self._keep(arch.arch_id, judged)
        return self._known[arch.arch_id]

    def _keep(self, arch_id: str, judged: Judged) -> None:
        if self._path is None:
            return
        content = {
            "arch_id": arch_id,
            "answers": judged.answers.hex(),
            "recalibration_s": judged.recalibration_s,
            "classification_s": judged.classification_s,
        }
        append_line(self._path, content)


@dataclass(slots=True)
class Searched:
    """One search: everything that it evaluated or stopped, in order.

    Attributes:
        accuracies, latencies: of each, on the whole split even where the search did not see it.
        stopped: whether the search stopped it.
        images, seconds: judged images, and seconds of recalibration and classification, altogether.
        whole_seconds: what the same subnets would have taken to the end.
    """

    accuracies: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    whole_seconds: float = 0.0

    def lost(self) -> int:
        """Points of the front of everything that were stopped."""
        front_N = pareto_mask(np.array(self.accuracies), np.array(self.latencies))
        return int((front_N & np.array(self.stopped)).sum())

    def front_size(self) -> int:
        """Points of the front of everything, stopped ones included."""
        return int(pareto_mask(np.array(self.accuracies), np.array(self.latencies)).sum())

    def volume(self, *, reference: tuple[float, float]) -> float:
        """Hypervolume of what the search knows the accuracy of."""
        whole_N = ~np.array(self.stopped)
        return hypervolume(np.array(self.accuracies)[whole_N], np.array(self.latencies)[whole_N], reference=reference)


def add_images(report: BenchmarkReport, options: argparse.Namespace, *, workload: Workload, pricer: Pricer) -> None:
    """Add the figures of searches with inherited weights."""
    store = JudgedStore(workload.subnet_judge, directory=options.work)
    budget, seeds = (24, 1) if options.quick else (options.evaluations, options.seeds)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    report.note("evaluations", budget)
    rows = []
    for sampler in options.samplers.split(","):
        pairs = []
        for seed in range(seeds):
            settings = SearchSettings(
                sampler=sampler, evaluations=budget, population=_POPULATION, subnets_per_task=1, limits=(), seed=seed
            )
            plain = search(store, pricer=pricer, settings=settings, confidence=None)
            stopping = search(store, pricer=pricer, settings=settings, confidence=options.confidence)
            pairs.append((plain, stopping))
            report.say(f"{sampler}, seed {seed}: {sum(stopping.stopped)} of {budget} stopped")
        rows.append(_report_sampler(report, sampler, pairs))
        report.save()
    report.show(
        f"{budget} evaluations, {seeds} seeds, confidence {options.confidence:g}",
        headings=["", "stopped", "images saved", "seconds saved", "lost of front", "hypervolume", "range"],
        rows=rows,
    )
    _clock(report, workload=workload, confidence=options.confidence, num=4 if options.quick else 24)


def search(store: Known, *, pricer: Pricer, settings: SearchSettings, confidence: float | None) -> Searched:
    """One search with the real loop, study and rule, on subnets that are judged once.

    Args:
        store: judges.
        pricer: of the space.
        settings: of the search.
        confidence: of early stopping; None: without.
    """
    found = Searched()

    def judge(archs: Sequence[Architecture], /, *, stopping: Stopping | None = None) -> tuple[SubnetScore, ...]:
        rivals = [None] * len(archs) if stopping is None else stopping.rivals
        scores = []
        for arch, rival in zip(archs, rivals, strict=True):
            judged = store(arch)
            whole_N = unpack_answers(judged.answers, num_images=store.num_images)
            own_n, stopped = judge_until_beaten(
                _batches(whole_N), num_images=store.num_images, rival=rival, confidence=confidence or 0.5
            )
            found.accuracies.append(float(whole_N.mean()))
            found.latencies.append(pricer.price([arch])[0].latency_predicted_ms)
            found.stopped.append(stopped is not None)
            found.images += len(own_n)
            found.whole_seconds += judged.recalibration_s + judged.classification_s
            found.seconds += judged.recalibration_s + judged.classification_s * len(own_n) / store.num_images
            scores.append(
                SubnetScore(
                    arch_id=arch.arch_id,
                    accuracy=top1(own_n),
                    seconds=0.0,
                    answers=None if stopped else pack_answers(own_n),
                    stopped=stopped,
                )
            )
        return tuple(scores)

    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=make_sampler(settings, pricer=pricer, seed=settings.seed)
    )
    run_search(
        SearchStudy(study, pricer=pricer, limits=()),
        pricer=pricer,
        pool=SerialPool(judge),
        settings=replace(settings, early_stopping=confidence),
        known={},
        record=_ignore,
        on_progress=_ignore_progress,
    )
    return found


def _ignore(evaluated: Sequence[Evaluated]) -> None:
    """Everything is kept by the judge."""


def _ignore_progress(done: int, wanted: int) -> None:
    """Searches are short."""


def _batches(whole_N: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[np.bool_]]:
    for first in range(0, len(whole_N), _BATCH):
        yield whole_N[first : first + _BATCH]


def _report_sampler(report: BenchmarkReport, sampler: str, pairs: Sequence[tuple[Searched, Searched]]) -> list[str]:
    """Add a sampler's figures; returns its line of the table."""
    images, seconds, ratios, stopped, lost, front = [], [], [], [], 0, 0
    for plain, stopping in pairs:
        reference = (0.0, reference_latency(np.array(plain.latencies + stopping.latencies)))
        ratios.append(stopping.volume(reference=reference) / plain.volume(reference=reference))
        # Against the same subnets to the end: the searches go different ways, and subnets cost differently.
        images.append(1.0 - stopping.images / plain.images)
        seconds.append(1.0 - stopping.seconds / stopping.whole_seconds)
        stopped.append(sum(stopping.stopped) / len(stopping.stopped))
        lost += stopping.lost()
        front += stopping.front_size()
    key = f"inherit/{sampler}"
    report.add(f"{key}/stopped_share", statistics.mean(stopped))
    report.add(f"{key}/images_saved", statistics.mean(images))
    report.add(f"{key}/seconds_saved", statistics.mean(seconds))
    report.add(f"{key}/front_points", front)
    report.add(f"{key}/front_points_lost", lost, at_most=0)
    report.add(f"{key}/hypervolume_ratio", statistics.mean(ratios), at_least=0.999)
    report.add(f"{key}/hypervolume_ratio_lowest", min(ratios))
    return [
        sampler,
        f"{statistics.mean(stopped):.0%}",
        f"{statistics.mean(images):.1%}",
        f"{statistics.mean(seconds):.1%}",
        f"{lost} of {front}",
        f"{statistics.mean(ratios):.4f}",
        f"{min(ratios):.4f} ... {max(ratios):.4f}",
    ]


def _clock(report: BenchmarkReport, *, workload: Workload, confidence: float, num: int) -> None:
    """Judge random subnets with the real judge, to the end and against a rival, in turns: seconds by the clock."""
    judge, space = workload.subnet_judge, workload.run.space
    (best,) = judge.judge([space.largest], stopping=Stopping(confidence=confidence, rivals=(None,)))
    assert best.answers is not None
    # The most accurate subnet as everybody's rival: most of them are stopped at the first look.
    rival = Stopping(confidence=confidence, rivals=(Rival(arch_id=best.arch_id, answers=best.answers),))
    totals = {"whole": 0.0, "stopped": 0.0}
    images = 0
    for arch in space.architectures(space.sample_many(num, np.random.default_rng(7))):
        (whole,) = judge.judge([arch])
        (short,) = judge.judge([arch], stopping=rival)
        totals["whole"] += whole.seconds
        totals["stopped"] += short.seconds
        images += short.accuracy.num_images
    report.add("clock/images_saved", 1.0 - images / num / len(judge.data.search))
    report.add("clock/seconds_saved", 1.0 - totals["stopped"] / totals["whole"])
