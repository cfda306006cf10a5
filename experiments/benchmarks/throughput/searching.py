"""One search as a run does it: study in a file, our sampler, a table of rows; the latencies are those of no device."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hardware.cost import analytic_costs
from hardware.table import Table
from nas.candidate import inherited_candidate
from nas.pricing import Pricer
from nas.search.loop import Evaluated, run_search
from nas.search.pool import EvaluationPool
from nas.search.records import evaluation_row
from nas.search.settings import SearchSettings
from nas.search.study import SearchStudy, open_study
from nas.tables import EVALUATION_SCHEMA
from predictors import fit_latency_predictor
from searchspaces import SearchSpace

_DEVICE = "made-up"
_MEASURED = 40
# A network's time there: microseconds an operator, nanoseconds a thousand MACs.
_MS_OF_OPERATOR, _MS_OF_MAC = 2e-3, 1e-8


def make_pricer(space: SearchSpace, *, num_classes: int) -> Pricer:
    """A pricer as of a profiled run: a predictor that is fitted to 40 networks."""
    genomes_NG = np.unique(space.sample_many(2 * _MEASURED, np.random.default_rng(0)), axis=0)[:_MEASURED]
    operators = space.op_table(genomes_NG, num_classes=num_classes)
    costs = analytic_costs(operators)
    ms_N = _MS_OF_OPERATOR * (operators.macs > 0).sum(axis=1) + _MS_OF_MAC * costs.macs_N
    table = pd.DataFrame(
        {"architecture": [arch.to_json() for arch in space.architectures(genomes_NG)], "latency_ms": ms_N}
    )
    return Pricer(
        space, predictor=fit_latency_predictor(table, space=space, device_id=_DEVICE), num_classes=num_classes
    )


def settings_for(evaluations: int, *, subnets_per_task: int) -> SearchSettings:
    """A search of so many evaluations by our sampler."""
    return SearchSettings(
        sampler="surrogate",
        evaluations=evaluations,
        population=24,
        subnets_per_task=subnets_per_task,
        limits=(),
        seed=0,
    )


def new_study(folder: Path, *, pricer: Pricer, settings: SearchSettings) -> SearchStudy:
    """A study in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return open_study(folder / "study.db", name="throughput", pricer=pricer, settings=settings)


class Timeline:
    """When the results of a search came.

    Attributes:
        at_s: time of each evaluation's recording, in order.
        busy_s: what each evaluation itself took.
        seconds: of the whole search.
    """

    def __init__(self, folder: Path) -> None:
        self.at_s: list[float] = []
        self.busy_s: list[float] = []
        self.seconds = 0.0
        self._table = Table(folder / "evaluations", schema=EVALUATION_SCHEMA)

    def record(self, evaluated: Sequence[Evaluated]) -> None:
        """Append the rows that a run would append."""
        self._table.append([_row(one) for one in evaluated])
        self.at_s += [time.perf_counter()] * len(evaluated)
        self.busy_s += [one.score.seconds for one in evaluated]


def search(folder: Path, *, pricer: Pricer, pool: EvaluationPool, evaluations: int, subnets_per_task: int) -> Timeline:
    """Run one search, and say when its results came."""
    settings = settings_for(evaluations, subnets_per_task=subnets_per_task)
    timeline, study = Timeline(folder), new_study(folder, pricer=pricer, settings=settings)
    started_s = time.perf_counter()
    run_search(
        study,
        pricer=pricer,
        pool=pool,
        settings=settings,
        known={},
        record=timeline.record,
        on_progress=lambda _, __: None,
    )
    timeline.seconds = time.perf_counter() - started_s
    return timeline


def _row(one: Evaluated) -> dict[str, object]:
    candidate = inherited_candidate(one.architecture, checkpoint_sha256="0" * 64, recalibration="none")
    return evaluation_row(
        candidate,
        accuracy=one.score.accuracy,
        price=one.price,
        trial_number=one.trial_number,
        seconds=one.score.seconds,
    )
