"""The predictor of one cost of one space on one device, mostly latency, fitted to a few dozen measurements."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from hardware.files import read_manifest
from predictors.errors import PredictorError
from predictors.features import LatencyFeatures
from predictors.lookup_table import LOOKUP_KIND, load_lookup_table
from predictors.measured import QUANTITIES, MeasuredArchitectures, cost_column
from predictors.model import CostModel, fit_cost_model
from predictors.plausible import require_consistent, require_plausible
from predictors.prediction import LEVEL, FloatArray, Prediction
from predictors.predictor import CostPredictor, Question
from predictors.proposal import propose
from predictors.scores import Scores, score
from predictors.selection import is_constant
from predictors.store import (
    StoredPredictor,
    read_predictor,
    restored_model,
    source_name,
    stored_members,
    write_predictor,
)
from searchspaces import Architecture, SearchSpace

FEWEST_ARCHITECTURES = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyPredictor:
    """Predicts latency, or another `quantity`; plays the role `CostPredictor`.

    Made by `fit_latency_predictor`, `fit_cost_predictor` or `load_predictor`.

    Attributes:
        space: whose architectures it knows.
        device_id, quantity, unit: what it predicts; the quantities are those of `predictors.measured.QUANTITIES`.
        model: what it predicts with.
        fitted_NG: genomes of the fitted architectures.
        sources: predictors that it builds on: of other devices or quantities, or this device's operator lookup table.
        scores: see `with_scores`.
        context: what else the costs depend on and the device's id does not tell, by name, for example "batch".
        left_out_N: what is predicted of each fitted architecture without its own measurement; empty if it was stored
            by a version that did not keep it.
    """

    space: SearchSpace
    device_id: str
    unit: str
    model: CostModel
    fitted_NG: npt.NDArray[np.int8]
    quantity: str = "latency"
    sources: tuple[CostPredictor, ...] = ()
    scores: Scores | None = None
    context: Mapping[str, int] = field(default_factory=dict)
    left_out_N: FloatArray = field(default_factory=lambda: np.empty(0))

    @property
    def space_id(self) -> str:
        """The space whose architectures it knows."""
        return self.space.space_id

    @property
    def family(self) -> str:
        """The families that it averages, the heaviest first, for example "gp-log 72 %, gp-additive 28 %"."""
        return ", ".join(f"{name} {weight:.0%}".replace("%", " %") for name, weight in self.model.blend.names.items())

    @property
    def reasons(self) -> str:
        """Why it predicts with these families: each with its weight and the size of its errors on left-out rows."""
        return f"{self.model.blend.reasons}; weights by errors on left-out rows"

    @property
    def num_fitted(self) -> int:
        """Number of distinct architectures that it was fitted to."""
        return len(self.fitted_NG)

    @property
    def loo_mape_percent(self) -> float:
        """Mean relative error on left-out rows, in percent; an estimate for architectures like the fitted ones."""
        return self.model.loo_mape_percent

    def predict(self, question: Question) -> Prediction:
        """Predict the cost; see `CostPredictor`."""
        genomes_NG = question if isinstance(question, np.ndarray) else self.space.genomes(question)
        features = LatencyFeatures(space=self.space, sources=self.sources)
        return self.model.predict(len(genomes_NG), lambda rows: features.encode(genomes_NG[rows]))

    def propose(
        self, n: int, *, rng: np.random.Generator, exclude: AbstractSet[str] = frozenset()
    ) -> list[Architecture]:
        """Say what to measure next; see `CostPredictor`."""
        return propose(self, n, space=self.space, known_NG=self.fitted_NG, rng=rng, exclude=exclude)

    def score(self, table: pd.DataFrame) -> Scores:
        """Compare with measurements of architectures that it was not fitted to.

        Args:
            table: as for `fit_cost_predictor`.

        Raises:
            PredictorError: as `fit_cost_predictor`; or an architecture was fitted, which would flatter the scores.
        """
        held_out = MeasuredArchitectures.from_table(
            table, space=self.space, device_id=self.device_id, quantity=self.quantity, unit=self.unit
        )
        held_out.refuse_fitted(self.fitted_NG)
        prediction = self.predict(held_out.genomes_NG)
        return replace(score(prediction.mean, held_out.cost_N), coverage=prediction.coverage(held_out.cost_N))

    def with_scores(self, scores: Scores) -> "LatencyPredictor":
        """The same predictor with its held-out scores, which `save` puts on the card."""
        return replace(self, scores=scores)

    def save(self, directory: Path) -> None:
        """Write it and its sources; see `CostPredictor` and `load_predictor`."""
        for number, source in enumerate(self.sources):
            source.save(directory / source_name(number))
        write_predictor(
            directory,
            stored=StoredPredictor(
                space_id=self.space_id,
                device_id=self.device_id,
                quantity=self.quantity,
                unit=self.unit,
                level=self.model.level,
                members=stored_members(self.model),
                quantile=self.model.quantile,
                num_fitted=self.num_fitted,
                loo_mape_percent=self.model.loo_mape_percent,
                features_signature=LatencyFeatures(space=self.space).signature(),
                scores=self.scores,
                range_arrays=self.model.fitted_range.arrays(),
                fitted_NG=self.fitted_NG,
                left_out_N=self.left_out_N,
                num_sources=len(self.sources),
                loo_rms_percent=self.model.blend.loo_rms_percent,
                context=self.context,
            ),
        )


def fit_latency_predictor(
    table: pd.DataFrame,
    *,
    space: SearchSpace,
    device_id: str,
    level: float = LEVEL,
    unit: str = "ms",
    sources: Sequence[CostPredictor] = (),
    reference: tuple[Architecture, float] | None = None,
) -> LatencyPredictor:
    """Fit the predictor of the median latency, column "latency_<unit>" of the table; see `fit_cost_predictor`."""
    return fit_cost_predictor(
        table,
        quantity="latency",
        unit=unit,
        space=space,
        device_id=device_id,
        level=level,
        sources=sources,
        reference=reference,
    )


def fit_cost_predictor(
    table: pd.DataFrame,
    *,
    quantity: str,
    space: SearchSpace,
    device_id: str,
    level: float = LEVEL,
    unit: str | None = None,
    sources: Sequence[CostPredictor] = (),
    reference: tuple[Architecture, float] | None = None,
) -> LatencyPredictor:
    """Fit every registered family and average them by how well they predict left-out rows.

    Args:
        table: columns "architecture" (JSON text) and "<quantity>_<unit>", for example "latency_p99_ms" or "energy_mj";
            other columns are ignored, but columns "device_id" and "unit" must agree. Repeated architectures count
            once, with their median.
        quantity: "latency", "latency_p99" or "energy".
        space: the architectures' space.
        device_id: the device that was measured.
        level: of the intervals, between 0 and 1.
        unit: of the costs; None: ms for latencies, mJ for energy.
        sources: predictors of the same space for other devices or quantities, in any unit, or this device's operator
            lookup table: the fewer measurements there are, the more it follows them (transfer). They become part of
            the predictor. Where one of this very device was fitted to the same architectures, its left-out predictions
            are what is learnt from: it has seen their measurements, and will not have seen those of others.
        reference: an architecture and its cost in `unit`, measured apart from the table: a table in another unit
            contradicts it.

    Raises:
        PredictorError: an unknown quantity; a source of another space; fewer than 10 distinct architectures, costs that
            are missing, not finite and positive or all the same, mixed units, measurements that contradict each other
            or the reference, or architectures of another space; the row is named. So are costs more than twentyfold
            off what the others say; not p99s, as tails can be a hundred medians, nor in spaces whose networks may hold
            operators that nobody uses: where a compiler leaves them out, costs do differ a thousandfold.
    """
    if quantity not in QUANTITIES:
        raise PredictorError(
            f"unknown quantity {quantity!r}, known are {', '.join(QUANTITIES)}",
            hint="MACs, parameters and peak memory are exact: hardware.cost.analytic_costs counts them",
        )
    unit = QUANTITIES[quantity] if unit is None else unit
    for source in sources:
        if source.space_id != space.space_id:
            raise PredictorError(
                f"the source {source.device_id!r} knows space {source.space_id!r}, not {space.space_id!r}",
                hint="transfer needs predictors of the same space: calibrate the other device for it",
            )
    measured = MeasuredArchitectures.from_table(table, space=space, device_id=device_id, quantity=quantity, unit=unit)
    cost_N = measured.cost_N
    if len(cost_N) < FEWEST_ARCHITECTURES:
        raise PredictorError(
            f"{len(cost_N)} distinct architectures are too few to fit a predictor of {quantity}",
            hint=f"measure at least {FEWEST_ARCHITECTURES}, better 40",
        )
    if is_constant(cost_N):
        column = cost_column(quantity, unit)
        raise PredictorError(
            f"all {len(cost_N)} values of {column} are {cost_N[0]:.6g}: there is nothing to predict",
            hint="check the measurements, or measure architectures that differ in size",
        )
    features = LatencyFeatures(space=space, sources=tuple(sources))
    blocks = features.encode(
        measured.genomes_NG, said_NS=_said(sources, measured.genomes_NG, device_id=device_id) if sources else None
    )
    if not (space.has_unused or quantity == "latency_p99"):
        require_consistent(
            blocks["totals"][:, 1],
            cost_N,
            name=lambda n: space.architectures(measured.genomes_NG[n : n + 1])[0].arch_id,
        )
    model = fit_cost_model(
        blocks,
        cost_N,
        population=features.population(),
        level=level,
        ordered=features.resolution_columns(),
    )
    predictor = LatencyPredictor(
        space=space,
        device_id=device_id,
        quantity=quantity,
        unit=unit,
        model=model,
        fitted_NG=measured.genomes_NG,
        sources=tuple(sources),
        left_out_N=cost_N * np.exp(model.blend.loo_log_errors_N),
    )
    if reference is not None:
        require_plausible(predictor, arch=reference[0], cost=reference[1])
    return predictor


def _said(sources: Sequence[CostPredictor], genomes_NG: npt.NDArray[np.int8], *, device_id: str) -> FloatArray:
    """Logarithms (N, S) of what the sources say of architectures without having seen them measured on the device."""
    said_NS = np.stack([source.predict(genomes_NG).mean for source in sources], axis=1)
    for number, source in enumerate(sources):
        if isinstance(source, LatencyPredictor) and source.device_id == device_id and len(source.left_out_N):
            left_out = dict(zip((row.tobytes() for row in source.fitted_NG), source.left_out_N, strict=True))
            said_NS[:, number] = [
                left_out.get(row.tobytes(), said) for row, said in zip(genomes_NG, said_NS[:, number], strict=True)
            ]
    return np.log(said_NS)


def load_predictor(
    directory: Path, *, space: SearchSpace, device_id: str | None = None, quantity: str | None = None
) -> LatencyPredictor:
    """Read what `LatencyPredictor.save` wrote; it predicts bit for bit the same.

    Args:
        directory: where it lies.
        space: must be the space it was fitted for.
        device_id: if given, must be the device it was fitted for.
        quantity: if given, must be what it predicts.

    Raises:
        StorageError: files are missing or damaged.
        PredictorError: another space, device or quantity, other features, an unknown family, or a newer file format.
    """
    stored = read_predictor(directory)
    if device_id is not None and stored.device_id != device_id:
        raise PredictorError(
            f"the predictor in {directory} is for device {stored.device_id!r}, not {device_id!r}",
            hint="fit it again from the measurements",
        )
    if stored.quantity not in (QUANTITIES if quantity is None else (quantity,)):
        raise PredictorError(
            f"the predictor in {directory} is of {stored.quantity}, not of {quantity or ' or '.join(QUANTITIES)}",
            hint="give the directory of another one",
        )
    return LatencyPredictor(
        space=space,
        device_id=stored.device_id,
        quantity=stored.quantity,
        unit=stored.unit,
        model=restored_model(
            stored, directory=directory, space=space, signature=LatencyFeatures(space=space).signature()
        ),
        fitted_NG=stored.fitted_NG,
        left_out_N=stored.left_out_N,
        sources=tuple(
            _load_source(directory / source_name(number), space=space) for number in range(stored.num_sources)
        ),
        scores=stored.scores,
        context=stored.context,
    )


def _load_source(directory: Path, *, space: SearchSpace) -> CostPredictor:
    if read_manifest(directory, verify=False).details.get("kind") == LOOKUP_KIND:
        return load_lookup_table(directory, space=space)
    return load_predictor(directory, space=space)
