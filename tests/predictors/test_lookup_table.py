from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from predictors import (
    LookupTablePredictor,
    OperatorTable,
    PredictorError,
    fit_latency_predictor,
    from_operator_table,
    load_lookup_table,
    load_predictor,
)
from predictors.operator_table import OperatorEntry
from predictors.parts import parts_of
from predictors.testing import PredictorContract, PredictorLoader
from searchspaces import SearchSpace, get_space
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice

SPACE = get_space("mbconv-small")
CALL_MS = 0.006


@pytest.fixture(scope="module")
def table() -> OperatorTable:
    """What every part takes alone on the synthetic device: its operators, and a call of its own."""
    device = SyntheticDevice.draw(1)
    entries: dict[int, dict[str, OperatorEntry]] = {}
    for part in parts_of(SPACE, num_classes=10):
        alone_R = device.parts_ms(SPACE, part.genomes_RG)[part.name]
        for size, key, alone_ms in zip(part.resolutions_R.tolist(), part.keys, alone_R.tolist(), strict=True):
            if key is not None:
                entries.setdefault(size, {})[key] = OperatorEntry(count=200, mean=alone_ms + CALL_MS, std=0.001)
    return OperatorTable(device_id=DEVICE_ID, unit="ms", entries=entries)


@pytest.fixture(scope="module")
def sums(table: OperatorTable) -> LookupTablePredictor:
    return from_operator_table(table, space=SPACE, num_classes=10)


@pytest.fixture(scope="module")
def corrected(sums: LookupTablePredictor, fit_table: pd.DataFrame) -> LookupTablePredictor:
    return sums.corrected(fit_table.head(8))


class TestContract(PredictorContract):
    @pytest.fixture
    def predictor(self, corrected: LookupTablePredictor, held_out_table: pd.DataFrame) -> LookupTablePredictor:
        return corrected.with_scores(corrected.score(held_out_table))

    @pytest.fixture
    def load(self, space: SearchSpace) -> PredictorLoader:
        return lambda directory: load_lookup_table(directory, space=space, device_id=DEVICE_ID)


class TestContractWithoutCorrection(TestContract):
    @pytest.fixture
    def predictor(self, sums: LookupTablePredictor) -> LookupTablePredictor:
        return sums


def test_a_network_takes_what_its_parts_take(table: OperatorTable, sums: LookupTablePredictor) -> None:
    arch = SPACE.smallest
    parts = parts_of(SPACE, num_classes=10)
    keys = {key for part in parts for row, key in enumerate(part.keys) if key and (part.genomes_RG[row] <= 0).all()}
    expected = sum(table.entries[16][key].mean for key in keys)
    found = sums.predict([arch])
    assert found.mean[0] == pytest.approx(expected)
    assert found.upper[0] == pytest.approx(expected + 1.645 * 0.001 * len(keys))
    assert not found.in_range[0]


def test_few_networks_correct_what_sums_miss(
    sums: LookupTablePredictor, corrected: LookupTablePredictor, held_out_table: pd.DataFrame
) -> None:
    assert sums.score(held_out_table).mape_percent > 15.0
    scores = corrected.score(held_out_table)
    assert scores.mape_percent < 2.0
    assert scores.spearman > 0.99
    assert 0.5 < scores.coverage <= 1.0
    assert corrected.correction is not None
    assert corrected.correction.per_part == pytest.approx(-CALL_MS, abs=0.002)
    assert corrected.correction.factor == pytest.approx(1.0, abs=0.1)
    found = corrected.predict(SPACE.genomes([SPACE.smallest, SPACE.largest]))
    assert (found.lower > 0).all()


def test_intervals_hold_and_grow_outside_the_fitted_range(
    sums: LookupTablePredictor, device: SyntheticDevice, fit_table: pd.DataFrame, held_out_table: pd.DataFrame
) -> None:
    corrected = sums.corrected(fit_table)
    archs_NG = SPACE.sample_many(300, np.random.default_rng(9))
    found = corrected.predict(archs_NG)
    latency_N = device.latency_ms(SPACE, archs_NG, rng=np.random.default_rng(10))
    assert 0.8 < ((found.lower <= latency_N) & (latency_N <= found.upper))[found.in_range].mean() <= 1.0
    ends = corrected.predict([SPACE.largest])
    assert not ends.in_range[0]
    assert ends.relative_width[0] > 1.2 * np.median(found.relative_width)


def test_a_resolution_that_no_fitted_network_had_is_out_of_range(
    sums: LookupTablePredictor, device: SyntheticDevice
) -> None:
    """Sums may miss something at one resolution only, which the networks of another do not show."""
    genomes_NG = np.unique(SPACE.sample_many(2000, np.random.default_rng(2)), axis=0)
    first_N = SPACE.encode_many(genomes_NG)[:, 0] > 0
    assert SPACE.choices[0].name == "resolution"
    fitted_NG = genomes_NG[first_N][:30]
    table = pd.DataFrame(
        {
            "architecture": [arch.to_json() for arch in SPACE.architectures(fitted_NG)],
            "latency_ms": device.latency_ms(SPACE, fitted_NG, rng=np.random.default_rng(3)),
        }
    )
    corrected = sums.corrected(table)
    assert not corrected.predict(genomes_NG[~first_N]).in_range.any()
    assert corrected.predict(fitted_NG).in_range.all()


def test_a_regressor_builds_on_the_table_and_brings_it_along(
    space: SearchSpace,
    corrected: LookupTablePredictor,
    fit_table: pd.DataFrame,
    held_out_table: pd.DataFrame,
    tmp_path: Path,
) -> None:
    few = fit_table.head(10)
    alone = fit_latency_predictor(few, space=space, device_id=DEVICE_ID).score(held_out_table)
    helped = fit_latency_predictor(few, space=space, device_id=DEVICE_ID, sources=[corrected])
    assert helped.score(held_out_table).mape_percent < alone.mape_percent
    helped.save(tmp_path)
    restored = load_predictor(tmp_path, space=space)
    assert isinstance(restored.sources[0], LookupTablePredictor)
    genomes_NG = space.sample_many(20, np.random.default_rng(3))
    assert (restored.predict(genomes_NG).mean == helped.predict(genomes_NG).mean).all()
    # A source of another kind takes its place later.
    other = fit_latency_predictor(few.drop(columns="device_id"), space=space, device_id="other")
    fit_latency_predictor(few, space=space, device_id=DEVICE_ID, sources=[other]).save(tmp_path)
    assert load_predictor(tmp_path, space=space).sources[0].device_id == "other"


def without(table: OperatorTable, unwanted: Callable[[int, str], bool]) -> OperatorTable:
    kept = {size: {k: e for k, e in keys.items() if not unwanted(size, k)} for size, keys in table.entries.items()}
    return replace(table, entries=kept)


def test_a_missing_entry_is_named_when_it_is_asked_for(table: OperatorTable) -> None:
    partial = from_operator_table(without(table, lambda size, _: size == 24), space=SPACE, num_classes=10)
    small = SPACE.smallest
    assert partial.predict([small]).mean[0] > 0
    larger = SPACE.architecture({**dict(small.genes), "resolution": 24})
    with pytest.raises(
        PredictorError, match="no entry 'Conv-input:24x24x1-output:12x12x8' at resolution 24"
    ) as refusal:
        partial.predict([small, larger])
    assert "resolutions" in refusal.value.hint


def test_a_table_of_another_space_or_head_is_refused_at_once(table: OperatorTable) -> None:
    with pytest.raises(PredictorError, match=r"no entry 'Logits-input:1x1x96-output:100'") as refusal:
        from_operator_table(table, space=SPACE, num_classes=100)
    assert "another space, or of other than 100 classes" in refusal.value.hint
    with pytest.raises(PredictorError, match="of space mbconv-small-"):
        from_operator_table(table, space=get_space("mbconv-small", width=2.0), num_classes=10)
    with pytest.raises(PredictorError, match=r"no entry 'expanded_conv-.*-kernel:7-"):
        from_operator_table(without(table, lambda _, key: "-kernel:7-" in key), space=SPACE, num_classes=10)


def test_too_few_networks_and_those_of_another_device_are_refused(
    sums: LookupTablePredictor, corrected: LookupTablePredictor, fit_table: pd.DataFrame
) -> None:
    with pytest.raises(PredictorError, match="4 distinct architectures are too few"):
        sums.corrected(fit_table.head(4))
    with pytest.raises(PredictorError, match="measurements of 'other'"):
        sums.corrected(fit_table.assign(device_id="other"))
    with pytest.raises(PredictorError, match="all 40 networks take 20 ms"):
        sums.corrected(fit_table.assign(latency_ms=20.0))
    falling = 100.0 * fit_table["latency_ms"].min() ** 2 / fit_table["latency_ms"]
    with pytest.raises(PredictorError, match="measured to be no slower"):
        sums.corrected(fit_table.assign(latency_ms=falling))
    with pytest.raises(PredictorError, match="3 of 3 held-out architectures were used for fitting"):
        corrected.score(fit_table.head(3))


def test_a_stored_table_refuses_another_space_or_device(corrected: LookupTablePredictor, tmp_path: Path) -> None:
    corrected.save(tmp_path)
    with pytest.raises(PredictorError, match="is for space 'mbconv-small'"):
        load_lookup_table(tmp_path, space=get_space("mbconv-small", resolutions=(16,)))
    with pytest.raises(PredictorError, match="is for device 'synthetic-cpu', not 'another'"):
        load_lookup_table(tmp_path, space=SPACE, device_id="another")


def test_a_regressor_is_no_table(fit_table: pd.DataFrame, tmp_path: Path) -> None:
    fit_latency_predictor(fit_table.head(10), space=SPACE, device_id=DEVICE_ID).save(tmp_path)
    with pytest.raises(PredictorError, match="no card of an operator-lookup-table"):
        load_lookup_table(tmp_path, space=SPACE)


def test_a_table_in_another_unit_contradicts_what_was_measured(
    table: OperatorTable, device: SyntheticDevice, fit_table: pd.DataFrame
) -> None:
    entries = {
        size: {key: replace(entry, mean=1000.0 * entry.mean) for key, entry in keys.items()}
        for size, keys in table.entries.items()
    }
    in_us = replace(table, entries=entries)
    measured = float(device.latency_ms(SPACE, SPACE.genomes([SPACE.largest]), rng=np.random.default_rng(0))[0])
    reference = (SPACE.largest, measured)
    from_operator_table(table, space=SPACE, num_classes=10, reference=reference)
    with pytest.raises(PredictorError, match=r"would take .* ms, it was measured") as caught:
        from_operator_table(in_us, space=SPACE, num_classes=10, reference=reference)
    assert "another unit" in caught.value.hint
    # Networks that correct the sums are references as well.
    with pytest.raises(PredictorError, match="times what networks were measured to take"):
        from_operator_table(in_us, space=SPACE, num_classes=10).corrected(fit_table)
    right = from_operator_table(replace(in_us, unit="us"), space=SPACE, num_classes=10)
    in_us_too = fit_table.drop(columns="unit", errors="ignore").assign(latency_us=1000.0 * fit_table["latency_ms"])
    assert right.corrected(in_us_too).unit == "us"
