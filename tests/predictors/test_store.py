import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hardware.errors import StorageError
from hardware.files import JSON, write_json, write_manifest
from predictors import LatencyPredictor, PredictorError, load_predictor, score
from predictors.store import CARD_NAME, MODEL_NAME
from searchspaces import SearchSpace, get_space


def rewrite_card(directory: Path, **changes: JSON) -> None:
    card = json.loads((directory / CARD_NAME).read_text())
    write_json(directory / CARD_NAME, {**card, **changes})
    write_manifest(directory, files=[MODEL_NAME, CARD_NAME], details={})


def test_the_card_says_what_a_reader_wants_to_know(
    predictor: LatencyPredictor, held_out_table: pd.DataFrame, tmp_path: Path
) -> None:
    predictor.with_scores(predictor.score(held_out_table)).save(tmp_path)
    card = json.loads((tmp_path / CARD_NAME).read_text())
    assert card["num_fitted"] == 40
    assert [member["family"] for member in card["members"]] == list(predictor.model.blend.names)
    assert sum(member["weight"] for member in card["members"]) == pytest.approx(1.0)
    assert card["members"][0]["settings"]["noise"] > 0
    assert card["loo_rms_percent"] == predictor.model.blend.loo_rms_percent
    assert set(card["loo_rms_percent"]) >= set(predictor.model.blend.names)
    assert card["features_version"] >= 1
    assert card["level"] == 0.9
    assert 0 < card["scores"]["mape_percent"] < 5
    assert card["provenance"] == "predicted"


def test_a_card_of_before_the_families_errors_is_read_without_them(
    space: SearchSpace, predictor: LatencyPredictor, tmp_path: Path
) -> None:
    replace(predictor, context={"batch": 8}).save(tmp_path)
    loaded = load_predictor(tmp_path, space=space)
    assert (loaded.reasons, loaded.context) == (predictor.reasons, {"batch": 8})
    card = json.loads((tmp_path / CARD_NAME).read_text())
    old = {name: value for name, value in card.items() if name not in ("loo_rms_percent", "context")}
    write_json(tmp_path / CARD_NAME, old)
    write_manifest(tmp_path, files=[MODEL_NAME, CARD_NAME], details={})
    loaded = load_predictor(tmp_path, space=space)
    assert (loaded.model.blend.loo_rms_percent, loaded.context) == ({}, {})
    assert "error " not in loaded.reasons
    assert loaded.predict([space.smallest]).mean == predictor.predict([space.smallest]).mean


def test_undefined_correlations_survive_as_null(
    space: SearchSpace, predictor: LatencyPredictor, tmp_path: Path
) -> None:
    predictor.with_scores(score([1.0, 1.0], [1.0, 2.0])).save(tmp_path)
    assert json.loads((tmp_path / CARD_NAME).read_text())["scores"]["spearman"] is None
    restored = load_predictor(tmp_path, space=space).scores
    assert restored is not None
    assert restored.spearman != restored.spearman
    assert restored.num == 2


def test_a_stored_predictor_refuses_another_space_or_device(
    space: SearchSpace, predictor: LatencyPredictor, tmp_path: Path
) -> None:
    predictor.save(tmp_path)
    with pytest.raises(PredictorError, match="is for space 'mbconv-small'"):
        load_predictor(tmp_path, space=get_space("mbconv-small", resolutions=(16,)))
    with pytest.raises(PredictorError, match="not 'another'"):
        load_predictor(tmp_path, space=space, device_id="another")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features_signature": "0" * 16}, "other features"),
        ({"members": [{"family": "oracle", "weight": 1.0, "calibration": 1.0, "settings": {}}]}, "family 'oracle'"),
        ({"schema": 99}, "no card"),
        ({"kind": "poem"}, "no card"),
    ],
)
def test_a_card_of_another_version_is_refused(
    space: SearchSpace, predictor: LatencyPredictor, tmp_path: Path, change: dict[str, JSON], message: str
) -> None:
    predictor.save(tmp_path)
    rewrite_card(tmp_path, **change)
    with pytest.raises(PredictorError, match=message) as refusal:
        load_predictor(tmp_path, space=space)
    assert "fit" in refusal.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"members": [{}]},
        {"members": []},
        {"loo_rms_percent": ["gp"]},
        {"quantile": "wide"},
        {"scores": {"beauty": 1.0}},
    ],
)
def test_an_incomplete_card_is_a_damaged_file(
    space: SearchSpace, predictor: LatencyPredictor, tmp_path: Path, change: dict[str, JSON]
) -> None:
    predictor.save(tmp_path)
    rewrite_card(tmp_path, **change)
    with pytest.raises(StorageError, match=r"cannot be read|is incomplete"):
        load_predictor(tmp_path, space=space)


def test_a_missing_predictor_is_a_clear_error(space: SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"manifest\.json is missing"):
        load_predictor(tmp_path, space=space)


def test_saving_again_replaces_the_old_one(
    space: SearchSpace, predictor: LatencyPredictor, held_out_table: pd.DataFrame, tmp_path: Path
) -> None:
    predictor.save(tmp_path)
    predictor.with_scores(predictor.score(held_out_table)).save(tmp_path)
    assert load_predictor(tmp_path, space=space).scores is not None
