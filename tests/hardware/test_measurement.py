import dataclasses
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hardware.errors import MeasurementError
from hardware.measurement import MEASUREMENT_SCHEMA, CostMeasurement
from hardware.table import Table

KEYS = {"arch_id": "0123456789ab", "candidate_id": "c1", "architecture": "{}", "purpose": "fit"}


def measurement(**changes: object) -> CostMeasurement:
    values: dict[str, object] = {
        "measurement_id": "ab12",
        "device_id": "onnxruntime-cpu",
        "provenance": "measured",
        "p50": 0.5,
        "p90": 0.6,
        "p99": 0.7,
        "low": 0.49,
        "high": 0.51,
        "level": 0.95,
        "num_rounds": 2,
        "runs_per_round": 3,
        "warmup_runs": 1,
        "converged": True,
        "drift": -0.01,
        "suspect": False,
        "suspect_reason": "",
        "raw_ms": ((0.5, 0.6, 0.4), (0.5, 0.7, 0.5)),
        "artifact_sha256": "0" * 64,
        "protocol": "quick",
        "threads": 1,
        "batch": 1,
        "precision": "fp32",
        "versions": {"onnxruntime": "1.31"},
        "cpu_model": "a CPU",
        "governor": None,
        "load_average": 0.2,
        "involuntary_switches": 0,
        "lease_token": 7,
        "session_id": "fedcba987654",
        "utc_time": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    }
    return CostMeasurement(**{**values, **changes})  # type: ignore[arg-type]


def test_a_record_gives_every_cost_that_it_holds() -> None:
    timed = measurement(also={"energy_mj": 3.0}).costs()
    assert timed == {"latency_ms": 0.5, "latency_p99_ms": 0.7, "energy_mj": 3.0}
    assert math.isnan(measurement().costs()["energy_mj"])
    counted = measurement(provenance="simulated", quantity="instructions", unit="instructions", also={"ram_bytes": 8.0})
    assert counted.costs() == {"latency_instructions": 0.5}


@pytest.mark.parametrize("governor", [None, "performance"])
def test_a_measurement_survives_its_table_exactly(tmp_path: Path, governor: str | None) -> None:
    original = measurement(governor=governor)
    table = Table(tmp_path, schema=MEASUREMENT_SCHEMA)
    table.append([{**KEYS, **original.to_row()}])
    (row,) = table.read().to_dict("records")
    assert CostMeasurement.from_row({str(name): value for name, value in row.items()}) == original
    assert {name: row[name] for name in KEYS} == KEYS


def test_a_row_round_trips_without_a_table() -> None:
    assert CostMeasurement.from_row(measurement().to_row()) == measurement()


def test_rows_and_schema_have_the_same_columns() -> None:
    assert set(MEASUREMENT_SCHEMA.names) == set(KEYS) | set(measurement().to_row())
    assert len(MEASUREMENT_SCHEMA.names) == len(set(MEASUREMENT_SCHEMA.names))


@pytest.mark.parametrize("field", ["p50", "p90", "p99", "low", "high"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_makes_no_sense_is_refused(field: str, value: float) -> None:
    with pytest.raises(MeasurementError, match=f"latency {field} on onnxruntime-cpu is {value}"):
        measurement(**{field: value})


def test_a_prediction_is_no_measurement() -> None:
    with pytest.raises(MeasurementError, match=r"'predicted', expected one of .*'simulated'"):
        measurement(provenance="predicted")


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(MeasurementError, match="without a time zone"):
        measurement(utc_time=datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_row_without_a_column_names_it() -> None:
    row = measurement().to_row()
    del row["p50"]
    with pytest.raises(MeasurementError, match=r"needs the columns \['p50'\]"):
        CostMeasurement.from_row(row)


def test_a_measurement_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        measurement().p50 = 1.0  # type: ignore[misc]
