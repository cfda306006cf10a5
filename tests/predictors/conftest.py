import numpy as np
import pandas as pd
import pytest

from predictors import LatencyPredictor, fit_latency_predictor
from searchspaces import SearchSpace, get_space
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice

# The session's fixtures use it directly, so that a contract class can bring a `space` fixture of its own.
SPACE = get_space("mbconv-small")


@pytest.fixture
def space() -> SearchSpace:
    return SPACE


@pytest.fixture(scope="session")
def device() -> SyntheticDevice:
    return SyntheticDevice.draw(1)


@pytest.fixture(scope="session")
def fit_table(device: SyntheticDevice) -> pd.DataFrame:
    """40 measured architectures."""
    rng = np.random.default_rng(100)
    return device.measure(SPACE, SPACE.sample_many(40, rng), rng=rng)


@pytest.fixture(scope="session")
def held_out_table(device: SyntheticDevice) -> pd.DataFrame:
    """100 further ones."""
    rng = np.random.default_rng(200)
    return device.measure(SPACE, SPACE.sample_many(100, rng), rng=rng)


@pytest.fixture(scope="session")
def predictor(fit_table: pd.DataFrame) -> LatencyPredictor:
    return fit_latency_predictor(fit_table, space=SPACE, device_id=DEVICE_ID)
