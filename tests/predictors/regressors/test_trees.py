import logging
import sys
from dataclasses import replace

import numpy as np
import pytest

from predictors.errors import MissingPackageError
from predictors.features import LatencyFeatures
from predictors.regressors.gaussian import REGRESSORS as GAUSSIAN
from predictors.regressors.trees import REGRESSORS, BoostedTrees
from predictors.selection import blend
from searchspaces import SearchSpace

(TREES,) = REGRESSORS


def test_a_jump_is_found_and_the_model_is_lightgbms_own_text() -> None:
    rng = np.random.default_rng(1)
    blocks = {"x": rng.uniform(0.0, 1.0, size=(400, 3))}
    cost_N = np.where(blocks["x"][:, 1] > 0.5, 3.0, 1.0) * np.exp(rng.normal(0.0, 0.02, 400))
    fitted = TREES.fit(blocks, cost_N, population=blocks)
    low, high = fitted.predict({"x": np.array([[0.9, 0.4, 0.9], [0.1, 0.6, 0.1]])})[0]
    assert low == pytest.approx(1.0, rel=0.1)
    assert high == pytest.approx(3.0, rel=0.1)
    assert fitted.arrays()["text"].tobytes().startswith(b"tree\nversion=")


def test_without_lightgbm_the_others_go_on_and_a_stored_model_names_it(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(2)
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(20, rng)
    blocks, population = features.encode(genomes_NG), features.population()
    cost_N = 1.0 + blocks["totals"][:, 1] / blocks["totals"][:, 1].mean()
    family = replace(TREES, fewest=10)
    stored = family.fit(blocks, cost_N, population=population)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with caplog.at_level(logging.WARNING, logger="predictors.selection"):
        blended = blend([GAUSSIAN[0], family], blocks, cost_N, population=population)
    assert list(blended.names) == [GAUSSIAN[0].name]
    assert "need the package lightgbm" in caplog.text
    assert "family 'trees' is left out" in caplog.text
    with pytest.raises(MissingPackageError, match="lightgbm") as caught:
        BoostedTrees(name="trees").restore(stored.arrays(), settings=stored.settings)
    assert "pip install lightgbm" in caught.value.hint
