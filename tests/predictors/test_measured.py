import numpy as np
import pandas as pd
import pytest

from predictors import PredictorError
from predictors.measured import MeasuredArchitectures
from searchspaces import SearchSpace, get_space
from tests.predictors.synthetic_device import DEVICE_ID


def read(
    table: pd.DataFrame, space: SearchSpace, *, quantity: str = "latency", unit: str = "ms"
) -> MeasuredArchitectures:
    return MeasuredArchitectures.from_table(table, space=space, device_id=DEVICE_ID, quantity=quantity, unit=unit)


def test_rows_come_back_in_order_with_medians(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    first = fit_table.head(1)
    again = pd.concat([first.assign(latency_ms=first["latency_ms"] * factor) for factor in (1.0, 1.02, 1.18)])
    measured = read(pd.concat([fit_table.tail(2), again]), space)
    assert measured.genomes_NG.shape == (3, len(space.choices))
    assert measured.genomes_NG.dtype == np.int8
    np.testing.assert_allclose(measured.cost_N[:2], fit_table["latency_ms"].tail(2))
    assert measured.cost_N[2] == pytest.approx(1.02 * fit_table["latency_ms"].iloc[0])


def test_an_empty_table_gives_no_architectures(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    assert len(read(fit_table.head(0), space).cost_N) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -0.1, None, "fast", True])
def test_a_bad_latency_names_its_row_and_value(space: SearchSpace, fit_table: pd.DataFrame, bad: object) -> None:
    values = [*fit_table["latency_ms"].tolist()[:-1], bad]
    table = fit_table.assign(latency_ms=pd.Series(values, dtype=object, index=fit_table.index))
    with pytest.raises(PredictorError, match="row 39 of the measurements: latency_ms is"):
        read(table, space)


def test_contradicting_measurements_name_the_architecture(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    wrong = fit_table.head(1).assign(latency_ms=fit_table["latency_ms"].head(1) * 1.3)
    arch_id = space.architectures(read(fit_table.head(1), space).genomes_NG)[0].arch_id
    with pytest.raises(PredictorError, match=f"{arch_id} contradict"):
        read(pd.concat([fit_table, wrong]), space)


def test_an_architecture_of_another_space_is_refused(fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match=r"row 0 .* belongs to space 'mbconv-small'"):
        read(fit_table, get_space("mbconv-small", resolutions=(16,)))


@pytest.mark.parametrize("text", ["", "{}", "not json", None])
def test_text_that_is_no_architecture_is_refused(space: SearchSpace, fit_table: pd.DataFrame, text: object) -> None:
    table = fit_table.assign(architecture=pd.Series([text] * len(fit_table), dtype=object))
    with pytest.raises(PredictorError, match="row 0"):
        read(table, space)


def test_a_missing_column_is_named(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match="no column 'architecture'"):
        read(fit_table.drop(columns="architecture"), space)


def test_measurements_of_another_device_are_refused(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match="'other-device'") as refusal:
        read(pd.concat([fit_table, fit_table.head(1).assign(device_id="other-device")]), space)
    assert DEVICE_ID in refusal.value.hint
    assert len(read(fit_table.drop(columns="device_id"), space).cost_N) == 40


def test_a_p99_may_differ_more_from_time_to_time(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    first = fit_table.head(1)
    twice = pd.concat([first.assign(latency_p99_ms=value) for value in (1.0, 2.5)])
    assert read(twice, space, quantity="latency_p99").cost_N == pytest.approx([1.75])
    with pytest.raises(PredictorError, match="contradict"):
        read(pd.concat([twice, first.assign(latency_p99_ms=3.5)]), space, quantity="latency_p99")


@pytest.mark.parametrize("units", [["ms", "us"], ["us", "us"]])
def test_a_column_of_units_must_agree(space: SearchSpace, fit_table: pd.DataFrame, units: list[str]) -> None:
    with pytest.raises(PredictorError, match=r"measurements in .*'us', wanted only 'ms'"):
        read(fit_table.head(2).assign(unit=units), space)
    assert len(read(fit_table.head(2).assign(unit="ms"), space).cost_N) == 2


def test_mixed_units_of_energy_are_refused_but_not_that_of_the_latencies(
    space: SearchSpace, fit_table: pd.DataFrame
) -> None:
    table = fit_table.head(2).assign(energy_mj=[1.0, 2.0])
    assert read(table.assign(unit="ms"), space, quantity="energy", unit="mJ").cost_N.tolist() == [1.0, 2.0]
    with pytest.raises(PredictorError, match="'J', 'mJ'"):
        read(table.assign(unit=["mJ", "J"]), space, quantity="energy", unit="mJ")
    with pytest.raises(PredictorError, match="in 'J', wanted only 'mJ'"):
        read(table.assign(unit="J"), space, quantity="energy", unit="mJ")


def test_percentiles_in_another_unit_than_the_medians_are_refused(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match=r"in 40 of 40 rows .* latency_p99_ms is below 10% of latency_ms"):
        read(fit_table.assign(latency_p99_ms=0.002 * fit_table["latency_ms"]), space, quantity="latency_p99")
    with pytest.raises(PredictorError, match=r"in 40 of 40 rows .* is at least 1000 times latency_ms"):
        read(fit_table.assign(latency_p99_ms=1000 * fit_table["latency_ms"]), space, quantity="latency_p99")
    # Tails are brought to the reference's: that may be below the median.
    small = fit_table.assign(latency_p99_ms=0.8 * fit_table["latency_ms"])
    assert len(read(small, space, quantity="latency_p99").cost_N)
    # What a busy host does to small networks.
    busy = fit_table.assign(latency_p99_ms=200 * fit_table["latency_ms"])
    assert len(read(busy, space, quantity="latency_p99").cost_N)
    assert len(read(fit_table.assign(latency_p99_ms=2 * fit_table["latency_ms"]), space, quantity="latency_p99").cost_N)


def test_a_column_without_any_number_is_said_as_a_whole(space: SearchSpace, fit_table: pd.DataFrame) -> None:
    with pytest.raises(PredictorError, match="no row of the measurements has a number in 'energy_mj'") as refusal:
        read(fit_table.assign(energy_mj=float("nan")), space, quantity="energy", unit="mJ")
    assert "counts it" in refusal.value.hint
    with pytest.raises(PredictorError, match="no column 'energy_mj'"):
        read(fit_table, space, quantity="energy", unit="mJ")
    with pytest.raises(PredictorError, match=r"row 0 .* energy_mj is -1\.0"):
        read(fit_table.assign(energy_mj=-1.0), space, quantity="energy", unit="mJ")
