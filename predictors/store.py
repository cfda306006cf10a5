"""A predictor on disk: arrays as safetensors, everything a person wants to know on a card, a manifest last."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hardware.errors import StorageError
from hardware.files import JSON, MANIFEST_NAME, read_json, read_manifest, write_bytes, write_json, write_manifest
from predictors.errors import PredictorError
from predictors.features import FEATURES_VERSION
from predictors.intervals import FittedRange
from predictors.model import CostModel
from predictors.prediction import FloatArray
from predictors.regressors import find_regressors
from predictors.scores import AccuracyScores, LeftOutAccuracies, Scores
from predictors.selection import Blend
from searchspaces import SearchSpace

CARD_NAME = "card.json"
MODEL_NAME = "model.safetensors"

_KIND = "cost-predictor"
_SCHEMA = 2
_GENOMES = "fitted_NG"
_LEFT_OUT = "left_out_N"
_MEMBER = "member{}."
_RANGE = "range."
_SOURCE = "source-{}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredMember:
    """One fitted family of a predictor; see `predictors.selection.Blend`."""

    family: str
    weight: float
    calibration: float
    settings: Mapping[str, float]
    arrays: Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredPredictor:
    """What is written of a predictor; see `LatencyPredictor` for the meaning."""

    space_id: str
    device_id: str
    quantity: str
    unit: str
    level: float
    members: Sequence[StoredMember]
    quantile: float
    num_fitted: int
    loo_mape_percent: float
    features_signature: str
    scores: Scores | None
    range_arrays: Mapping[str, FloatArray]
    fitted_NG: npt.NDArray[np.int8]
    left_out_N: FloatArray
    num_sources: int
    loo_rms_percent: Mapping[str, float]
    context: Mapping[str, int] = field(default_factory=dict)


def source_name(number: int) -> str:
    """Folder, in that of a predictor, of one that it builds on."""
    return _SOURCE.format(number)


def stored_members(model: CostModel) -> list[StoredMember]:
    """The families of a model as they are written."""
    blended = model.blend
    return [
        StoredMember(
            family=member.name,
            weight=weight,
            calibration=calibration,
            settings=member.settings,
            arrays=member.arrays(),
        )
        for member, weight, calibration in zip(blended.members, blended.weights, blended.calibrations, strict=True)
    ]


def restored_model(stored: StoredPredictor, *, directory: Path, space: SearchSpace, signature: str) -> CostModel:
    """The model of a stored predictor.

    Args:
        stored: from `read_predictor`.
        directory: where it lies, for messages.
        space: must be the space it was fitted for.
        signature: of the features that this version computes for the space.

    Raises:
        PredictorError: another space, other features, or a family that is not known.
        StorageError: it is incomplete.
    """
    again = "fit it again from the measurements"
    if stored.space_id != space.space_id:
        raise PredictorError(
            f"the predictor in {directory} is for space {stored.space_id!r}, not {space.space_id!r}", hint=again
        )
    if stored.features_signature != signature:
        raise PredictorError(
            f"the predictor in {directory} was fitted to other features than this version computes", hint=again
        )
    families = {regressor.name: regressor for regressor in find_regressors()}
    unknown = sorted({member.family for member in stored.members} - set(families))
    if unknown:
        raise PredictorError(
            f"the predictor in {directory} is of family {', '.join(map(repr, unknown))}, "
            f"known are {', '.join(families)}",
            hint=again,
        )
    try:
        return CostModel(
            blend=Blend(
                members=tuple(
                    families[one.family].restore(one.arrays, settings=one.settings) for one in stored.members
                ),
                weights=tuple(one.weight for one in stored.members),
                calibrations=tuple(one.calibration for one in stored.members),
                loo_rms_percent=stored.loo_rms_percent,
                loo_log_errors_N=np.empty(0),
                loo_spread_N=np.empty(0),
            ),
            quantile=stored.quantile,
            level=stored.level,
            fitted_range=FittedRange(**stored.range_arrays),
            loo_mape_percent=stored.loo_mape_percent,
        )
    except (KeyError, TypeError) as e:
        raise StorageError(f"the predictor in {directory} is incomplete ({type(e).__name__}: {e})", hint=again) from e


def write_predictor(directory: Path, *, stored: StoredPredictor) -> None:
    """Write model, card and manifest; a predictor that was there is replaced.

    Its sources lie in their folders already. The manifest knows theirs, so that none of them can be exchanged: what a
    broken-off save leaves, of two predictors each a part, is refused.

    Raises:
        StorageError: the directory cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {_GENOMES: stored.fitted_NG, _LEFT_OUT: stored.left_out_N}
    for number, member in enumerate(stored.members):
        arrays |= {_MEMBER.format(number) + name: array for name, array in member.arrays.items()}
    arrays |= {_RANGE + name: array for name, array in stored.range_arrays.items()}
    # safetensors writes the memory as it lies: views and transposes must become plain arrays first.
    model = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    card: dict[str, JSON] = {
        "kind": _KIND,
        "schema": _SCHEMA,
        "space_id": stored.space_id,
        "device_id": stored.device_id,
        "quantity": stored.quantity,
        "unit": stored.unit,
        "provenance": "predicted",
        "level": stored.level,
        "members": [
            {
                "family": member.family,
                "weight": member.weight,
                "calibration": member.calibration,
                "settings": dict(member.settings),
            }
            for member in stored.members
        ],
        "num_sources": stored.num_sources,
        "quantile": stored.quantile,
        "num_fitted": stored.num_fitted,
        "loo_mape_percent": stored.loo_mape_percent,
        "loo_rms_percent": dict(stored.loo_rms_percent),
        "context": dict(stored.context),
        "features_version": FEATURES_VERSION,
        "features_signature": stored.features_signature,
        "scores": scores_to_card(stored.scores),
    }
    write_bytes(directory / MODEL_NAME, model)
    write_json(directory / CARD_NAME, card)
    sources = [source_name(number) for number in range(stored.num_sources)]
    write_manifest(
        directory,
        files=[MODEL_NAME, CARD_NAME, *(f"{name}/{MANIFEST_NAME}" for name in sources)],
        details={"kind": _KIND, "device_id": stored.device_id},
    )
    for old in directory.glob(_SOURCE.format("*")):
        if old.name not in sources:
            # It is no part of this predictor, whether it goes or stays.
            shutil.rmtree(old, ignore_errors=True)


def read_predictor(directory: Path) -> StoredPredictor:
    """Read and check what `write_predictor` wrote.

    Raises:
        StorageError: a file is missing or damaged.
        PredictorError: it is no predictor, or of a newer format.
    """
    read_manifest(directory)
    card = read_json(directory / CARD_NAME)
    if not isinstance(card, Mapping) or card.get("kind") != _KIND or card.get("schema") != _SCHEMA:
        raise PredictorError(
            f"{directory / CARD_NAME} is no card of a {_KIND} of schema {_SCHEMA}",
            hint="fit the predictor again from the measurements, or update archsmith",
        )
    try:
        arrays = load((directory / MODEL_NAME).read_bytes())
        return _from_card(card, arrays=arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
        raise StorageError(
            f"the predictor in {directory} cannot be read ({type(e).__name__}: {e})",
            hint=f"delete {directory} and fit the predictor again from the measurements",
        ) from e


def _from_card(card: Mapping[str, Any], *, arrays: Mapping[str, npt.NDArray[Any]]) -> StoredPredictor:
    if not card["members"]:
        raise ValueError("the card has no members")
    return StoredPredictor(
        space_id=str(card["space_id"]),
        device_id=str(card["device_id"]),
        quantity=str(card["quantity"]),
        unit=str(card["unit"]),
        level=float(card["level"]),
        members=[
            StoredMember(
                family=str(member["family"]),
                weight=float(member["weight"]),
                calibration=float(member["calibration"]),
                settings={name: float(value) for name, value in member["settings"].items()},
                arrays=_named(arrays, prefix=_MEMBER.format(number)),
            )
            for number, member in enumerate(card["members"])
        ],
        quantile=float(card["quantile"]),
        num_fitted=int(card["num_fitted"]),
        loo_mape_percent=float(card["loo_mape_percent"]),
        features_signature=str(card["features_signature"]),
        scores=scores_from_card(card["scores"]),
        range_arrays=_named(arrays, prefix=_RANGE),
        fitted_NG=arrays[_GENOMES],
        # Predictors that were stored before it was kept have none.
        left_out_N=arrays.get(_LEFT_OUT, np.empty(0)),
        num_sources=int(card["num_sources"]),
        # Older versions wrote neither.
        loo_rms_percent={name: float(value) for name, value in dict(card.get("loo_rms_percent", {})).items()},
        context={name: int(value) for name, value in dict(card.get("context", {})).items()},
    )


def _named(arrays: Mapping[str, npt.NDArray[Any]], *, prefix: str) -> dict[str, FloatArray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def scores_to_card(scores: Scores | LeftOutAccuracies | None) -> dict[str, JSON] | None:
    """Scores as a card has them. JSON has no NaN: an undefined correlation becomes null."""
    if scores is None:
        return None
    return {name: value if np.isfinite(value) else None for name, value in asdict(scores).items()}


def scores_from_card(values: Mapping[str, Any] | None) -> Scores | None:
    """The inverse of `scores_to_card`."""
    if values is None:
        return None
    known = numbers_from_card(values)
    return AccuracyScores(**known) if "rmse_points" in known else Scores(**known)


def numbers_from_card(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that `scores_to_card` wrote."""
    return {name: float("nan") if value is None else value for name, value in values.items()}
