"""The ways on a device whose networks take exactly what their parts take, and 2 us a part less."""

import functools

import numpy as np
import pandas as pd
import pytest

from nas.ways import CORRECTED_SUM, ON_OPERATORS, OPERATOR_SUM, REGRESSOR, compare_ways
from predictors import OperatorTable, from_operator_table
from predictors.operator_table import OperatorEntry
from predictors.parts import parts_of
from searchspaces import get_space

SPACE = get_space("mbconv-small")


@pytest.fixture(scope="module")
def table() -> OperatorTable:
    """Times that no feature of an architecture tells."""
    rng = np.random.default_rng(0)
    entries: dict[int, dict[str, OperatorEntry]] = {}
    for part in parts_of(SPACE, num_classes=10):
        for size, key in zip(part.resolutions_R.tolist(), part.keys, strict=True):
            if key is not None:
                mean = float(rng.uniform(0.005, 0.05))
                entries.setdefault(size, {})[key] = OperatorEntry(count=100, mean=mean, std=0.0)
    return OperatorTable(device_id="pi", unit="ms", entries=entries)


def measured(table: OperatorTable, genomes_NG: np.ndarray) -> pd.DataFrame:
    sums_N3 = from_operator_table(table, space=SPACE, num_classes=10).sums.of_genomes(genomes_NG)
    archs = SPACE.architectures(genomes_NG)
    latency_N = sums_N3[:, 0] - 0.002 * sums_N3[:, 2]
    return pd.DataFrame({"architecture": [arch.to_json() for arch in archs], "latency_ms": latency_N})


def test_the_regressor_that_errs_less_on_left_out_rows_is_stored(table: OperatorTable) -> None:
    genomes_NG = SPACE.sample_many(40, np.random.default_rng(1))
    fit, held_out = measured(table, genomes_NG[:12]), measured(table, genomes_NG[12:])
    compare = functools.partial(
        compare_ways, fit, held_out, space=SPACE, device_id="pi", unit="ms", sources=(), num_classes=10
    )
    plain = compare(operators=None)
    assert (plain.chosen, list(plain.scores), plain.lookup) == (REGRESSOR, [REGRESSOR], None)
    ways = compare(operators=table)
    assert list(ways.scores) == [REGRESSOR, OPERATOR_SUM, CORRECTED_SUM, ON_OPERATORS]
    assert ways.chosen == ON_OPERATORS
    assert list(ways.loo_mape_percent) == [REGRESSOR, ON_OPERATORS]
    assert ways.loo_mape_percent[ON_OPERATORS] == ways.best.loo_mape_percent < ways.loo_mape_percent[REGRESSOR]
    assert ways.best.scores == ways.scores[ON_OPERATORS]
    assert ways.best.sources == (ways.lookup,)
    assert ways.scores[CORRECTED_SUM].mape_percent < 0.01
    assert ways.scores[ON_OPERATORS].mape_percent < 0.5 * ways.scores[REGRESSOR].mape_percent
    assert ways.scores[OPERATOR_SUM].mape_percent > 2.0
    assert ways.scores[REGRESSOR] == plain.scores[REGRESSOR]
    # A table that networks contradict is told of, and costs nothing else.
    falling = fit.assign(latency_ms=fit["latency_ms"].median() ** 2 / fit["latency_ms"])
    contradicted = compare_ways(
        falling, held_out, space=SPACE, device_id="pi", unit="ms", sources=(), num_classes=10, operators=table
    )
    assert (contradicted.chosen, contradicted.lookup) == (REGRESSOR, None)
    assert "measured to be no slower" in str(contradicted.uncorrected)
