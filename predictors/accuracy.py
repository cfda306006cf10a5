"""The accuracy predictor of one space: what a subnet would score, from some dozens that were evaluated.

What is modelled is the error rate, as a cost: effects of choices on its logarithm are alike for good and for bad
networks, and a predicted accuracy stays between 0 and 1.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError
from predictors.features import LatencyFeatures, of_function
from predictors.latency import FEWEST_ARCHITECTURES
from predictors.measured import MeasuredArchitectures
from predictors.model import CostModel, fit_cost_model
from predictors.prediction import FloatArray, Prediction
from predictors.predictor import Question
from predictors.proposal import propose
from predictors.scores import AccuracyScores, LeftOutAccuracies, Scores, score_accuracies
from predictors.selection import is_constant
from predictors.store import StoredPredictor, read_predictor, restored_model, stored_members, write_predictor
from searchspaces import Architecture, SearchSpace

ACCURACY = "accuracy"

# A network without a single error on the images at hand makes some on others.
_LEAST_ERROR = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccuracyPredictor:
    """Predicts accuracy, 0 to 1; made by `fit_accuracy_predictor` or `load_accuracy_predictor`.

    Attributes:
        space: whose architectures it knows.
        task: what was evaluated, for example the name of the data set and the split.
        model: predicts the error rate.
        fitted_NG: genomes of the evaluated architectures.
        scores: see `with_scores`.
        left_out: how well each evaluated architecture was predicted without its own evaluation; None when loaded.
    """

    space: SearchSpace
    task: str
    model: CostModel
    fitted_NG: npt.NDArray[np.int8]
    scores: Scores | None = None
    left_out: LeftOutAccuracies | None = None

    @property
    def space_id(self) -> str:
        """The space whose architectures it knows."""
        return self.space.space_id

    @property
    def device_id(self) -> str:
        """The task, in the place where other predictors have their device."""
        return self.task

    @property
    def unit(self) -> str:
        """Always "accuracy"."""
        return ACCURACY

    def predict(self, question: Question) -> Prediction:
        """Predict accuracies; see `CostPredictor`."""
        genomes_NG = question if isinstance(question, np.ndarray) else self.space.genomes(question)
        features = LatencyFeatures(space=self.space)
        error = self.model.predict(len(genomes_NG), lambda rows: of_function(features.encode(genomes_NG[rows])))
        mean_N, lower_N, upper_N = (
            np.clip(1.0 - error_N, 0.0, 1.0) for error_N in (error.mean, error.upper, error.lower)
        )
        return Prediction(mean=mean_N, lower=lower_N, upper=upper_N, level=error.level, in_range=error.in_range)

    def propose(
        self, n: int, *, rng: np.random.Generator, exclude: AbstractSet[str] = frozenset()
    ) -> list[Architecture]:
        """Say what to evaluate next; see `CostPredictor`."""
        return propose(self, n, space=self.space, known_NG=self.fitted_NG, rng=rng, exclude=exclude)

    def score(
        self, genomes_NG: npt.NDArray[np.int8], accuracy_N: npt.ArrayLike, *, num_images: npt.ArrayLike | None = None
    ) -> AccuracyScores:
        """Compare with architectures that were evaluated, but not fitted to.

        Args:
            genomes_NG: the architectures, each once.
            accuracy_N: theirs, 0 to 1.
            num_images: how many images decided, one number or (N,), if that is known.

        Raises:
            PredictorError: as `fit_accuracy_predictor`, or an architecture was fitted, which would flatter the scores.
        """
        genomes_NG, accuracy_N = _evaluated(genomes_NG, accuracy_N, space=self.space)
        MeasuredArchitectures(genomes_NG=genomes_NG, cost_N=accuracy_N).refuse_fitted(self.fitted_NG)
        found = self.predict(genomes_NG)
        scores = score_accuracies(found.mean, accuracy_N, least_error=_LEAST_ERROR, num_images=num_images)
        return replace(scores, coverage=found.coverage(accuracy_N))

    def with_scores(self, scores: AccuracyScores) -> "AccuracyPredictor":
        """The same predictor with its held-out scores, which `save` puts on the card."""
        return replace(self, scores=scores)

    def save(self, directory: Path) -> None:
        """Write it; see `CostPredictor` and `load_accuracy_predictor`."""
        write_predictor(
            directory,
            stored=StoredPredictor(
                space_id=self.space_id,
                device_id=self.task,
                quantity=ACCURACY,
                unit=ACCURACY,
                level=self.model.level,
                members=stored_members(self.model),
                quantile=self.model.quantile,
                num_fitted=len(self.fitted_NG),
                loo_mape_percent=self.model.loo_mape_percent,
                features_signature=LatencyFeatures(space=self.space).signature(),
                scores=self.scores,
                range_arrays=self.model.fitted_range.arrays(),
                fitted_NG=self.fitted_NG,
                left_out_N=np.empty(0),
                num_sources=0,
                loo_rms_percent=self.model.blend.loo_rms_percent,
            ),
        )


def fit_accuracy_predictor(
    genomes_NG: npt.NDArray[np.int8],
    accuracy_N: npt.ArrayLike,
    *,
    space: SearchSpace,
    task: str,
    level: float = 0.9,
    num_images: npt.ArrayLike | None = None,
) -> AccuracyPredictor:
    """Fit to evaluated architectures.

    Args:
        genomes_NG: the architectures, each once.
        accuracy_N: theirs, 0 to 1.
        space: their space.
        task: what was evaluated.
        level: of the intervals, between 0 and 1.
        num_images: how many images decided, one number or (N,), if that is known: for `left_out`.

    Raises:
        PredictorError: fewer than 10 architectures, repeated ones, accuracies outside 0 to 1 (percent?), all the
            same or too close to 1 to tell them apart, of another shape, as numbers of images may be, or a level that
            is none.
        SpaceError: genomes of another space.
    """
    genomes_NG, accuracy_N = _evaluated(genomes_NG, accuracy_N, space=space)
    if len(genomes_NG) < FEWEST_ARCHITECTURES:
        raise PredictorError(
            f"{len(genomes_NG)} architectures are too few to fit an accuracy predictor",
            hint=f"evaluate at least {FEWEST_ARCHITECTURES}, better 50",
        )
    error_N = np.maximum(1.0 - accuracy_N, _LEAST_ERROR)
    if is_constant(error_N):
        raise PredictorError(
            f"all {len(accuracy_N)} accuracies are {accuracy_N[0]:.4f}: there is nothing to predict",
            hint="evaluate architectures that differ in size, on more images",
        )
    features = LatencyFeatures(space=space)
    model = fit_cost_model(
        of_function(features.encode(genomes_NG)),
        error_N,
        population=of_function(features.population()),
        level=level,
        ordered=features.resolution_columns(),
    )
    left_out_N = 1.0 - np.minimum(error_N * np.exp(model.blend.loo_log_errors_N), 1.0)
    return AccuracyPredictor(
        space=space,
        task=task,
        model=model,
        fitted_NG=genomes_NG,
        left_out=LeftOutAccuracies.of(left_out_N, accuracy_N, num_images=num_images),
    )


def _evaluated(
    genomes_NG: npt.NDArray[np.int8], accuracy_N: npt.ArrayLike, *, space: SearchSpace
) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Canonical genomes, each once, and accuracies that are some."""
    genomes_NG, accuracy_N = space.canonicalise(genomes_NG), np.asarray(accuracy_N, dtype=np.float64)
    if accuracy_N.shape != (len(genomes_NG),) or len(np.unique(genomes_NG, axis=0)) != len(genomes_NG):
        raise PredictorError(
            f"{len(genomes_NG)} architectures, {len(np.unique(genomes_NG, axis=0))} of them distinct, with "
            f"accuracies of shape {accuracy_N.shape}",
            hint="give every architecture once, and a list with one accuracy for each",
        )
    wrong = ~((accuracy_N >= 0.0) & (accuracy_N <= 1.0))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise PredictorError(
            f"accuracy {accuracy_N[first]!r} of row {first} is not between 0 and 1",
            hint="give fractions, not percent, and drop evaluations that failed",
        )
    return genomes_NG, accuracy_N


def load_accuracy_predictor(directory: Path, *, space: SearchSpace, task: str | None = None) -> AccuracyPredictor:
    """Read what `AccuracyPredictor.save` wrote; it predicts bit for bit the same.

    Args:
        directory: where it lies.
        space: must be the space it was fitted for.
        task: if given, must be the task it was fitted for.

    Raises:
        StorageError: files are missing or damaged.
        PredictorError: no accuracy predictor, another space or task, other features or families.
    """
    stored = read_predictor(directory)
    if stored.unit != ACCURACY:
        raise PredictorError(
            f"the predictor in {directory} predicts {stored.unit}, not accuracy",
            hint="give the directory of another one",
        )
    if task is not None and stored.device_id != task:
        raise PredictorError(
            f"the predictor in {directory} is for task {stored.device_id!r}, not {task!r}",
            hint="fit it again from the evaluations",
        )
    return AccuracyPredictor(
        space=space,
        task=stored.device_id,
        model=restored_model(
            stored, directory=directory, space=space, signature=LatencyFeatures(space=space).signature()
        ),
        fitted_NG=stored.fitted_NG,
        scores=stored.scores,
    )
