from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware.errors import StorageError
from predictors import LatencyPredictor, PredictorError, fit_latency_predictor, load_predictor
from searchspaces import SearchSpace, get_space
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice

LAYERED = get_space("fbnet")


@pytest.fixture(scope="module")
def base_costs() -> np.ndarray:
    """What every operator of every layer costs on an average device: nothing that ten measurements could tell."""
    return np.random.default_rng(0).uniform(0.2, 2.0, size=(22, 9))


def measured(base_costs: np.ndarray, seed: int, *, num: int) -> pd.DataFrame:
    """Networks on a device whose operators differ from the average ones by a tenth."""
    rng = np.random.default_rng(seed)
    own_costs = base_costs * rng.uniform(0.9, 1.1, size=base_costs.shape) * seed
    genomes_NG = LAYERED.sample_many(num, rng)
    time_N = own_costs[np.arange(22), genomes_NG].sum(axis=1) * np.exp(rng.normal(0.0, 0.01, num))
    archs = LAYERED.architectures(genomes_NG)
    return pd.DataFrame({"architecture": [arch.to_json() for arch in archs], "latency_ms": time_N})


@pytest.fixture(scope="module")
def sources(base_costs: np.ndarray) -> list[LatencyPredictor]:
    """Three other devices, of 150 measurements each."""
    return [
        fit_latency_predictor(measured(base_costs, seed, num=150), space=LAYERED, device_id=f"other-{seed}")
        for seed in (11, 12, 13)
    ]


def test_other_devices_help_where_little_was_measured(base_costs: np.ndarray, sources: list[LatencyPredictor]) -> None:
    table = measured(base_costs, 1, num=110)
    few, others = table.head(10), table.tail(100)
    alone = fit_latency_predictor(few, space=LAYERED, device_id=DEVICE_ID).score(others)
    helped = fit_latency_predictor(few, space=LAYERED, device_id=DEVICE_ID, sources=sources)
    assert any("transfer" in name or "sources" in name for name in helped.model.blend.names)
    scores = helped.score(others)
    assert scores.spearman > alone.spearman + 0.1
    assert scores.mape_percent < 0.7 * alone.mape_percent


def test_a_stored_predictor_brings_its_sources(
    base_costs: np.ndarray, sources: list[LatencyPredictor], tmp_path: Path
) -> None:
    few = measured(base_costs, 1, num=12)
    predictor = fit_latency_predictor(few, space=LAYERED, device_id=DEVICE_ID, sources=sources)
    predictor.save(tmp_path / "stored")
    restored = load_predictor(tmp_path / "stored", space=LAYERED)
    assert [source.device_id for source in restored.sources] == ["other-11", "other-12", "other-13"]
    question = LAYERED.sample_many(30, np.random.default_rng(1))
    assert (restored.predict(question).upper == predictor.predict(question).upper).all()


def test_sources_of_another_space_are_refused(
    space: SearchSpace, fit_table: pd.DataFrame, device: SyntheticDevice
) -> None:
    other = get_space("mbconv-small", resolutions=(16,))
    rng = np.random.default_rng(2)
    foreign = fit_latency_predictor(
        device.measure(other, other.sample_many(20, rng), rng=rng), space=other, device_id=DEVICE_ID
    )
    with pytest.raises(PredictorError, match="knows space"):
        fit_latency_predictor(fit_table, space=space, device_id=DEVICE_ID, sources=[foreign])


def test_a_source_that_was_exchanged_is_refused_and_one_too_many_is_removed(
    fit_table: pd.DataFrame, space: SearchSpace, predictor: LatencyPredictor, tmp_path: Path
) -> None:
    table = fit_table.drop(columns="device_id")
    helped = fit_latency_predictor(table, space=space, device_id="b", sources=[predictor])
    helped.save(tmp_path)
    # A save that was broken off has written sources, and not yet what builds on them.
    fit_latency_predictor(table.head(20), space=space, device_id="other").save(tmp_path / "source-0")
    with pytest.raises(StorageError, match=r"source-0/manifest\.json is damaged"):
        load_predictor(tmp_path, space=space)
    helped.save(tmp_path)
    assert load_predictor(tmp_path, space=space).sources[0].device_id == predictor.device_id
    predictor.save(tmp_path)
    assert not load_predictor(tmp_path, space=space).sources
    assert not list(tmp_path.glob("source-*"))
