"""The latency predictor of one space on one device, fitted to a few dozen measurements."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from hardware.errors import StorageError
from predictors.errors import PredictorError
from predictors.features import LatencyFeatures
from predictors.intervals import FittedRange, conformal_quantile
from predictors.measured import MeasuredArchitectures
from predictors.prediction import FloatArray, Prediction
from predictors.predictor import Question
from predictors.proposal import propose
from predictors.regressors import find_regressors
from predictors.regressors.regressor import FittedRegressor
from predictors.scores import Scores, score
from predictors.selection import choose, held_out_errors
from predictors.store import StoredPredictor, read_predictor, write_predictor
from searchspaces import Architecture, SearchSpace

FEWEST_ARCHITECTURES = 10

# An interval from a thousandth to a thousandfold says "unknown"; wider ones would only overflow.
_WIDEST_FACTOR = 1000.0

# Hundreds of feature columns a row: whole spaces are predicted piece by piece.
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyPredictor:
    """Predicts latency; plays the role `CostPredictor`. Made by `fit_latency_predictor` or `load_predictor`.

    Attributes:
        space: whose architectures it knows.
        device_id, unit: what it predicts.
        level: of its intervals.
        regressor: the chosen, fitted family.
        quantile: half width of an interval in log(latency), in units of the regressor's spread.
        fitted_range: what the fitted architectures covered.
        fitted_NG: genomes of the fitted architectures.
        loo_mape_percent: mean relative error on rows left out of fit and choice; an estimate for architectures that
            resemble the fitted ones.
        scores: see `with_scores`.
    """

    space: SearchSpace
    device_id: str
    unit: str
    level: float
    regressor: FittedRegressor
    quantile: float
    fitted_range: FittedRange
    fitted_NG: npt.NDArray[np.int8]
    loo_mape_percent: float
    scores: Scores | None = None

    @property
    def space_id(self) -> str:
        """The space whose architectures it knows."""
        return self.space.space_id

    @property
    def family(self) -> str:
        """Name of the chosen family of regressors."""
        return self.regressor.name

    @property
    def num_fitted(self) -> int:
        """Number of distinct architectures that it was fitted to."""
        return len(self.fitted_NG)

    def predict(self, question: Question) -> Prediction:
        """Predict latency; see `CostPredictor`."""
        genomes_NG = question if isinstance(question, np.ndarray) else self.space.genomes(question)
        starts = range(0, max(len(genomes_NG), 1), _ROWS_AT_ONCE)
        parts = [self._predict_rows(genomes_NG[start : start + _ROWS_AT_ONCE]) for start in starts]
        mean_N, width_N, excess_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        # Intervals are multiplicative: errors of latency grow with latency, and the lower limit stays positive.
        factor_N = np.exp(np.minimum(width_N, np.log(_WIDEST_FACTOR)))
        return Prediction(
            mean=mean_N, lower=mean_N / factor_N, upper=mean_N * factor_N, level=self.level, in_range=excess_N == 0.0
        )

    def _predict_rows(self, genomes_NG: npt.NDArray[np.int8]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, half width of the interval of log(latency), and how far outside the fitted range."""
        blocks = LatencyFeatures(space=self.space).encode(genomes_NG)
        mean_N, spread_N = self.regressor.predict(blocks)
        excess_N = self.fitted_range.excess(blocks)
        return mean_N, self.quantile * spread_N * (1.0 + excess_N), excess_N

    def propose(
        self, n: int, *, rng: np.random.Generator, exclude: AbstractSet[str] = frozenset()
    ) -> list[Architecture]:
        """Say what to measure next; see `CostPredictor`."""
        return propose(self, n, space=self.space, known_NG=self.fitted_NG, rng=rng, exclude=exclude)

    def score(self, table: pd.DataFrame) -> Scores:
        """Compare with measurements of architectures that it was not fitted to.

        Args:
            table: as for `fit_latency_predictor`.

        Raises:
            PredictorError: as `fit_latency_predictor`; or an architecture was fitted, which would flatter the scores.
        """
        held_out = MeasuredArchitectures.from_table(
            table, space=self.space, device_id=self.device_id, column=_column(self.unit)
        )
        known = {row.tobytes() for row in self.fitted_NG}
        num_known = sum(row.tobytes() in known for row in held_out.genomes_NG)
        if num_known:
            raise PredictorError(
                f"{num_known} of {len(held_out.genomes_NG)} held-out architectures were used for fitting",
                hint="score on architectures that were measured but not fitted",
            )
        return score(self.predict(held_out.genomes_NG).mean, held_out.cost_N)

    def with_scores(self, scores: Scores) -> "LatencyPredictor":
        """The same predictor with its held-out scores, which `save` puts on the card."""
        return replace(self, scores=scores)

    def save(self, directory: Path) -> None:
        """Write it; see `CostPredictor` and `load_predictor`."""
        write_predictor(
            directory,
            stored=StoredPredictor(
                space_id=self.space_id,
                device_id=self.device_id,
                unit=self.unit,
                level=self.level,
                family=self.family,
                settings=self.regressor.settings,
                quantile=self.quantile,
                num_fitted=self.num_fitted,
                loo_mape_percent=self.loo_mape_percent,
                features_signature=LatencyFeatures(space=self.space).signature(),
                scores=self.scores,
                regressor_arrays=self.regressor.arrays(),
                range_arrays=self.fitted_range.arrays(),
                fitted_NG=self.fitted_NG,
            ),
        )


def fit_latency_predictor(
    table: pd.DataFrame, *, space: SearchSpace, device_id: str, level: float = 0.9, unit: str = "ms"
) -> LatencyPredictor:
    """Fit every registered family and keep the one that predicts left-out rows best.

    Args:
        table: columns "architecture" (JSON text) and "latency_<unit>"; other columns are ignored, but a "device_id"
            column must hold `device_id` only. Repeated architectures count once, with their median.
        space: the architectures' space.
        device_id: the device that was measured.
        level: of the intervals, between 0 and 1.
        unit: of the latencies.

    Raises:
        PredictorError: fewer than 10 distinct architectures, latencies that are not finite and positive or all the
            same, measurements that contradict each other, or architectures of another space; the row is named.
    """
    if not 0.0 < level < 1.0:
        raise PredictorError(f"level is {level}, expected a number between 0 and 1", hint="0.9 is usual")
    column = _column(unit)
    measured = MeasuredArchitectures.from_table(table, space=space, device_id=device_id, column=column)
    latency_N = measured.cost_N
    if len(latency_N) < FEWEST_ARCHITECTURES:
        raise PredictorError(
            f"{len(latency_N)} distinct architectures are too few to fit a latency predictor",
            hint=f"measure at least {FEWEST_ARCHITECTURES}, better 40",
        )
    if np.ptp(latency_N) == 0:
        raise PredictorError(
            f"all {len(latency_N)} latencies are {latency_N[0]:.6g} {unit}: there is nothing to predict",
            hint="check the measurements, or measure architectures that differ in size",
        )
    regressors = find_regressors()
    blocks = LatencyFeatures(space=space).encode(measured.genomes_NG)
    errors_N, spread_N = held_out_errors(regressors, blocks, latency_N)
    return LatencyPredictor(
        space=space,
        device_id=device_id,
        unit=unit,
        level=level,
        regressor=choose(regressors, blocks, latency_N),
        quantile=conformal_quantile(errors_N, spread_N, level=level),
        fitted_range=FittedRange.of(blocks),
        fitted_NG=measured.genomes_NG,
        loo_mape_percent=_mape_percent(errors_N),
    )


def load_predictor(directory: Path, *, space: SearchSpace, device_id: str | None = None) -> LatencyPredictor:
    """Read what `LatencyPredictor.save` wrote; it predicts bit for bit the same.

    Args:
        directory: where it lies.
        space: must be the space it was fitted for.
        device_id: if given, must be the device it was fitted for.

    Raises:
        StorageError: files are missing or damaged.
        PredictorError: another space or device, other features, an unknown family, or a newer file format.
    """
    stored = read_predictor(directory)
    again = "fit it again from the measurements"
    if stored.space_id != space.space_id:
        raise PredictorError(
            f"the predictor in {directory} is for space {stored.space_id!r}, not {space.space_id!r}", hint=again
        )
    if device_id is not None and stored.device_id != device_id:
        raise PredictorError(
            f"the predictor in {directory} is for device {stored.device_id!r}, not {device_id!r}", hint=again
        )
    if stored.features_signature != LatencyFeatures(space=space).signature():
        raise PredictorError(
            f"the predictor in {directory} was fitted to other features than this version computes", hint=again
        )
    families = {regressor.name: regressor for regressor in find_regressors()}
    if stored.family not in families:
        raise PredictorError(
            f"the predictor in {directory} is of family {stored.family!r}; known are {', '.join(families)}", hint=again
        )
    try:
        regressor = families[stored.family].restore(stored.regressor_arrays, settings=stored.settings)
        fitted_range = FittedRange(**stored.range_arrays)
    except (KeyError, TypeError) as e:
        raise StorageError(f"the predictor in {directory} is incomplete ({type(e).__name__}: {e})", hint=again) from e
    return LatencyPredictor(
        space=space,
        device_id=stored.device_id,
        unit=stored.unit,
        level=stored.level,
        regressor=regressor,
        quantile=stored.quantile,
        fitted_range=fitted_range,
        fitted_NG=stored.fitted_NG,
        loo_mape_percent=stored.loo_mape_percent,
        scores=stored.scores,
    )


def _column(unit: str) -> str:
    return f"latency_{unit}"


def _mape_percent(log_errors_N: FloatArray) -> float:
    return float(100.0 * np.abs(np.expm1(log_errors_N)).mean())
