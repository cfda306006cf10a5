import dataclasses

import pytest

from hardware.errors import MeasurementError
from hardware.protocol import PROTOCOLS, get_protocol


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_named_protocol_rests_on_at_least_ten_rounds(name: str) -> None:
    protocol = get_protocol(name)
    assert protocol.name == name
    assert 10 <= protocol.min_rounds <= protocol.max_rounds
    assert protocol.interval_width == (0.01 if name == "standard" else 0.03)


def test_an_unknown_protocol_is_answered_with_the_known_ones() -> None:
    with pytest.raises(MeasurementError, match=r"'sloppy', known are \['quick', 'standard', 'mlperf'\]") as caught:
        get_protocol("sloppy")
    assert "quick, standard" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_rounds", 9),
        ("max_rounds", 9),
        ("runs_per_round", 0),
        ("warmup_runs", -1),
        ("interval_width", 0.0),
        ("level", 1.0),
        ("max_seconds", 0.0),
        ("max_seconds", float("nan")),
        ("min_runs", -1),
        ("min_busy_seconds", -0.1),
        ("quantile", 0.42),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(MeasurementError, match=f"'quick': {field} is {value}"):
        dataclasses.replace(get_protocol("quick"), **{field: value})  # type: ignore[arg-type]


def test_mlperf_asks_for_what_its_single_stream_scenario_asks_for() -> None:
    protocol = get_protocol("mlperf")
    assert protocol.min_runs == 1024
    assert protocol.min_busy_seconds == 60.0
    assert protocol.quantile == 0.9
