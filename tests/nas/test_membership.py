"""Who belongs to the front, and how surely."""

import itertools

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.membership import membership, on_front


def candidates(
    *values: tuple[int, float, float], provenance: str = "measured", metric: str = "top1", arch: str | None = None
) -> pd.DataFrame:
    """Candidates with (correct of 1,000, latency, half width of its interval relative to it)."""
    return pd.DataFrame(
        [
            {
                "arch_id": f"a{number}" if arch is None else arch,
                "metric": metric,
                "accuracy": correct / 1000,
                "accuracy_low": correct / 1000 - 0.02,
                "accuracy_high": min(1.0, correct / 1000 + 0.02),
                "num_correct": correct,
                "num_images": 1000,
                "latency_ms": latency,
                "latency_low_ms": latency * (1 - width),
                "latency_high_ms": latency * (1 + width),
                "provenance": provenance,
            }
            for number, (correct, latency, width) in enumerate(values)
        ]
    )


def test_what_is_clear_is_certain_and_twins_share() -> None:
    fast, good, beaten = membership(candidates((500, 1.0, 0.01), (900, 2.0, 0.01), (450, 3.0, 0.01)))
    assert (fast, good, beaten) == (1.0, 1.0, 0.0)
    one, other = membership(candidates((900, 1.0, 0.01), (900, 1.0, 0.01)))
    # one of them is on the front; the other one only where it is slower and better, or faster and worse
    assert one == pytest.approx(0.75, abs=0.03)
    assert other == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("metric", ["top1", "macro-f1"])
def test_a_wider_interval_makes_a_beaten_candidate_likelier(metric: str) -> None:
    shares = [
        membership(candidates((900, 1.0, 0.001), (890, 1.05, width), metric=metric))[1] for width in (0.001, 0.05, 0.2)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > shares[0] + 0.1


def test_predictions_are_less_sure_than_measurements_with_the_same_interval() -> None:
    # 90 % of a wider distribution lie where 95 % of a narrower one do
    measured = membership(candidates((900, 1.0, 0.05), (700, 1.06, 0.05)))[1]
    predicted = membership(candidates((900, 1.0, 0.05), (700, 1.06, 0.05), provenance="predicted"))[1]
    assert predicted > measured


def test_two_versions_of_one_architecture_have_one_predicted_latency() -> None:
    values = ((900, 1.0, 0.05), (700, 1.0, 0.05))
    assert membership(candidates(*values, provenance="predicted", arch="a")).tolist() == [1.0, 0.0]
    apart = membership(candidates(*values, provenance="predicted"))
    assert apart[1] == pytest.approx(0.5, abs=0.03)


def test_measured_versions_of_one_architecture_share_their_pooled_latency() -> None:
    noise = candidates((780, 0.0842, 0.01), (533, 0.0840, 0.01), arch="a")
    assert membership(noise).tolist() == [1.0, 0.0]
    # 1.0 +- .001 outweighs 1.2 +- .1: surely faster than 1.05
    values = ((900, 1.0, 0.001), (890, 1.2, 0.1), (850, 1.05, 0.001))
    rows = candidates(*values).assign(arch_id=["a", "a", "b"])
    assert membership(rows)[2] == 0.0


def test_the_same_rows_give_the_same_numbers_and_failed_ones_none() -> None:
    rows = candidates((900, 1.0, 0.1), (910, 1.1, 0.1), (905, float("nan"), 0.1))
    found = membership(rows)
    np.testing.assert_array_equal(found, membership(rows))
    assert np.isnan(found).tolist() == [False, False, True]
    assert len(membership(rows.head(0))) == 0
    assert np.isnan(membership(rows.tail(1))).all()


@settings(max_examples=50)
@given(hnp.arrays(np.float64, (3, 2, 5), elements=st.sampled_from([0.1, 0.2, 0.3, 0.4])))
def test_the_front_of_each_draw_is_that_of_brute_force(values: npt.NDArray[np.float64]) -> None:
    accuracy_SN, latency_SN = values[:, 0], values[:, 1]
    found_SN = on_front(accuracy_SN, latency_SN)
    for s, n in itertools.product(range(3), range(5)):
        a, t = accuracy_SN[s, n], latency_SN[s, n]
        others = [(accuracy_SN[s, m], latency_SN[s, m], m) for m in range(5) if m != n]
        beaten = any(b >= a and u <= t and ((b, u) != (a, t) or m < n) for b, u, m in others)
        assert found_SN[s, n] == (not beaten)
