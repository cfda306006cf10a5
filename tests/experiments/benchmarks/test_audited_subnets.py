"""What an audit keeps: batches that survive an end in the middle, comparable sessions, settings that stay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.audited_subnets import (
    AUDITED,
    REFERENCE,
    KeptAccuracies,
    KeptCosts,
    draw_subnets,
    require_same_settings,
)
from experiments.datasets import load_dataset
from experiments.recipe_settings import DataSettings
from experiments.workload import load_workload
from hardware.device import Device, get_device
from hardware.errors import MeasurementError, StorageError
from hardware.measurement import MEASUREMENT_SCHEMA, CostMeasurement
from hardware.table import Table
from nas.data import DataSplits
from searchspaces import Architecture, get_space
from tests.fakes.devices import FlakyBackend
from tests.nas.tiny_run import SPACE, ignore

DEVICE_ID = "onnxruntime-cpu"


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_dataset(DataSettings(dataset="digits", search=200, verify=400, report=300), seed=0)


def kept(directory: Path, data: DataSplits, *, protocol: str = "quick") -> KeptCosts:
    return KeptCosts(directory, space=SPACE, data=data, protocol=protocol, seed=0)


def flaky_device() -> tuple[Device, FlakyBackend]:
    device = get_device(DEVICE_ID)
    backend = FlakyBackend(device.backend)
    return replace(device, backend=backend), backend


@pytest.fixture(scope="module")
def archs() -> list[Architecture]:
    return draw_subnets(SPACE, num=5, seed=0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, data: DataSplits, archs: list[Architecture]) -> Path:
    """Five subnets, measured three at a time."""
    directory = tmp_path_factory.mktemp("measured")
    kept(directory, data).measure_missing(get_device(DEVICE_ID), archs, batch=3, again=False, say=ignore)
    return directory


def rows(directory: Path) -> list[dict[str, object]]:
    table = Table(directory / DEVICE_ID, schema=MEASUREMENT_SCHEMA).read()
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def append(directory: Path, record: CostMeasurement, arch: Architecture, *, purpose: str) -> None:
    Table(directory / DEVICE_ID, schema=MEASUREMENT_SCHEMA).append(
        [
            {
                **record.to_row(),
                "arch_id": arch.arch_id,
                "candidate_id": "untrained",
                "architecture": arch.to_json(),
                "purpose": purpose,
            }
        ]
    )


def copy(measured: Path, directory: Path, *, archs: list[Architecture]) -> dict[Architecture, CostMeasurement]:
    """The audited subnets' records in a table that a test may add to; none of them suspect, whatever the host did."""
    records = {}
    for row in rows(measured):
        record = replace(CostMeasurement.from_row(row), suspect=False, suspect_reason="")
        arch = next(arch for arch in archs if arch.arch_id == row["arch_id"])
        append(directory, record, arch, purpose=str(row["purpose"]))
        if row["purpose"] == AUDITED:
            records[arch] = record
    return records


def test_the_sample_begins_with_the_ends_and_a_short_one_is_the_beginning_of_a_long_one() -> None:
    space = get_space("mbconv-small")
    archs = draw_subnets(space, num=200, seed=0)
    assert archs[:2] == [space.smallest, space.largest]
    assert len(set(archs)) == 200
    assert draw_subnets(space, num=40, seed=0) == archs[:40]
    assert draw_subnets(space, num=40, seed=1) != archs[:40]
    assert len(draw_subnets(SPACE, num=10_000, seed=0)) <= SPACE.size


def test_the_largest_subnet_takes_part_in_every_session(measured: Path, archs: list[Architecture]) -> None:
    found = rows(measured)
    assert {row["arch_id"] for row in found if row["purpose"] == AUDITED} == {arch.arch_id for arch in archs}
    assert len(found) == len(archs) + 1
    sessions = {row["session_id"] for row in found}
    assert len(sessions) == 2
    for session in sessions:
        assert SPACE.largest.arch_id in {row["arch_id"] for row in found if row["session_id"] == session}
    assert [row["arch_id"] for row in found if row["purpose"] == REFERENCE] == [SPACE.largest.arch_id]


def test_what_was_measured_before_an_end_in_the_middle_stays(
    tmp_path: Path, data: DataSplits, archs: list[Architecture]
) -> None:
    device, backend = flaky_device()
    costs = kept(tmp_path, data)

    def lose_power(text: str) -> None:
        backend.failing.add("build")

    with pytest.raises(MeasurementError, match="cannot build"):
        costs.measure_missing(device, archs, batch=2, again=False, say=lose_power)
    found = costs.costs(DEVICE_ID, archs)
    assert found.num_missing == 3
    backend.failing.clear()
    lines: list[str] = []
    kept(tmp_path, data).measure_missing(device, archs, batch=2, again=False, say=lines.append)
    assert [line.partition(" missing")[0] for line in lines] == [f"{DEVICE_ID}: 2 of 3", f"{DEVICE_ID}: 3 of 3"]
    assert sum(row["purpose"] == AUDITED for row in rows(tmp_path)) == 5
    backend.failing.add("build")  # nothing is left to build
    costs.measure_missing(device, archs, batch=2, again=False, say=lines.append)
    assert len(lines) == 2


def test_costs_are_times_that_were_measured(
    tmp_path: Path, measured: Path, data: DataSplits, archs: list[Architecture]
) -> None:
    records = copy(measured, tmp_path, archs=archs)
    found = kept(tmp_path, data).costs(DEVICE_ID, archs)
    assert (found.unit, found.provenance, found.num_suspect, found.num_missing) == ("ms", "measured", 0, 0)
    assert (found.values_N > 0).all()
    assert found.values_N[archs.index(SPACE.largest)] == pytest.approx(records[SPACE.largest].p50)


def test_a_session_on_a_slower_host_gives_the_same_costs(
    tmp_path: Path, measured: Path, data: DataSplits, archs: list[Architecture]
) -> None:
    records = copy(measured, tmp_path, archs=archs)
    before_N = kept(tmp_path, data).costs(DEVICE_ID, archs).values_N
    first_session = records[archs[0]].session_id
    for arch in (SPACE.largest, archs[0]):
        record = records[arch]
        assert record.session_id == first_session
        slow = tuple(tuple(2.0 * ms for ms in runs) for runs in record.raw_ms)
        times = {name: 2.0 * getattr(record, name) for name in ("p50", "p90", "p99", "low", "high")}
        again = replace(record, session_id="0" * 12, raw_ms=slow, **times)
        append(tmp_path, again, arch, purpose=REFERENCE if arch == SPACE.largest else AUDITED)
    np.testing.assert_allclose(kept(tmp_path, data).costs(DEVICE_ID, archs).values_N, before_N)


def test_suspect_records_are_left_out_counted_and_measured_again_when_asked(
    tmp_path: Path, measured: Path, data: DataSplits, archs: list[Architecture]
) -> None:
    records = copy(measured, tmp_path, archs=archs)
    append(tmp_path, replace(records[archs[0]], suspect=True, suspect_reason="a test"), archs[0], purpose=AUDITED)
    costs = kept(tmp_path, data)
    found = costs.costs(DEVICE_ID, archs)
    assert (found.num_suspect, found.num_missing) == (1, 0)
    assert np.isnan(found.values_N).tolist() == [True] + [False] * 4
    lines: list[str] = []
    costs.measure_missing(get_device(DEVICE_ID), archs, batch=3, again=False, say=lines.append)
    assert lines == []
    costs.measure_missing(get_device(DEVICE_ID), archs, batch=3, again=True, say=lines.append)
    assert [line.partition(" missing")[0] for line in lines] == [f"{DEVICE_ID}: 1 of 1"]
    assert [row["arch_id"] for row in rows(tmp_path)[-2:]] == [SPACE.largest.arch_id, archs[0].arch_id]


def test_a_session_whose_reference_is_suspect_is_suspect(
    tmp_path: Path, measured: Path, data: DataSplits, archs: list[Architecture]
) -> None:
    records = copy(measured, tmp_path, archs=archs)
    reference, own = records[SPACE.largest], records[archs[-1]]
    append(
        tmp_path,
        replace(reference, session_id="0" * 12, suspect=True, suspect_reason="a test"),
        SPACE.largest,
        purpose=REFERENCE,
    )
    append(tmp_path, replace(own, session_id="0" * 12), archs[-1], purpose=AUDITED)
    found = kept(tmp_path, data).costs(DEVICE_ID, archs)
    assert np.isnan(found.values_N).tolist() == [False] * 4 + [True]


def test_other_settings_or_another_machine_cannot_go_on(
    tmp_path: Path, measured: Path, data: DataSplits, archs: list[Architecture]
) -> None:
    with pytest.raises(StorageError, match=r"made with protocol 'quick', now it is 'standard'"):
        kept(measured, data, protocol="standard")
    device = get_device(DEVICE_ID)
    kept(measured, data).require_same_device(device)
    kept(tmp_path, data).require_same_device(device)  # nothing measured yet
    record = copy(measured, tmp_path, archs=archs)[archs[-1]]
    append(tmp_path, replace(record, cpu_model="Abacus 1"), archs[-1], purpose=AUDITED)
    with pytest.raises(StorageError, match="Abacus 1"):
        kept(tmp_path, data).require_same_device(device)


def test_a_setting_that_was_added_later_is_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    require_same_settings(path, {"a": 1, "b": [1, 2]})
    require_same_settings(path, {"b": [1, 2], "a": 1})
    with pytest.raises(StorageError, match="made with c None, now it is 3"):
        require_same_settings(path, {"a": 1, "b": [1, 2], "c": 3})


def test_accuracies_are_judged_once_and_belong_to_one_supernet(tmp_path: Path, trained_run: Path) -> None:
    workload = load_workload(trained_run)
    archs = draw_subnets(workload.run.space, num=3, seed=0)
    lines: list[str] = []
    path = tmp_path / "accuracies.json"
    KeptAccuracies(path, workload=workload).judge_missing(archs[:2], say=lines.append)
    accuracies = KeptAccuracies(path, workload=workload)
    assert np.isnan(accuracies.accuracies(archs)).tolist() == [False, False, True]
    accuracies.judge_missing(archs, say=lines.append)
    accuracies.judge_missing(archs, say=lines.append)
    assert [line.partition(" missing")[0] for line in lines] == ["accuracies: 2 of 2", "accuracies: 1 of 1"]
    expected = [score.accuracy.value for score in workload.subnet_judge.judge(archs)]
    assert accuracies.accuracies(archs).tolist() == expected
    path.with_name("accuracies-settings.json").write_text('{"supernet_sha256": "another"}')
    with pytest.raises(StorageError, match="made with"):
        KeptAccuracies(path, workload=workload)
