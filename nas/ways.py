"""Ways to predict a device's latencies from the same measurements, judged on the same held-out subnets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from predictors import (
    CostPredictor,
    LookupTablePredictor,
    OperatorTable,
    PredictorError,
    fit_latency_predictor,
    from_operator_table,
)
from predictors.latency import LatencyPredictor
from predictors.scores import Scores
from searchspaces import SearchSpace

REGRESSOR = "regressor"
OPERATOR_SUM, CORRECTED_SUM, ON_OPERATORS = "operator sum", "corrected operator sum", "regressor on operators"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What was tried.

    Attributes:
        best: the regressor with the smaller leave-one-out error; with its held-out scores.
        chosen: which of `scores` it has.
        loo_mape_percent: the leave-one-out errors that decided, by way: `LatencyPredictor.loo_mape_percent`. A sum is
            no regressor, and has none.
        scores: on the held-out subnets, by way.
        lookup: the operator table, corrected; None without one, or if it could not be corrected.
        uncorrected: why it could not be; None if it could, or without one.
    """

    best: LatencyPredictor
    chosen: str
    loo_mape_percent: Mapping[str, float]
    scores: Mapping[str, Scores]
    lookup: LookupTablePredictor | None
    uncorrected: str | None = None


def compare_ways(
    fit: pd.DataFrame,
    held_out: pd.DataFrame,
    *,
    space: SearchSpace,
    device_id: str,
    unit: str,
    sources: Sequence[CostPredictor],
    operators: OperatorTable | None,
    num_classes: int,
) -> Ways:
    """Fit a regressor, and where there is an operator table also its correction and a regressor that builds on it.

    Which regressor is stored is decided without the held-out subnets, so that its scores there stay honest.

    Args:
        fit: measurements as for `fit_latency_predictor`.
        held_out: others, of other subnets.
        space: of the subnets.
        device_id: what was measured.
        unit: of the latencies.
        sources: predictors of other devices; the regressor on operators does without.
        operators: of the same device, or None.
        num_classes: of the classifiers.

    Raises:
        PredictorError: see `fit_latency_predictor`.
    """
    plain = fit_latency_predictor(fit, space=space, device_id=device_id, unit=unit, sources=sources)
    tried = {REGRESSOR: plain}
    scores = {REGRESSOR: plain.score(held_out)}
    corrected = lookup = uncorrected = None
    if operators is not None:
        sums = from_operator_table(operators, space=space, num_classes=num_classes)
        scores[OPERATOR_SUM] = sums.score(held_out)
        try:
            corrected = sums.corrected(fit)
        except PredictorError as e:
            # The networks are measured and the regressor is fitted: that is kept.
            uncorrected = f"{e} ({e.hint})"
    if corrected is not None:
        scores[CORRECTED_SUM] = corrected.score(held_out)
        lookup = corrected.with_scores(scores[CORRECTED_SUM])
        tried[ON_OPERATORS] = fit_latency_predictor(fit, space=space, device_id=device_id, unit=unit, sources=[lookup])
        scores[ON_OPERATORS] = tried[ON_OPERATORS].score(held_out)
    loo_mape_percent = {name: one.loo_mape_percent for name, one in tried.items()}
    chosen = min(loo_mape_percent, key=loo_mape_percent.__getitem__)
    return Ways(
        best=tried[chosen].with_scores(scores[chosen]),
        chosen=chosen,
        loo_mape_percent=loo_mape_percent,
        scores=scores,
        lookup=lookup,
        uncorrected=uncorrected,
    )
