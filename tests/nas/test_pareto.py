"""Pareto fronts: properties against brute force, and fronts from tables."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import (
    ParetoFront,
    compute_front,
    front_mask,
    front_order,
    hypervolume,
    hypervolume_by_evaluation,
    pareto_mask,
)
from nas.tables import EVALUATION_SCHEMA, VERIFICATION_SCHEMA
from tests.nas.tiny_run import TinyRun, make_front, make_point

Array = npt.NDArray[np.float64]
Points = tuple[Array, Array]

# Few distinct values, so that ties and duplicates are common; latencies are positive.
ACCURACIES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 0.1 + 0.2, 0.3])
LATENCIES = st.sampled_from([0.125, 0.5, 1.0, 2.0, 3.5, 1e-3])


def points(*, failures: bool = True, least: int = 0) -> st.SearchStrategy[Points]:
    """Accuracies and latencies; NaN marks a failed one."""
    accuracies = ACCURACIES | st.just(float("nan")) if failures else ACCURACIES
    latencies = LATENCIES | st.just(float("nan")) if failures else LATENCIES
    pairs = st.lists(st.tuples(accuracies, latencies), min_size=least, max_size=12)
    return pairs.map(lambda rows: (np.array([a for a, _ in rows]), np.array([t for _, t in rows])))


def dominates(accuracy: float, latency: float, other_accuracy: float, other_latency: float) -> bool:
    no_worse = accuracy >= other_accuracy and latency <= other_latency
    return no_worse and (accuracy > other_accuracy or latency < other_latency)


def brute_force_mask(accuracy_N: Array, latency_N: Array) -> list[bool]:
    valid = [not (math.isnan(a) or math.isnan(t)) for a, t in zip(accuracy_N, latency_N, strict=True)]
    return [
        valid[n]
        and not any(
            valid[m] and dominates(accuracy_N[m], latency_N[m], accuracy_N[n], latency_N[n]) for m in range(len(valid))
        )
        for n in range(len(valid))
    ]


def brute_force_hypervolume(accuracy_N: Array, latency_N: Array, *, reference: tuple[float, float]) -> float:
    """The union of the rectangles, counted cell by cell of the grid that all corners span."""
    rows = [(a, t) for a, t in zip(accuracy_N, latency_N, strict=True) if not (math.isnan(a) or math.isnan(t))]
    across = sorted({reference[0], *(a for a, _ in rows)})
    along = sorted({reference[1], *(t for _, t in rows)})
    total = 0.0
    for low_a, high_a in itertools.pairwise(across):
        for low_t, high_t in itertools.pairwise(along):
            inside = low_a >= reference[0] and high_t <= reference[1]
            if inside and any(a >= high_a and t <= low_t for a, t in rows):
                total += (high_a - low_a) * (high_t - low_t)
    return total


@given(points())
def test_the_mask_is_what_brute_force_finds(rows: Points) -> None:
    assert pareto_mask(*rows).tolist() == brute_force_mask(*rows)


@given(points(), st.lists(LATENCIES, min_size=12, max_size=12))
def test_a_second_device_never_takes_a_point_from_the_front(rows: Points, second: list[float]) -> None:
    accuracy_N, latency_N = rows
    latency_ND = np.column_stack([latency_N, second[: len(latency_N)]])
    mask_N = pareto_mask(accuracy_N, latency_ND)
    expected = [
        bool(np.isfinite(accuracy_N[n]) and np.isfinite(latency_ND[n]).all())
        and not any(
            accuracy_N[m] >= accuracy_N[n]
            and (latency_ND[m] <= latency_ND[n]).all()
            and (accuracy_N[m] > accuracy_N[n] or (latency_ND[m] < latency_ND[n]).any())
            for m in range(len(accuracy_N))
        )
        for n in range(len(accuracy_N))
    ]
    assert mask_N.tolist() == expected


def test_the_volume_over_two_devices_is_that_of_boxes() -> None:
    volume = hypervolume(np.array([0.5, 1.0]), np.array([[1.0, 1.0], [1.0, 2.0]]), reference=(0.0, 2.0, 3.0))
    # 0.5 x 1 x 2, and 1 x 1 x 1, which share 0.5 x 1 x 1.
    assert volume == pytest.approx(1.0 + 1.0 - 0.5)


@given(points(), st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(rows: Points, seed: int) -> None:
    accuracy_N, latency_N = rows
    order = np.random.default_rng(seed).permutation(len(accuracy_N))
    assert (pareto_mask(accuracy_N[order], latency_N[order]) == pareto_mask(accuracy_N, latency_N)[order]).all()
    volume = hypervolume(accuracy_N, latency_N, reference=(0.0, 4.0))
    assert hypervolume(accuracy_N[order], latency_N[order], reference=(0.0, 4.0)) == pytest.approx(volume, abs=1e-12)


@given(points(least=1))
def test_duplicates_share_their_fate_and_add_no_volume(rows: Points) -> None:
    accuracy_N, latency_N = rows
    twice = np.concatenate([accuracy_N, accuracy_N]), np.concatenate([latency_N, latency_N])
    mask_N = pareto_mask(accuracy_N, latency_N)
    assert pareto_mask(*twice).tolist() == [*mask_N.tolist(), *mask_N.tolist()]
    volume = hypervolume(accuracy_N, latency_N, reference=(0.0, 4.0))
    assert hypervolume(*twice, reference=(0.0, 4.0)) == pytest.approx(volume, abs=1e-12)


@given(points(failures=False))
def test_flipping_both_directions_swaps_the_axes(rows: Points) -> None:
    accuracy_N, latency_N = rows
    # "more accurate and faster" reads the same after exchanging the axes and turning both round
    assert (pareto_mask(-latency_N, -accuracy_N) == pareto_mask(accuracy_N, latency_N)).all()


@given(points(failures=False, least=1))
def test_flipping_one_direction_finds_the_opposite_corner(rows: Points) -> None:
    accuracy_N, latency_N = rows
    assert pareto_mask(-accuracy_N, latency_N).tolist() == brute_force_mask(-accuracy_N, latency_N)
    worst_and_fastest = (accuracy_N == accuracy_N.min()) & (latency_N == latency_N.min())
    assert pareto_mask(-accuracy_N, latency_N)[worst_and_fastest].all()


@given(points(), st.sampled_from([(0.0, 4.0), (0.3, 2.0), (0.0, 1.0), (0.5, 0.5)]))
def test_the_hypervolume_is_the_area_that_brute_force_counts(rows: Points, reference: tuple[float, float]) -> None:
    expected = brute_force_hypervolume(*rows, reference=reference)
    assert hypervolume(*rows, reference=reference) == pytest.approx(expected, abs=1e-12)


@given(points(), ACCURACIES, LATENCIES)
def test_another_point_never_lowers_the_hypervolume(rows: Points, accuracy: float, latency: float) -> None:
    before = hypervolume(*rows, reference=(0.0, 4.0))
    more = np.append(rows[0], accuracy), np.append(rows[1], latency)
    assert hypervolume(*more, reference=(0.0, 4.0)) >= before - 1e-12


@given(points())
def test_the_order_peels_front_after_front(rows: Points) -> None:
    accuracy_N, latency_N = rows
    order = front_order(accuracy_N, latency_N)
    left = [n for n in range(len(accuracy_N)) if not (np.isnan(accuracy_N[n]) or np.isnan(latency_N[n]))]
    assert sorted(order) == left
    while left:
        layer = {left[n] for n in np.flatnonzero(brute_force_mask(accuracy_N[left], latency_N[left]))}
        assert set(order[: len(layer)]) == layer
        order = order[len(layer) :]
        left = [n for n in left if n not in layer]


def test_the_order_of_a_front_starts_with_its_ends_and_spreads() -> None:
    latency_N = np.array([1.0, 1.1, 1.2, 4.0, 14.0, 16.0])
    accuracy_N = np.linspace(0.1, 0.9, 6)
    order = front_order(accuracy_N, latency_N)
    assert order[:2] == [0, 5]
    # on the logarithmic axis, 4 ms is the middle of 1 ... 16
    assert order[2] == 3
    assert order[3:] == [2, 1, 4] or order[3:] == [2, 4, 1]


def test_the_knee_is_the_point_farthest_above_the_line_between_the_ends() -> None:
    ends_and_knee = [
        make_point(1, latency_ms=1.0, accuracy=0.5),
        make_point(2, latency_ms=2.0, accuracy=0.9),
        make_point(3, latency_ms=5.0, accuracy=0.92),
        make_point(4, latency_ms=9.0, accuracy=1.0),
    ]
    assert make_front(ends_and_knee).knee() is ends_and_knee[1]
    assert make_front(ends_and_knee[:2]).knee() is ends_and_knee[1]
    assert make_front(ends_and_knee[:1]).knee() is ends_and_knee[0]
    below = make_point(2, latency_ms=2.0, accuracy=0.51)
    assert make_front([ends_and_knee[0], below, ends_and_knee[3]]).knee() is ends_and_knee[3]


def evaluation(candidate: str, *, accuracy: float, latency: float, **changed: object) -> dict[str, object]:
    """A row of the evaluations table."""
    return {
        "candidate_id": candidate,
        "arch_id": candidate.split("-")[0],
        "architecture": "{}",
        "weights": "0",
        "weights_kind": "inherited",
        "precision": "fp32",
        "split": "search",
        "metric": "top1",
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.01,
        "accuracy_high": accuracy + 0.01,
        "num_correct": 1,
        "num_images": 2,
        "device_id": "cpu",
        "latency_predicted_ms": latency,
        "latency_predicted_low_ms": latency * 0.9,
        "latency_predicted_high_ms": latency * 1.1,
        "in_range": True,
        "macs": 10,
        "params": 5,
        "trial_number": 0,
        "seconds": 0.0,
        "utc_time": "",
        **changed,
    }


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=EVALUATION_SCHEMA.names)


NOTHING_VERIFIED = pd.DataFrame(columns=VERIFICATION_SCHEMA.names)


def front_of(rows: list[dict[str, object]]) -> ParetoFront:
    return compute_front(table(rows), NOTHING_VERIFIED, device_id="cpu")


def test_the_predicted_front_is_sorted_and_says_that_it_is_predicted() -> None:
    front = front_of(
        [
            evaluation("b", accuracy=0.9, latency=3.0),
            evaluation("a", accuracy=0.5, latency=1.0),
            evaluation("c", accuracy=0.4, latency=2.0),
        ]
    )
    assert [point.candidate for point in front.points] == ["a", "b"]
    assert (front.provenance, front.split) == ("predicted", "search")
    assert front.points[0].latency_interval_ms == pytest.approx((0.9, 1.1))
    assert front.reference_point == pytest.approx((0.0, 3.3))
    assert front.hypervolume == pytest.approx(0.5 * (3.3 - 1.0) + 0.4 * (3.3 - 3.0))


def test_equal_candidates_stand_once_on_the_front_under_the_first_id() -> None:
    rows = [evaluation(name, accuracy=0.5, latency=1.0) for name in ("b", "a", "c")]
    assert [point.candidate for point in front_of(rows).points] == ["a"]


def test_the_newest_row_of_a_candidate_counts() -> None:
    front = front_of([evaluation("a", accuracy=0.9, latency=1.0), evaluation("a", accuracy=0.5, latency=1.0)])
    assert [point.accuracy for point in front.points] == [0.5]


def test_weights_of_one_architecture_compete_by_accuracy_alone() -> None:
    rows = pd.DataFrame(
        [("a", 0.53, 0.0840), ("a", 0.58, 0.0842), ("b", 0.50, 0.0841), ("c", 0.40, 0.05), ("a", math.nan, 0.01)],
        columns=["arch_id", "accuracy", "latency_ms"],
    ).assign(candidate_id=list("vwxyz"))
    # a's worse weights are on no front, and beat nobody with a latency that is not theirs alone
    assert front_mask(rows, latency="latency_ms").tolist() == [False, True, True, True, False]


def test_failed_and_foreign_rows_stay_off_the_front() -> None:
    front = front_of(
        [
            evaluation("a", accuracy=float("nan"), latency=0.5),
            evaluation("b", accuracy=0.5, latency=1.0),
            evaluation("c", accuracy=1.0, latency=0.1, device_id="another"),
        ]
    )
    assert [point.candidate for point in front.points] == ["b"]


def test_a_fine_tuned_candidate_shows_what_its_inherited_weights_had() -> None:
    front = front_of(
        [
            evaluation("x-1", accuracy=0.6, latency=1.0),
            evaluation("x-2", accuracy=0.8, latency=1.0, weights_kind="fine-tuned"),
            evaluation("y-2", accuracy=0.9, latency=2.0, weights_kind="fine-tuned"),
        ]
    )
    assert [point.candidate for point in front.points] == ["x-2", "y-2"]
    assert front.points[0].accuracy_inherited == 0.6
    assert front.points[0].accuracy_search == 0.8
    assert math.isnan(front.points[1].accuracy_inherited)
    assert front.points[1].to_json()["accuracy_inherited"] is None


def test_nothing_evaluated_gives_an_empty_front() -> None:
    front = front_of([])
    assert front.points == ()
    assert front.provenance == "none"
    assert front.hypervolume == 0.0


def test_what_is_verified_replaces_what_was_promised(verified: TinyRun) -> None:
    front = verified.front()
    rows = verified.verifications()
    assert (front.provenance, front.split) == ("measured", "verify")
    assert {point.candidate for point in front.points} <= set(rows["candidate_id"])
    for point in front.points:
        row = rows[rows["candidate_id"] == point.candidate].iloc[-1]
        assert (point.latency_ms, point.accuracy) == (row["latency_ms"], row["accuracy"])
        assert point.latency_interval_ms == (row["latency_low_ms"], row["latency_high_ms"])
        assert not any(
            dominates(other["accuracy"], other["latency_ms"], point.accuracy, point.latency_ms)
            for other in rows.to_dict("records")
        )


def test_the_hypervolume_by_evaluation_grows_to_the_front_of_the_rows_of_the_search() -> None:
    rows = [
        evaluation("a", accuracy=0.5, latency=2.0),
        evaluation("b", accuracy=0.4, latency=1.0),
        evaluation("c", accuracy=0.3, latency=1.5),
        evaluation("d", accuracy=0.9, latency=9.0, weights_kind="fine-tuned", trial_number=-1),
    ]
    # the reference latency is 2.2: what was refined afterwards does not take part
    assert hypervolume_by_evaluation(table(rows), device_id="cpu") == pytest.approx([0.1, 0.5, 0.5])


def test_a_point_without_a_latency_is_json_with_nulls() -> None:
    nan = float("nan")
    point = make_point(latency_ms=nan, latency_interval_ms=(nan, nan), provenance="unmeasured").to_json()
    assert (point["latency_ms"], point["latency_interval_ms"]) == (None, [None, None])
    assert point["accuracy_interval"] == [0.4, 0.6]
