"""Early stopping on paper: curves that can be followed by hand, and a search over answers that are known."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmarks.early_stopping.epochs import Curve, replay
from experiments.benchmarks.early_stopping.images import Judged, search
from nas.search.stopping import pack_answers
from searchspaces import Architecture
from tests.nas.tiny_run import SEARCH, SPACE, price_by_macs

N = 1000


def test_a_curve_that_cannot_come_as_far_as_a_faster_one_is_stopped() -> None:
    curves = [
        Curve(arch_id="good", accuracies=(0.7, 0.8), latency_ms=1.0, fastest_ms=0.95, slowest_ms=1.05),
        Curve(arch_id="bad", accuracies=(0.5, 0.6), latency_ms=2.0, fastest_ms=1.9, slowest_ms=2.1),
        Curve(arch_id="fast", accuracies=(0.5, 0.6), latency_ms=0.5, fastest_ms=0.475, slowest_ms=0.525),
    ]
    found = replay(curves, order=[0, 1, 2], confidence=0.5)
    # bad saves one of six epochs; fast is fast, so it may be as bad
    assert found.epochs_saved == pytest.approx(1 / 6)
    assert (found.num_stopped, found.front, found.lost, found.wrong, found.volume_ratio) == (1, 2, 0, 0, 1.0)


def test_a_curve_that_rises_late_is_lost_and_counted() -> None:
    curves = [
        Curve(arch_id="good", accuracies=(0.7, 0.8), latency_ms=1.0, fastest_ms=0.95, slowest_ms=1.05),
        Curve(arch_id="late", accuracies=(0.5, 0.9), latency_ms=2.0, fastest_ms=1.9, slowest_ms=2.1),
    ]
    found = replay(curves, order=[0, 1], confidence=0.5)
    assert (found.num_stopped, found.lost, found.wrong) == (1, 1, 1)
    assert found.volume_ratio < 1.0
    assert replay(curves, order=[0, 1], confidence=0.95).num_stopped == 0


class KnownAnswers:
    """A subnet with more of everything answers more; the order of difficulty is the same for all."""

    @property
    def num_images(self) -> int:
        return N

    def __init__(self) -> None:
        self._order = np.random.default_rng(0).permutation(N)

    def __call__(self, arch: Architecture) -> Judged:
        correct = 20 * sum(float(value) for _, value in arch.genes)
        answers = pack_answers(self._order < correct)
        return Judged(answers=answers, recalibration_s=1.0, classification_s=2.0)


def test_a_search_that_stops_judges_fewer_images_and_keeps_the_front() -> None:
    pricer = price_by_macs(SPACE, SPACE.sample_many(40, np.random.default_rng(0)))
    settings = replace(SEARCH, sampler="random", evaluations=25, subnets_per_task=1)
    store = KnownAnswers()
    plain = search(store, pricer=pricer, settings=settings, confidence=None)
    stopping = search(store, pricer=pricer, settings=settings, confidence=0.95)
    assert not any(plain.stopped)
    assert plain.images == 25 * N
    assert plain.seconds == plain.whole_seconds == 75.0
    assert any(stopping.stopped)
    assert stopping.images < plain.images
    assert stopping.seconds == pytest.approx(25.0 + 2.0 * stopping.images / N)
    # random proposals do not depend on what was told
    assert stopping.latencies == plain.latencies
    assert stopping.lost() == 0
    assert stopping.front_size() > 1
    assert stopping.volume(reference=(0.0, 1.0)) == plain.volume(reference=(0.0, 1.0))
