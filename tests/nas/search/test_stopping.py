"""Early stopping: errors no larger than stated, rivals that are really better, bounds that wait for enough curves."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from nas.search.records import known_rivals
from nas.search.stopping import (
    FineTuningGains,
    Rival,
    Rivals,
    beaten_by,
    chance_to_win,
    judge_until_beaten,
    most_differences,
    pack_answers,
    unpack_answers,
)

N = 1000


def batches(answers_N: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[np.bool_]]:
    for first in range(0, len(answers_N), 50):
        yield answers_N[first : first + 50]


def draw_pair(*, lost: int, won: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Answers of a candidate and its rival: some only the rival has right, some only the candidate, 700 both."""
    kinds_N = rng.permutation(np.repeat([0, 1, 2, 3], [lost, won, 700, N - 700 - lost - won]))
    return np.isin(kinds_N, (1, 2)), np.isin(kinds_N, (0, 2))


def judge(own_N: npt.NDArray[np.bool_], rival_N: npt.NDArray[np.bool_], confidence: float = 0.95) -> tuple[int, bool]:
    rival = Rival(arch_id="rival", answers=pack_answers(rival_N))
    own_n, stopped = judge_until_beaten(batches(own_N), num_images=N, rival=rival, confidence=confidence)
    assert (own_n == own_N[: len(own_n)]).all()
    return len(own_n), stopped is not None


def test_a_candidate_that_is_far_behind_is_stopped_at_the_first_look() -> None:
    own_N, rival_N = draw_pair(lost=200, won=20, rng=np.random.default_rng(0))
    rival = Rival(arch_id="rival", answers=pack_answers(rival_N))
    own_n, stopped = judge_until_beaten(batches(own_N), num_images=N, rival=rival, confidence=0.95)
    assert len(own_n) == 100
    assert stopped is not None
    assert (stopped.rival, stopped.of_images, stopped.of_epochs) == ("rival", N, 0)
    assert stopped.accuracy < rival_N.mean()
    assert stopped.accuracy == pytest.approx(own_N.mean(), abs=0.1)


def test_batches_after_the_end_are_never_computed() -> None:
    own_N, rival_N = draw_pair(lost=200, won=20, rng=np.random.default_rng(0))
    taken = []

    def lazily() -> Iterator[npt.NDArray[np.bool_]]:
        for part in batches(own_N):
            taken.append(len(part))
            yield part

    judge_until_beaten(lazily(), num_images=N, rival=Rival(arch_id="r", answers=pack_answers(rival_N)), confidence=0.95)
    assert sum(taken) == 100


def test_without_a_rival_everything_is_judged() -> None:
    own_N = np.zeros(N, dtype=np.bool_)
    own_n, stopped = judge_until_beaten(batches(own_N), num_images=N, rival=None, confidence=0.5)
    assert len(own_n) == N
    assert stopped is None


def test_a_candidate_that_is_better_or_equal_is_judged_to_the_end() -> None:
    own_N, rival_N = draw_pair(lost=20, won=200, rng=np.random.default_rng(0))
    assert judge(own_N, rival_N) == (N, False)
    assert judge(rival_N, rival_N) == (N, False)


@pytest.mark.parametrize(("lost", "won"), [(24, 25), (99, 100), (0, 1)])
def test_winners_are_stopped_no_more_often_than_stated(lost: int, won: int) -> None:
    # the worst case: the candidate is better by a single image
    rng = np.random.default_rng(1)
    confidence = 0.8
    pairs = [draw_pair(lost=lost, won=won, rng=rng) for _ in range(300)]
    wrong = sum(judge(own_N, rival_N, confidence)[1] for own_N, rival_N in pairs)
    assert wrong <= 300 * (1 - confidence)


def test_more_confidence_stops_fewer() -> None:
    rng = np.random.default_rng(2)
    pairs = [draw_pair(lost=90, won=40, rng=rng) for _ in range(50)]
    stopped = [
        sum(judge(own_N, rival_N, confidence)[1] for own_N, rival_N in pairs) for confidence in (0.6, 0.95, 0.999)
    ]
    assert stopped[0] > stopped[1] > stopped[2]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(100, 900))
@settings(max_examples=40, deadline=None)
def test_the_chance_covers_every_number_of_differences_that_may_be(lost: int, won: int, n: int) -> None:
    chance = chance_to_win(lost=lost, won=won, n=n, num_images=N, error=0.05)
    if lost <= won:
        assert chance == 1.0
        return
    met = lost + won
    for total in range(met, most_differences(met, n=n, num_images=N, error=0.005) + 1):
        at_most = (total - 1) // 2
        assert hypergeom.sf(lost - 1, total, at_most, met) <= chance + 1e-12


@given(st.integers(0, 60), st.integers(100, 900), st.sampled_from([0.1, 0.01]))
@settings(max_examples=40, deadline=None)
def test_more_differences_than_the_bound_are_improbable(met: int, n: int, error: float) -> None:
    most = most_differences(met, n=n, num_images=N, error=error)
    assert met <= most <= N - n + met
    if most < N - n + met:
        assert hypergeom.cdf(met, N, most + 1, n) <= error


def test_the_rival_is_the_most_accurate_of_those_that_are_no_slower() -> None:
    rng = np.random.default_rng(3)
    rivals = Rivals()
    known: list[tuple[float, float, str]] = []
    assert rivals.of(fastest_ms=1.0) is None
    for number in range(200):
        accuracy, latency_ms = float(rng.integers(0, 40)) / 40, float(rng.integers(1, 30))
        rivals.add(Rival(arch_id=str(number), answers=b""), accuracy=accuracy, slowest_ms=latency_ms)
        known.append((accuracy, latency_ms, str(number)))
        asked = float(rng.integers(0, 32))
        best = max((value for value, cost, _ in known if cost <= asked), default=None)
        found = rivals.of(fastest_ms=asked)
        assert (found is None) == (best is None)
        if found is not None:
            accuracy, latency_ms, _ = known[int(found.arch_id)]
            assert accuracy == best
            assert latency_ms <= asked


def test_a_candidate_that_may_be_faster_has_no_rival() -> None:
    row = {"candidate_id": "c", "arch_id": "a", "accuracy": 0.9, "latency_predicted_ms": 1.0}
    rows = pd.DataFrame([{**row, "latency_predicted_high_ms": 1.1}])
    rivals = known_rivals(rows, pd.DataFrame([{"candidate_id": "c", "answers": b""}]))
    assert rivals.of(fastest_ms=1.05) is None
    assert rivals.of(fastest_ms=1.1) == Rival(arch_id="a", answers=b"")


@pytest.mark.parametrize("num", [1, 7, 8, 9, 5000])
def test_answers_survive_packing(num: int) -> None:
    answers_N = np.random.default_rng(num).random(num) < 0.7
    packed = pack_answers(answers_N)
    assert len(packed) == -(-num // 8)
    assert (unpack_answers(packed, num_images=num) == answers_N).all()


def curves(num: int, rng: np.random.Generator) -> list[tuple[float, ...]]:
    return [tuple(np.cumsum(rng.exponential(0.05, size=4)).tolist()) for _ in range(num)]


@pytest.mark.parametrize(("confidence", "needed"), [(0.95, 19), (0.9, 9), (0.5, 1)])
def test_nothing_is_foreseen_before_enough_candidates_have_finished(confidence: float, needed: int) -> None:
    gains = FineTuningGains(confidence=confidence)
    for number, curve in enumerate(curves(needed, np.random.default_rng(0))):
        assert gains.outlook(1, accuracy=0.5) is None
        gains.add(str(number), curve)
    outlook = gains.outlook(1, accuracy=0.5)
    assert outlook is not None
    assert 0.5 < outlook.expected <= outlook.most


def test_finals_stay_below_the_outlook_as_often_as_stated() -> None:
    rng = np.random.default_rng(4)
    below = 0
    for _ in range(200):
        gains = FineTuningGains(confidence=0.8)
        *finished, (first, *_, last) = curves(15, rng)
        for number, curve in enumerate(finished):
            gains.add(str(number), curve)
        outlook = gains.outlook(1, accuracy=first)
        assert outlook is not None
        below += last <= outlook.most
    assert below >= 150


def test_curves_of_results_without_any_are_left_out() -> None:
    gains = FineTuningGains(confidence=0.5)
    gains.add("old", ())
    assert gains.outlook(1, accuracy=0.5) is None


def test_only_who_is_no_slower_and_as_accurate_beats() -> None:
    front = {"fast": (0.7, 1.0), "middle": (0.8, 2.0), "slow": (0.9, 3.0)}
    assert beaten_by(front, accuracy=0.75, fastest_ms=2.5) == "middle"
    assert beaten_by(front, accuracy=0.85, fastest_ms=2.5) is None
    assert beaten_by(front, accuracy=0.7, fastest_ms=1.0) == "fast"
    assert beaten_by(front, accuracy=0.1, fastest_ms=0.5) is None
