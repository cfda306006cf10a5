"""The joint front of several devices, from tables."""

from collections.abc import Mapping

import pandas as pd
import pytest

from nas.joint_front import compute_joint_front, joint_warnings


def evaluation(arch: str, accuracy: float, latency_ms: float, **more: object) -> Mapping[str, object]:
    return {
        "candidate_id": f"{arch}-w-fp32",
        "arch_id": arch,
        "weights": "w",
        "architecture": "{}",
        "weights_kind": "inherited",
        "metric": "top1",
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.1,
        "accuracy_high": accuracy + 0.1,
        "latency_predicted_ms": latency_ms,
        "latency_predicted_low_ms": 0.9 * latency_ms,
        "latency_predicted_high_ms": 1.1 * latency_ms,
        "macs": 10,
        "params": 5,
        **more,
    }


def verification(arch: str, accuracy: float, latency_ms: float, *, device: str, **more: object) -> Mapping[str, object]:
    return {
        **evaluation(arch, accuracy, 99.0),
        "device_id": device,
        "latency_ms": latency_ms,
        "latency_low_ms": latency_ms,
        "latency_high_ms": latency_ms,
        "provenance": "measured",
        "suspect": False,
        **more,
    }


NOTHING = pd.DataFrame([verification("x", 0.1, 1.0, device="a")]).head(0)
# On device a the second is faster, on b the first; the third is beaten on both; the fourth failed.
ON_A = pd.DataFrame(
    [
        evaluation("n1", 0.8, 2.0),
        evaluation("n2", 0.8, 1.0),
        evaluation("n3", 0.7, 2.0),
        evaluation("n4", float("nan"), 1),
    ]
)
ON_B = pd.DataFrame(
    [
        evaluation("n1", 0.8, 1.0),
        evaluation("n2", 0.8, 2.0),
        evaluation("n3", 0.7, 2.5),
        evaluation("n4", float("nan"), 1),
    ]
)


def test_of_an_architecture_with_several_weights_the_most_accurate_ones_compete() -> None:
    """That the others were a little faster is noise."""
    tuned = {"candidate_id": "n1-v-fp32", "weights": "v", "weights_kind": "fine-tuned"}
    failed = {"candidate_id": "n1-u-fp32", "weights": "u", "weights_kind": "fine-tuned"}
    rows = [evaluation("n1", 0.8, 2.0), evaluation("n1", float("nan"), 1.9, **failed)]
    rows.append(evaluation("n1", 0.85, 2.01, **tuned))
    front = compute_joint_front({"a": pd.DataFrame(rows), "b": pd.DataFrame(rows[::-1])}, NOTHING)
    assert [(point.arch_id, point.accuracy) for point in front.points] == [("n1", 0.85)]


def test_a_network_that_is_best_on_one_device_is_on_the_front() -> None:
    front = compute_joint_front({"a": ON_A, "b": ON_B}, NOTHING)
    assert (front.devices, front.split) == (("a", "b"), "search")
    assert [point.arch_id for point in front.points] == ["n2", "n1"]
    assert front.reference_point == pytest.approx((0.0, 2.2, 2.75))
    # Boxes of 1.2 x .75 and of .2 x 1.75 ms with .2 x .75 in common, and an accuracy of .8.
    assert front.hypervolume == pytest.approx(0.8 * (1.2 * 0.75 + 0.2 * 1.75 - 0.2 * 0.75))
    latency = front.points[0].latencies["b"]
    assert (latency.latency_ms, latency.provenance) == (2.0, "predicted")
    assert "2 of 2 latencies on a are predicted" in joint_warnings(front)[0]


def test_what_is_verified_on_one_device_is_predicted_on_the_other() -> None:
    verified = pd.DataFrame(
        [
            verification("n1", 0.6, 2.1, device="a"),
            verification("n1", 0.5, 1.1, device="b", suspect=True),
            verification("n2", 0.7, 1.1, device="a"),
            verification("n3", 0.9, float("nan"), device="a"),
        ]
    )
    front = compute_joint_front({"a": ON_A, "b": ON_B}, verified)
    assert front.split == "verify"
    found = {point.arch_id: point for point in front.points}
    # The third has no latency, as its device was dead.
    assert set(found) == {"n1", "n2"}
    assert found["n1"].accuracy == 0.5
    assert [one.provenance for one in found["n1"].latencies.values()] == ["measured", "measured"]
    assert [one.provenance for one in found["n2"].latencies.values()] == ["measured", "predicted"]
    assert found["n2"].latencies["b"].latency_ms == 2.0
    said = " ".join(joint_warnings(front))
    assert "1 of 2 latencies on b are predicted" in said
    assert "1 of 2 latencies on b are suspect" in said
    assert found["n1"].to_json()["latency_ms"] == {"a": 2.1, "b": 1.1}


def test_what_was_verified_without_measuring_competes_with_its_predicted_latencies() -> None:
    nan = float("nan")
    none = {"latency_low_ms": nan, "latency_high_ms": nan, "provenance": "predicted"}
    rows = [
        {**verification(arch, accuracy, nan, device=device), **none, "latency_predicted_ms": latency_ms}
        for arch, accuracy, by_device in (("n1", 0.6, (2.0, 1.0)), ("n2", 0.7, (1.0, 2.0)))
        for device, latency_ms in zip("ab", by_device, strict=True)
    ]
    front = compute_joint_front({"a": ON_A, "b": ON_B}, pd.DataFrame(rows))
    assert front.split == "verify"
    assert {point.arch_id: point.accuracy for point in front.points} == {"n1": 0.6, "n2": 0.7}
    assert {one.provenance for point in front.points for one in point.latencies.values()} == {"predicted"}
    # What is measured and what is not are not compared.
    front = compute_joint_front({"a": ON_A, "b": ON_B}, pd.DataFrame([*rows, verification("n1", 0.6, 2.0, device="a")]))
    assert [point.arch_id for point in front.points] == ["n1"]


def test_precisions_of_one_network_are_one_point() -> None:
    verified = pd.DataFrame(
        [
            verification("n1", 0.6, 2.1, device="a"),
            verification("n1", 0.4, 0.5, device="b", candidate_id="n1-w-int8"),
        ]
    )
    (point,) = compute_joint_front({"a": ON_A, "b": ON_B}, verified).points
    assert (point.accuracy, point.latencies["b"].latency_ms) == (0.4, 0.5)


def test_equal_networks_count_once_and_nothing_gives_nothing() -> None:
    twins = pd.DataFrame([evaluation("n2", 0.8, 1.0), evaluation("n1", 0.8, 1.0)])
    front = compute_joint_front({"a": twins, "b": twins}, NOTHING)
    assert [point.arch_id for point in front.points] == ["n1"]
    nothing = compute_joint_front({"a": twins.head(0), "b": twins.head(0)}, NOTHING)
    assert (nothing.points, nothing.hypervolume) == ((), 0.0)
