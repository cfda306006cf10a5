"""What can be set in a space: limits, and hints that look like the setting."""

from typing import Any

import numpy as np
import pytest

from searchspaces import SpaceError, get_space
from searchspaces.settings import check_ascending, check_positive

STAGE: dict[str, Any] = {"channels": 8, "stride": 1, "depths": [1]}


def largest_counts(name: str, settings: dict[str, Any]) -> tuple[int, int]:
    space = get_space(name, **settings)
    table = space.op_table(space.genomes([space.largest]))
    assert min(table.macs.min(), table.params.min(), table.input_elements.min(), table.output_elements.min()) >= 0
    return int(table.macs.sum()), sum(int(count) for count in table.macs[0])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mbconv-small", {"stem_channels": 10**30}, "stem_channels is 1000000000.*, at most 65536 is allowed"),
        ("mbconv-small", {"stages": [{**STAGE, "channels": 65537}]}, r"stage 1: channels is 65537, at most 65536"),
        ("mbconv-small", {"stages": [{**STAGE, "channels": 60000}], "width": 2}, r"channels is 120000, at most 65536"),
        ("mbconv-small", {"kernels": [3, 33]}, "kernels is 33, at most 31"),
        ("mbconv-small", {"kernels": [3, 30]}, r"stage 1: kernels must be odd, got \[3, 30\]"),
        ("mbconv-small", {"expands": [3, 65]}, "expands is 65, at most 64"),
        ("mbconv-small", {"stages": [{**STAGE, "depths": [65]}]}, r"stage 1: depths is 65, at most 64"),
        ("mbconv-small", {"stages": [STAGE] * 65}, "65 stages are too many"),
        ("mbconv-small", {"stages": [{**STAGE, "stride": 2}] * 64}, "leaves 1 x 1 pixels"),
        ("mbconv-small", {"resolutions": [4097]}, "resolutions is 4097, at most 4096"),
        ("ofa-mobilenetv3-w1.0", {"resolutions": [128, 2**63]}, "resolutions is 9223372036854775808, at most 4096"),
        ("nas-bench-macro", {"resolutions": [2**32]}, "resolutions is 4294967296, at most 4096"),
        ("nas-bench-macro", {"in_channels": 2**62}, "in_channels is 4611686018427387904, at most 65536"),
        ("conv1d-sensor", {"length": 2**40}, "length is 1099511627776, at most 1048576"),
        ("conv1d-sensor", {"widths": [[16, 2**40]]}, r"stage 1: widths is 1099511627776, at most 65536"),
        ("conv1d-sensor", {"widths": [[16]] * 65}, "65 stages are too many"),
        ("conv1d-sensor", {"depths": [1, 100]}, "depths is 100, at most 64"),
        ("conv1d-sensor", {"kernels": [33]}, "kernels is 33, at most 31"),
        ("conv1d-sensor", {"stem_kernel": 8}, r"stem_kernel must be odd, got \[8\]"),
    ],
)
def test_settings_beyond_all_reason_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        get_space(name, **settings)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "mbconv-small",
            {
                "stages": [{**STAGE, "channels": 2**16, "depths": [64], "se": True}] * 64,
                "expands": [64],
                "kernels": [31],
                "resolutions": [4096],
                "stem_stride": 1,
            },
        ),
        ("conv1d-sensor", {"length": 2**20, "widths": [[2**16]] * 64, "depths": [64]}),
    ],
)
def test_networks_whose_operations_do_not_fit_an_integer_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match="multiply-accumulate operations") as refusal:
        get_space(name, **settings)
    assert "fewer stages" in refusal.value.hint


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mbconv-small", {"stages": [{**STAGE, "channels": 2**12, "se": True}] * 64, "resolutions": [4096]}),
        ("mbconv-small", {"stages": [{**STAGE, "channels": 1}], "resolutions": [4096], "head_channels": 2**16}),
        ("conv1d-sensor", {"length": 2**20, "widths": [[2**11]] * 64, "depths": [8]}),
        ("ofa-resnet50d", {"resolutions": [4096], "width": 10, "in_channels": 2**16}),
        ("nas-bench-macro", {"resolutions": [4096], "width": 10, "in_channels": 2**16}),
        ("ofa-mobilenetv3-w1.2", {"resolutions": [4096], "in_channels": 2**16}),
    ],
)
def test_the_counts_of_what_is_allowed_are_exact(name: str, settings: dict[str, Any]) -> None:
    summed, exact = largest_counts(name, settings)
    assert summed == exact > 2**35


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("resolutions", "resolutions: [16, 20, 24]"),
        ("stage 2: depths", "depths: [1, 2, 3]"),
        ("stage 2: kernels", "kernels: [3, 5, 7]"),
        ("stage 1: widths", "widths: [[16, 32], [32, 64]]"),
    ],
)
def test_the_example_of_a_hint_looks_like_the_setting(name: str, example: str) -> None:
    for values in ("nonsense", [3, 2], [10**9]):
        with pytest.raises(SpaceError) as refusal:
            check_ascending(name, values)
        assert refusal.value.hint == f"for example {example}"


@pytest.mark.parametrize(
    ("name", "settings", "message", "example"),
    [
        ("mbconv-small", {"stages": [{**STAGE, "stride": 3}]}, "stage 1: stride is 3, allowed are 1, 2", "stride: 1"),
        ("mbconv-small", {"stages": [STAGE, {**STAGE, "kernels": [4]}]}, "stage 2: kernels must", "kernels: [3, 5, 7]"),
        ("conv1d-sensor", {"strides": [1, 3, 1]}, "stage 2: strides is 3, allowed are 1, 2", "strides: [1, 2]"),
    ],
)
def test_stages_are_counted_from_one_in_words(name: str, settings: dict[str, Any], message: str, example: str) -> None:
    with pytest.raises(SpaceError) as refusal:
        get_space(name, **settings)
    assert str(refusal.value).startswith(message)
    assert refusal.value.hint == f"for example {example}"


def test_numbers_of_numpy_are_shown_plainly() -> None:
    with pytest.raises(SpaceError, match=r"in_channels must be a positive integer, got 3\.5") as refusal:
        check_positive("in_channels", np.float64(3.5))
    assert refusal.value.hint == "for example in_channels: 3"
    with pytest.raises(SpaceError, match=r"got \[5, 3\]$"):
        check_ascending("kernels", [np.int64(5), np.int64(3)])


def test_long_lists_of_values_are_shown_in_part() -> None:
    with pytest.raises(SpaceError, match=r"16, 17, 18, 19, 20, 21, 22, 23, \.\.\. \(1000 values\)$") as refusal:
        get_space("mbconv-small", resolutions=list(range(16, 1016)))
    assert "127" in refusal.value.hint
    with pytest.raises(SpaceError, match=r"\.\.\. \(1000 values\)\]$"):
        check_ascending("resolutions", list(range(1000, 0, -1)))
