"""The operator lookup table as a predictor: a network takes what its parts take, and what sums miss is fitted.

Each part was measured alone, so each carries the fixed cost of a call and of fetching its input, which a network pays
once; and data that stay in a cache between parts make a network faster than their sum. Both are nearly the same for
every part, so three numbers correct most of it: latency = offset + factor * sum + per_part * number of parts. A few
whole networks are enough for them.

Letters: N architectures, G genes.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hardware.errors import StorageError
from hardware.files import JSON, read_json, read_manifest, write_bytes, write_json, write_manifest
from predictors.errors import PredictorError
from predictors.features import LatencyFeatures
from predictors.intervals import FittedRange, conformal_quantile
from predictors.measured import MeasuredArchitectures
from predictors.operator_table import OperatorTable, read_operator_table, write_operator_table
from predictors.part_sums import PartSums
from predictors.plausible import WRONG_UNIT, is_plausible, require_plausible
from predictors.prediction import FloatArray, Prediction
from predictors.predictor import Question
from predictors.proposal import propose
from predictors.regressors.regressor import BEYOND_FITTED
from predictors.scores import Scores, score
from predictors.selection import is_constant
from predictors.store import CARD_NAME, MODEL_NAME, scores_from_card, scores_to_card
from searchspaces import Architecture, SearchSpace

TABLE_NAME = "operators.json"
FEWEST_FOR_CORRECTION = 5

LOOKUP_KIND = "operator-lookup-table"
_SCHEMA = 1
_GENOMES, _RANGE = "fitted_NG", "fitted_range"
_LEVEL = 0.9
_STANDARD_DEVIATIONS = 1.645
_LEAST_WIDTH = 1e-3
_MARGIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableCorrection:
    """What sums miss, fitted to whole networks.

    Attributes:
        offset, factor, per_part: see the module's text.
        quantile: half width of an interval in log(latency).
        lowest, highest: latencies of the fitted networks.
        fitted_NG: their genomes.
        fitted_range: what they covered; see `predictors.intervals`.
    """

    offset: float
    factor: float
    per_part: float
    quantile: float
    lowest: float
    highest: float
    fitted_NG: npt.NDArray[np.int8]
    fitted_range: FittedRange

    def of(self, sums_N3: FloatArray) -> FloatArray:
        """Corrected latencies (N,), positive."""
        latency_N = self.offset + self.factor * sums_N3[:, 0] + self.per_part * sums_N3[:, 2]
        return np.maximum(latency_N, self.lowest / BEYOND_FITTED)

    def numbers(self) -> dict[str, float]:
        """Everything but the genomes and what follows from them."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in (_GENOMES, _RANGE)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LookupTablePredictor:
    """Predicts latency from a table; plays the role `CostPredictor`. Made by `from_operator_table`, or loaded.

    Without a correction nobody has compared the sums with whole networks: the interval is no more than the spread of
    the entries, and `in_range` is false everywhere.

    Attributes:
        space: whose architectures it knows.
        table: the entries.
        num_classes: of the classifier that they were measured with.
        sums: the entries by genes.
        correction: see `corrected`.
        scores: see `with_scores`.
    """

    space: SearchSpace
    table: OperatorTable
    num_classes: int
    sums: PartSums
    correction: TableCorrection | None = None
    scores: Scores | None = None

    @property
    def space_id(self) -> str:
        """The space whose architectures it knows."""
        return self.space.space_id

    @property
    def device_id(self) -> str:
        """The device whose latency it predicts."""
        return self.table.device_id

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return self.table.unit

    def predict(self, question: Question) -> Prediction:
        """Predict latency; see `CostPredictor`.

        Raises:
            PredictorError: the table lacks a part of an architecture; its key is named.
        """
        genomes_NG = self._genomes(question)
        sums_N3 = self.sums.of_genomes(genomes_NG)
        if self.correction is None:
            mean_N, deviation_N = sums_N3[:, 0], sums_N3[:, 1]
            # What disturbs one part disturbs all of them, so deviations add.
            width_N = np.log1p(_STANDARD_DEVIATIONS * deviation_N / mean_N)
            in_range_N = np.zeros(len(mean_N), dtype=np.bool_)
        else:
            mean_N = self.correction.of(sums_N3)
            low, high = np.log(self.correction.lowest), np.log(self.correction.highest)
            beyond_N = np.maximum(low - np.log(mean_N), np.log(mean_N) - high) / max(high - low, 0.01) - _MARGIN
            # The entries of a choice or resolution that no fitted network had were never compared with a network.
            excess_N = self.correction.fitted_range.excess(LatencyFeatures(space=self.space).encode(genomes_NG))
            width_N = self.correction.quantile * (1.0 + np.maximum(beyond_N, excess_N))
            in_range_N = (beyond_N <= 0.0) & (excess_N == 0.0)
        factor_N = np.exp(np.maximum(width_N, _LEAST_WIDTH))
        return Prediction(
            mean=mean_N, lower=mean_N / factor_N, upper=mean_N * factor_N, level=_LEVEL, in_range=in_range_N
        )

    def corrected(self, table: pd.DataFrame) -> "LookupTablePredictor":
        """The same table with a correction that fits measurements of whole networks.

        Args:
            table: as for `fit_latency_predictor`.

        Raises:
            PredictorError: fewer than 5 distinct architectures, equal latencies, sums that are no latencies of them in
                that unit or that fall as latencies rise, or as `fit_latency_predictor`.
        """
        measured = self._measured(table)
        if len(measured.cost_N) < FEWEST_FOR_CORRECTION:
            raise PredictorError(
                f"{len(measured.cost_N)} distinct architectures are too few to correct an operator table",
                hint=f"measure at least {FEWEST_FOR_CORRECTION}",
            )
        if is_constant(measured.cost_N):
            raise PredictorError(
                f"all {len(measured.cost_N)} networks take {measured.cost_N[0]:.6g} {self.unit}: nothing to correct by",
                hint="check the measurements, or measure networks that differ in size",
            )
        sums_N3 = self.sums.of_genomes(measured.genomes_NG)
        ratio = float(np.median(sums_N3[:, 0] / measured.cost_N))
        if not is_plausible(ratio):
            raise PredictorError(
                f"the sums of this table's entries are {ratio:.4g} times what networks were measured to take",
                hint=WRONG_UNIT,
            )
        inputs_N3 = np.stack([np.ones(len(sums_N3)), sums_N3[:, 0], sums_N3[:, 2]], axis=1)
        # Relative errors count: every row is divided by what was measured.
        relative_N3 = inputs_N3 / measured.cost_N[:, None]
        inverse_3N = np.linalg.pinv(relative_N3)
        offset, factor, per_part = (inverse_3N @ np.ones(len(sums_N3))).tolist()
        if factor <= 0.0:
            raise PredictorError(
                f"networks whose parts take longer were measured to be no slower (factor {factor:.4g})",
                hint="the table or the measurements are of another device, or too noisy: measure again",
            )
        missed_N = relative_N3 @ np.array([offset, factor, per_part]) - 1.0
        leverage_N = np.einsum("nk,kn->n", relative_N3, inverse_3N)
        left_out_N = missed_N / np.maximum(1.0 - leverage_N, 1e-3)
        errors_N = np.log(np.maximum(1.0 + left_out_N, 1.0 / BEYOND_FITTED))
        return replace(
            self,
            correction=TableCorrection(
                offset=offset,
                factor=factor,
                per_part=per_part,
                quantile=conformal_quantile(errors_N, np.ones_like(errors_N), level=_LEVEL),
                lowest=float(measured.cost_N.min()),
                highest=float(measured.cost_N.max()),
                fitted_NG=measured.genomes_NG,
                fitted_range=_fitted_range(self.space, measured.genomes_NG),
            ),
            scores=None,
        )

    def score(self, table: pd.DataFrame) -> Scores:
        """Compare with measurements of whole networks that it was not corrected by.

        Raises:
            PredictorError: as `LatencyPredictor.score`.
        """
        held_out = self._measured(table)
        held_out.refuse_fitted(self._fitted_NG())
        prediction = self.predict(held_out.genomes_NG)
        return replace(score(prediction.mean, held_out.cost_N), coverage=prediction.coverage(held_out.cost_N))

    def with_scores(self, scores: Scores) -> "LookupTablePredictor":
        """The same predictor with its held-out scores, which `save` puts on the card."""
        return replace(self, scores=scores)

    def propose(
        self, n: int, *, rng: np.random.Generator, exclude: AbstractSet[str] = frozenset()
    ) -> list[Architecture]:
        """Say which networks to measure for the correction; see `CostPredictor`."""
        return propose(self, n, space=self.space, known_NG=self._fitted_NG(), rng=rng, exclude=exclude)

    def save(self, directory: Path) -> None:
        """Write the table in the once-for-all format, and a card; see `CostPredictor` and `load_lookup_table`."""
        card: dict[str, JSON] = {
            "kind": LOOKUP_KIND,
            "schema": _SCHEMA,
            "space_id": self.space_id,
            "device_id": self.device_id,
            "quantity": "latency",
            "unit": self.unit,
            "provenance": "predicted",
            "level": _LEVEL,
            "num_classes": self.num_classes,
            "num_fitted": len(self._fitted_NG()),
            "correction": None if self.correction is None else self.correction.numbers(),
            "scores": scores_to_card(self.scores),
        }
        write_operator_table(directory / TABLE_NAME, self.table)
        write_bytes(directory / MODEL_NAME, save({_GENOMES: np.ascontiguousarray(self._fitted_NG())}))
        write_json(directory / CARD_NAME, card)
        write_manifest(
            directory,
            files=[TABLE_NAME, MODEL_NAME, CARD_NAME],
            details={"kind": LOOKUP_KIND, "device_id": self.device_id},
        )

    def _fitted_NG(self) -> npt.NDArray[np.int8]:
        if self.correction is None:
            return np.empty((0, len(self.space.choices)), dtype=np.int8)
        return self.correction.fitted_NG

    def _genomes(self, question: Question) -> npt.NDArray[np.int8]:
        return self.space.canonicalise(question) if isinstance(question, np.ndarray) else self.space.genomes(question)

    def _measured(self, table: pd.DataFrame) -> MeasuredArchitectures:
        return MeasuredArchitectures.from_table(
            table, space=self.space, device_id=self.device_id, quantity="latency", unit=self.unit
        )


def _fitted_range(space: SearchSpace, fitted_NG: npt.NDArray[np.int8]) -> FittedRange:
    features = LatencyFeatures(space=space)
    return FittedRange.of(features.encode(fitted_NG), ordered=features.resolution_columns())


def from_operator_table(
    table: OperatorTable,
    *,
    space: SearchSpace,
    num_classes: int,
    reference: tuple[Architecture, float] | None = None,
) -> LookupTablePredictor:
    """A predictor without a correction.

    Args:
        table: measured by `nas devices calibrate --operators`, or read by `read_operator_table`.
        space: the architectures' space.
        num_classes: of the classifier that the table has an entry for; 1000 in the published tables.
        reference: an architecture and its latency in the table's unit, measured on the device: a table in another unit
            contradicts it.

    Raises:
        PredictorError: it is no table of this space: at every resolution some parts are missing; or it contradicts the
            reference.
    """
    predictor = LookupTablePredictor(
        space=space,
        table=table,
        num_classes=num_classes,
        sums=PartSums.of(table, space=space, num_classes=num_classes),
    )
    if reference is not None:
        require_plausible(predictor, arch=reference[0], cost=reference[1])
    return predictor


def load_lookup_table(directory: Path, *, space: SearchSpace, device_id: str | None = None) -> LookupTablePredictor:
    """Read what `LookupTablePredictor.save` wrote; it predicts bit for bit the same.

    Args:
        directory: where it lies.
        space: must be the space it was measured for.
        device_id: if given, must be the device it was measured on.

    Raises:
        StorageError: files are missing or damaged.
        PredictorError: another space or device, or a newer file format.
    """
    read_manifest(directory)
    card = read_json(directory / CARD_NAME)
    again = "measure the table again: nas devices calibrate DEVICE --operators"
    if not isinstance(card, Mapping) or card.get("kind") != LOOKUP_KIND or card.get("schema") != _SCHEMA:
        raise PredictorError(f"{directory / CARD_NAME} is no card of an {LOOKUP_KIND} of schema {_SCHEMA}", hint=again)
    for what, expected in (("space", space.space_id), ("device", device_id)):
        if expected is not None and card.get(f"{what}_id") != expected:
            raise PredictorError(
                f"the table in {directory} is for {what} {card.get(f'{what}_id')!r}, not {expected!r}", hint=again
            )
    table = read_operator_table(directory / TABLE_NAME, device_id=str(card["device_id"]), unit=str(card["unit"]))
    return _from_card(card, table=table, space=space, directory=directory)


def _from_card(
    card: Mapping[str, Any], *, table: OperatorTable, space: SearchSpace, directory: Path
) -> LookupTablePredictor:
    try:
        numbers, genomes_NG = card["correction"], load((directory / MODEL_NAME).read_bytes())[_GENOMES]
        return replace(
            from_operator_table(table, space=space, num_classes=int(card["num_classes"])),
            correction=None
            if numbers is None
            else TableCorrection(**numbers, fitted_NG=genomes_NG, fitted_range=_fitted_range(space, genomes_NG)),
            scores=scores_from_card(card["scores"]),
        )
    except (OSError, SafetensorError, KeyError, TypeError) as e:
        raise StorageError(
            f"the table in {directory} cannot be read ({type(e).__name__}: {e})",
            hint=f"delete {directory} and measure again",
        ) from e
