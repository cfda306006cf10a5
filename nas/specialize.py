"""The best architectures of a whole space under limits, from the predictors of a run; nothing is evaluated or measured.

Letters: N architectures, G genes, L limits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hardware.cost import analytic_costs
from nas.errors import InfeasibleError, RunError
from nas.objectives import Limit
from nas.pricing import PEAK_MEMORY, count_costs, explain_infeasible
from nas.run import Run
from nas.run_accuracy import run_accuracy_predictor
from nas.search.candidates import first_pool
from nas.tables import PREDICTED, UNMEASURED
from predictors import AccuracyPredictor, LatencyPredictor
from predictors.features import Blocks, LatencyFeatures, of_function
from predictors.measured import QUANTITIES, cost_column
from predictors.prediction import FloatArray
from searchspaces import Architecture, SearchSpace
from searchspaces.genomes import unique_genomes

LIMITS = ("latency_ms", "latency_p99_ms", "energy_mj", "peak_memory_bytes", "macs", "params")

_FIRST, _PARENTS, _CHILDREN, _GENERATIONS = 3072, 192, 6, 10
_MUTATION = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLatency:
    """What the run's newest verification of an architecture on the device came to, in the unit of the prediction.

    Attributes:
        value: the median.
        interval: of the median.
        provenance: "measured", or "simulated" of a device that counts.
        suspect: whether the measurement failed its own checks.
    """

    value: float
    interval: tuple[float, float]
    provenance: str
    suspect: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialist:
    """One architecture and what is predicted of it.

    Attributes:
        architecture: which one.
        accuracy, accuracy_interval: predicted, with inherited weights, on the search split.
        latency, latency_interval: predicted, in `unit`.
        unit: of the latency.
        in_range: whether all predictors, those of `others` too, were fitted to architectures like this one.
        within_limits: whether the limits hold even at the upper ends of the costs' intervals: of the measured latency
            where that can be believed, else of the predicted costs.
        evaluated: its accuracy with inherited weights, if the run has evaluated it.
        measured: its latency as verified, if the run has verified it on the device.
        macs, params: exact, for one image.
        peak_memory_bytes: of activations, for one image in the device's precision, exact by analysis (see
            `hardware.liveness`); None if nothing was measured there, so that the precision is not known.
        others: what else is predicted on the device, by the name of its limit: value, lower and upper end.
    """

    architecture: Architecture
    accuracy: float
    accuracy_interval: tuple[float, float]
    latency: float
    latency_interval: tuple[float, float]
    unit: str
    in_range: bool
    within_limits: bool
    evaluated: float | None
    measured: MeasuredLatency | None
    macs: int
    params: int
    peak_memory_bytes: int | None
    others: Mapping[str, tuple[float, float, float]]


def specialize(
    run: Run,
    *,
    device: str | None = None,
    limits: Sequence[Limit] = (),
    top: int = 5,
    seed: int = 0,
    accuracy: AccuracyPredictor | None = None,
) -> list[Specialist]:
    """Search the whole space by prediction: the most accurate architectures whose predicted costs meet the limits.

    Where the run has measured an architecture on the device, and that is not suspect, its measured latency counts.

    Args:
        run: profiled for the device, with evaluations.
        device: its id; the recipe's if None.
        limits: names are those of `LIMITS`.
        top: how many, the most accurate first; fewer if the space has no more.
        seed: of the evolution.
        accuracy: from `run_accuracy_predictor`; None: it is fitted.

    Raises:
        RunError: an unknown limit, no predictor of the device, or too few evaluations.
        InfeasibleError: nothing meets the limits; the smallest reachable values are named.
    """
    unknown = [limit.name for limit in limits if limit.name not in LIMITS]
    if unknown:
        raise RunError(f"unknown limits {', '.join(unknown)}", hint=f"the limits are: {', '.join(LIMITS)}")
    if top < 1:
        raise RunError(f"top is {top}, expected 1 or more", hint="ask for at least one architecture")
    judge = _Judge(run, device=device, limits=limits, accuracy=accuracy)
    chosen_NG = evolve(run.space, judge.rank, top=top, seed=seed, begin_with_NG=judge.measured_NG)
    found = judge.specialists(chosen_NG)
    if not found:
        raise judge.infeasible(seed=seed)
    return found[:top]


class _Judge:
    """Predicts and ranks architectures of one run."""

    def __init__(
        self, run: Run, *, device: str | None, limits: Sequence[Limit], accuracy: AccuracyPredictor | None
    ) -> None:
        self._run, self._space, self._limits = run, run.space, tuple(limits)
        self._latency: LatencyPredictor = run.predictor(device)
        if self._latency.unit != "ms" and any(limit.name == "latency_ms" for limit in limits):
            raise RunError(
                f"costs of device {self._latency.device_id!r} are {self._latency.unit}, latency_ms is no limit there",
                hint="limit macs or params, or choose a device that is measured",
            )
        names = {limit.name for limit in limits}
        self._others: dict[str, LatencyPredictor] = {}
        for quantity, unit in QUANTITIES.items():
            name, device_id = cost_column(quantity, unit), self._latency.device_id
            if quantity != "latency" and (name in names or run.predictor_dir(device_id, quantity=quantity).exists()):
                self._others[name] = run.predictor(device_id, quantity=quantity)
        self._precision = run.precision(self._latency.device_id)
        if self._precision is None and "peak_memory_bytes" in names:
            raise RunError(
                f"nothing was measured on device {self._latency.device_id!r}, so its precision is not known, on which "
                "peak_memory_bytes depends",
                hint=f"nas profile {run.path}",
            )
        self._accuracy = run_accuracy_predictor(run) if accuracy is None else accuracy
        self._features = LatencyFeatures(space=run.space, sources=self._latency.sources)
        self._measured = _measured(run, self._latency.device_id)
        believed = [arch for arch, one in self._measured.items() if not one.suspect]
        self.measured_NG = run.space.genomes(believed)
        self._believed_ms = {
            row.tobytes(): self._measured[arch].value for arch, row in zip(believed, self.measured_NG, strict=True)
        }
        ends_NG = run.space.genomes([run.space.smallest])
        exact = analytic_costs(run.space.op_table(ends_NG, num_classes=run.info.num_classes))
        # The classifier of the run has its own number of classes.
        totals_T = self._features.encode(ends_NG)["totals"][0]
        self._more_macs, self._more_params = (
            float(exact.macs_N[0]) - totals_T[1],
            float(exact.params_N[0]) - totals_T[2],
        )

    def rank(self, genomes_NG: npt.NDArray[np.int8]) -> tuple[FloatArray, FloatArray]:
        """How far each misses the limits (0: not at all), and its predicted accuracy."""
        blocks = self._features.encode(genomes_NG)
        accuracy_N = 1.0 - self._accuracy.model.blend.predict(of_function(blocks))[0]
        missed_N = np.zeros(len(genomes_NG))
        for limit in self._limits:
            missed_N = np.maximum(missed_N, self._cost(limit.name, genomes_NG, blocks=blocks) / limit.value - 1.0)
        return missed_N, accuracy_N

    def _cost(self, name: str, genomes_NG: npt.NDArray[np.int8], *, blocks: Blocks | None = None) -> FloatArray:
        """What a limit is about, (N,)."""
        if name == PEAK_MEMORY:
            return self._peak_memory(genomes_NG)
        if name in self._others:
            return self._others[name].predict(genomes_NG).mean
        known: Blocks = self._features.encode(genomes_NG) if blocks is None else blocks
        if name == "latency_ms":
            said = self._latency.model.predict(len(genomes_NG), lambda rows: {k: v[rows] for k, v in known.items()})
            return self._measured_or(said.mean, genomes_NG)
        totals_NT = known["totals"]
        count_N: FloatArray = (
            totals_NT[:, 1] + self._more_macs if name == "macs" else totals_NT[:, 2] + self._more_params
        )
        return count_N

    def _measured_or(self, predicted_N: FloatArray, genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
        """Latencies (N,), measured where that can be believed."""
        if not self._believed_ms:
            return predicted_N
        rows = (row.tobytes() for row in np.ascontiguousarray(genomes_NG))
        return np.array([self._believed_ms.get(row, said) for row, said in zip(rows, predicted_N, strict=True)])

    def _peak_memory(self, genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
        assert self._precision is not None
        costs = count_costs(self._space, num_classes=self._run.info.num_classes, precision=self._precision)
        return costs[PEAK_MEMORY](genomes_NG)

    def specialists(self, genomes_NG: npt.NDArray[np.int8]) -> list[Specialist]:
        """Those that meet the limits, in their order."""
        if not len(genomes_NG):
            return []
        accuracy, latency = self._accuracy.predict(genomes_NG), self._latency.predict(genomes_NG)
        costs = analytic_costs(self._space.op_table(genomes_NG, num_classes=self._run.info.num_classes))
        others = {name: predictor.predict(genomes_NG) for name, predictor in self._others.items()}
        peak_N = None if self._precision is None else self._peak_memory(genomes_NG)
        rows = self._run.evaluations()
        rows = rows[rows["weights_kind"] == "inherited"]
        evaluated = dict(zip(rows["arch_id"], rows["accuracy"], strict=True))
        found = []
        for n, arch in enumerate(self._space.architectures(genomes_NG)):
            exact = {"macs": float(costs.macs_N[n]), "params": float(costs.params_N[n])}
            if peak_N is not None:
                exact["peak_memory_bytes"] = float(peak_N[n])
            predicted = {"latency_ms": latency, **others}
            values = exact | {name: float(one.mean[n]) for name, one in predicted.items()}
            at_worst = exact | {name: float(one.upper[n]) for name, one in predicted.items()}
            measured = self._measured.get(arch)
            if measured is not None and not measured.suspect:
                values["latency_ms"], at_worst["latency_ms"] = measured.value, measured.interval[1]
            if any(limit.violation(values[limit.name]) > 0 for limit in self._limits):
                continue
            found.append(
                Specialist(
                    architecture=arch,
                    accuracy=float(accuracy.mean[n]),
                    accuracy_interval=(float(accuracy.lower[n]), float(accuracy.upper[n])),
                    latency=float(latency.mean[n]),
                    latency_interval=(float(latency.lower[n]), float(latency.upper[n])),
                    unit=self._latency.unit,
                    in_range=all(bool(one.in_range[n]) for one in (accuracy, latency, *others.values())),
                    within_limits=all(limit.violation(at_worst[limit.name]) <= 0 for limit in self._limits),
                    evaluated=evaluated.get(arch.arch_id),
                    measured=measured,
                    macs=int(costs.macs_N[n]),
                    params=int(costs.params_N[n]),
                    peak_memory_bytes=None if peak_N is None else int(peak_N[n]),
                    others={
                        name: (float(one.mean[n]), float(one.lower[n]), float(one.upper[n]))
                        for name, one in others.items()
                    },
                )
            )
        return found

    def infeasible(self, *, seed: int) -> InfeasibleError:
        """What each limit could be at least."""
        costs = {limit.name: partial(self._cost, limit.name) for limit in self._limits}
        return explain_infeasible(self._space, costs=costs, limits=self._limits, seed=seed)


def _measured(run: Run, device_id: str) -> dict[Architecture, MeasuredLatency]:
    """What was verified on a device: latency does not depend on weights."""
    rows = run.verifications()
    rows = rows[(rows["device_id"] == device_id) & ~rows["provenance"].isin((PREDICTED, UNMEASURED))]
    return {
        Architecture.from_json(row["architecture"]): MeasuredLatency(
            value=float(row["latency_ms"]),
            interval=(float(row["latency_low_ms"]), float(row["latency_high_ms"])),
            provenance=str(row["provenance"]),
            suspect=bool(row["suspect"]),
        )
        for row in rows.to_dict("records")
    }


def _best_first(ranked: Sequence[FloatArray]) -> npt.NDArray[np.int64]:
    """Fewest missed limits, then highest accuracy."""
    missed_N, accuracy_N = ranked
    order: npt.NDArray[np.int64] = np.lexsort((-accuracy_N, missed_N))
    return order


def evolve(
    space: SearchSpace,
    rank: Callable[[npt.NDArray[np.int8]], Sequence[FloatArray]],
    *,
    order: Callable[[Sequence[FloatArray]], npt.NDArray[np.int64]] = _best_first,
    top: int,
    seed: int,
    begin_with_NG: npt.NDArray[np.int8] | None = None,
) -> npt.NDArray[np.int8]:
    """The best of a short evolution.

    Args:
        space: to search.
        rank: what is known of architectures, one array (N,) or more.
        order: row numbers of what `rank` gave, best first.
        top: four times as many are returned, as far as there are.
        seed: of the evolution.
        begin_with_NG: some to begin with, beside those of the whole space.
    """
    rng = np.random.default_rng((seed, 9))
    pool_NG = first_pool(space, _FIRST, rng)
    if begin_with_NG is not None and len(begin_with_NG):
        pool_NG = unique_genomes(np.concatenate([pool_NG, begin_with_NG]))
    ranked = rank(pool_NG)
    num_parents = max(_PARENTS, top)
    for _ in range(_GENERATIONS):
        best = order(ranked)[:num_parents]
        parents_NG = pool_NG[best]
        mothers_NG = np.repeat(parents_NG, _CHILDREN // 2, axis=0)
        children_NG = np.concatenate(
            [
                space.mutate_many(mothers_NG, rng, probability=_MUTATION),
                space.crossover_many(mothers_NG, parents_NG[rng.integers(len(parents_NG), size=len(mothers_NG))], rng),
            ]
        )
        # Those that are there already are not asked about again.
        fresh_NG = unique_genomes(children_NG)
        known = {row.tobytes() for row in parents_NG}
        fresh_NG = fresh_NG[[row.tobytes() not in known for row in fresh_NG]]
        if not len(fresh_NG):
            break
        pool_NG = np.concatenate([parents_NG, fresh_NG])
        ranked = [np.concatenate([old[best], new]) for old, new in zip(ranked, rank(fresh_NG), strict=True)]
    best_NG: npt.NDArray[np.int8] = pool_NG[order(ranked)[: 4 * top]]
    return best_NG
