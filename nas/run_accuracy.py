"""The accuracy predictor of a run: fitted to what it has evaluated, and stored until that changes."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hardware.errors import StorageError
from hardware.files import read_json, write_json
from nas.errors import RunError
from nas.run import Run
from predictors import AccuracyPredictor, PredictorError, fit_accuracy_predictor, load_accuracy_predictor
from predictors.scores import LeftOutAccuracies
from predictors.store import numbers_from_card, scores_to_card
from searchspaces import Architecture

_LOGGER = logging.getLogger(__name__)

_FITTED_TO = "fitted_to.json"


def run_accuracy_predictor(run: Run) -> AccuracyPredictor:
    """A predictor fitted to what the run has evaluated with inherited weights, or the stored one if it was fitted so.

    Raises:
        RunError: too little was evaluated.
    """
    rows = run.evaluations()
    rows = rows[(rows["weights_kind"] == "inherited") & np.isfinite(rows["accuracy"])]
    rows = rows.drop_duplicates("arch_id", keep="last")
    archs = [Architecture.from_json(text) for text in rows["architecture"]]
    genomes_NG = run.space.genomes(archs)
    accuracy_N = rows["accuracy"].to_numpy(dtype=np.float64)
    # Only of shares of images is the noise that of so many coins.
    counted = len(rows) and (rows["metric"] == "top1").all() and (rows["num_images"] > 0).all()
    num_images = rows["num_images"].to_numpy() if counted else None
    told = _told(genomes_NG, accuracy_N, num_images)
    stored = _stored(run, told=told)
    if stored is not None:
        return stored
    try:
        fitted = fit_accuracy_predictor(
            genomes_NG,
            accuracy_N,
            space=run.space,
            task=_task(run),
            num_images=num_images,
        )
    except PredictorError as e:
        raise RunError(
            f"accuracies of run {run.path} cannot be predicted: {e}", hint=f"evaluate more: nas search {run.path}"
        ) from e
    _store(run, fitted, told=told)
    return fitted


def _task(run: Run) -> str:
    return f"{run.info.name}, search split"


def _told(genomes_NG: np.ndarray, accuracy_N: np.ndarray, num_images: np.ndarray | None) -> str:
    """What a predictor was fitted to, in a few letters."""
    parts: list[npt.NDArray[np.generic]] = [genomes_NG, accuracy_N]
    parts += [] if num_images is None else [num_images.astype(np.int64)]
    return hashlib.sha256(b"|".join(part.tobytes() for part in parts)).hexdigest()


def _directory(run: Run) -> Path:
    return run.path / "accuracy_predictor"


def _stored(run: Run, *, told: str) -> AccuracyPredictor | None:
    """The stored predictor; None if there is none, or one of other evaluations, or a damaged one."""
    directory = _directory(run)
    try:
        note = read_json(directory / _FITTED_TO)
        if not isinstance(note, dict) or note["told"] != told:
            return None
        left_out = LeftOutAccuracies(**numbers_from_card(note["left_out"]))
        stored = load_accuracy_predictor(directory, space=run.space, task=_task(run))
        return replace(stored, left_out=left_out)
    except (StorageError, PredictorError, KeyError, TypeError, AttributeError) as e:
        _LOGGER.debug("no accuracy predictor is taken from %s: %s", directory, e)
        return None


def _store(run: Run, fitted: AccuracyPredictor, *, told: str) -> None:
    """Write it, the note last; a run that cannot be written to is answered from all the same."""
    directory = _directory(run)
    try:
        # Before the files change, so that no note ever stands beside another predictor.
        (directory / _FITTED_TO).unlink(missing_ok=True)
        fitted.save(directory)
        write_json(directory / _FITTED_TO, {"told": told, "left_out": scores_to_card(fitted.left_out)})
    except (OSError, StorageError) as e:
        _LOGGER.info("the accuracy predictor is not stored: %s", e)
