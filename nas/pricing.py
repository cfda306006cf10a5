"""Cheap objectives: predicted latency and analytic counts of architectures, computed before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hardware.cost import analytic_costs, peak_activation_bytes
from nas.errors import InfeasibleError
from nas.objectives import Limit
from predictors.latency import LatencyPredictor
from predictors.prediction import FloatArray
from searchspaces import Architecture, SearchSpace
from searchspaces.genomes import Genomes

PEAK_MEMORY = "peak_memory_bytes"
"""Activation memory of one image, counted: see `hardware.liveness`."""

Compute = Callable[[Genomes], FloatArray]
"""Values (N,) of a cost or another objective, known without an evaluation."""

LIMITS: Mapping[str, str] = {"latency_ms": "ms", "macs": "", "params": "", PEAK_MEMORY: "bytes"}
"""What a search can limit, with its unit (none: counts of one image)."""

_COUNTS = ("macs", "params", PEAK_MEMORY)
_AT = "@"
_POOL, _ROUNDS, _PARENTS = 4096, 12, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one architecture costs, without running it. Latencies are `predicted`, counts `estimated` by analysis.

    Attributes:
        device_id: the predictor's device.
        latency_predicted_ms, latency_predicted_low_ms, latency_predicted_high_ms: prediction and its interval.
        in_range: whether the predictor was fitted on networks like this one.
        macs, params: for one image.
        peak_memory_bytes: of its activations, in the device's precision; no column of a table.
        further_ms: predicted latency on further devices whose latency is limited, by id; no column of a table.
    """

    device_id: str
    latency_predicted_ms: float
    latency_predicted_low_ms: float
    latency_predicted_high_ms: float
    in_range: bool
    macs: int
    params: int
    peak_memory_bytes: int
    further_ms: Mapping[str, float] = field(default_factory=dict)

    def cost(self, name: str) -> float:
        """The value that a limit of this name is about."""
        further = {further_name(device_id): value for device_id, value in self.further_ms.items()}
        counts = {count: getattr(self, count) for count in _COUNTS}
        return float({"latency_ms": self.latency_predicted_ms, **counts, **further}[name])

    def row(self) -> Mapping[str, object]:
        """The columns that every table has about a price."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in (PEAK_MEMORY, "further_ms")}


class Pricer:
    """Prices architectures of one space for one device."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        predictor: LatencyPredictor,
        num_classes: int,
        precision: str = "fp32",
        further: Sequence[LatencyPredictor] = (),
    ) -> None:
        """Price with predictors.

        Args:
            space: of the architectures.
            predictor: of the device.
            num_classes: of the classifier.
            precision: that the device computes in.
            further: predictors of other devices whose latency is limited.
        """
        self.space = space
        self.predictor = predictor
        self._num_classes = num_classes
        self._precision = precision
        self._further = tuple(further)

    def price(self, archs: Sequence[Architecture]) -> list[Price]:
        """One price an architecture, in their order."""
        if not archs:
            return []
        genomes_NG = self.space.genomes(archs)
        table = self.space.op_table(genomes_NG, num_classes=self._num_classes)
        costs = analytic_costs(table, precision=self._precision)
        prediction = self.predictor.predict(genomes_NG)
        further = {one.device_id: one.predict(genomes_NG).mean for one in self._further}
        return [
            Price(
                device_id=self.predictor.device_id,
                latency_predicted_ms=float(prediction.mean[n]),
                latency_predicted_low_ms=float(prediction.lower[n]),
                latency_predicted_high_ms=float(prediction.upper[n]),
                in_range=bool(prediction.in_range[n]),
                macs=int(costs.macs_N[n]),
                params=int(costs.params_N[n]),
                peak_memory_bytes=int(costs.peak_activation_bytes_N[n]),
                further_ms={device_id: float(mean_N[n]) for device_id, mean_N in further.items()},
            )
            for n in range(len(archs))
        ]

    @property
    def costs(self) -> Mapping[str, Compute]:
        """By the names of `LIMITS` and of `further_limit`, how to find them out for many architectures."""
        return {
            "latency_ms": latency_of(self.predictor),
            **count_costs(self.space, num_classes=self._num_classes, precision=self._precision),
            **{further_name(one.device_id): latency_of(one) for one in self._further},
        }

    def fastest(self, *, seed: int) -> tuple[Architecture, Price]:
        """The architecture with the smallest predicted latency that a short evolution from the smallest one finds."""
        arch, _ = least(self.space, self.costs["latency_ms"], seed=seed)
        return arch, self.price([arch])[0]


def latency_of(predictor: LatencyPredictor) -> Compute:
    """The predicted latency, for many architectures."""
    return lambda genomes_NG: predictor.predict(genomes_NG).mean


def count_costs(space: SearchSpace, *, num_classes: int, precision: str = "fp32") -> Mapping[str, Compute]:
    """Of the costs of `LIMITS` those that are counted, which needs no device but its precision."""
    return {
        "macs": lambda genomes_NG: analytic_costs(space.op_table(genomes_NG, num_classes=num_classes)).macs_N.astype(
            np.float64
        ),
        "params": lambda genomes_NG: analytic_costs(
            space.op_table(genomes_NG, num_classes=num_classes)
        ).params_N.astype(np.float64),
        PEAK_MEMORY: lambda genomes_NG: peak_activation_bytes(
            space.op_table(genomes_NG, num_classes=num_classes), precision=precision
        ).astype(np.float64),
    }


def least(space: SearchSpace, cost: Compute, *, seed: int) -> tuple[Architecture, float]:
    """The architecture of the smallest cost that a short evolution from the smallest one finds, and its cost."""
    rng = np.random.default_rng(seed)
    genomes_NG = np.concatenate([space.genomes([space.smallest]), space.sample_many(_POOL, rng)])
    cost_N = cost(genomes_NG)
    for _ in range(_ROUNDS):
        best = np.argsort(cost_N, kind="stable")[:_PARENTS]
        children_NG = space.mutate_many(np.repeat(genomes_NG[best], 8, axis=0), rng)
        genomes_NG = np.concatenate([genomes_NG[best], children_NG])
        cost_N = np.concatenate([cost_N[best], cost(children_NG)])
    n = int(np.argmin(cost_N))
    return space.architectures(genomes_NG[n : n + 1])[0], float(cost_N[n])


def search_limits(values: Mapping[str, float | None]) -> tuple[Limit, ...]:
    """The limits of a recipe, by the names of `LIMITS`; None where there is none."""
    return tuple(
        Limit(name=name, value=value, unit=LIMITS[name]) for name, value in values.items() if value is not None
    )


def further_name(device_id: str) -> str:
    """What the latency on a further device is called in a search."""
    return f"latency_ms{_AT}{device_id}"


def further_limit(device_id: str, value: float) -> Limit:
    """The limit, in ms, on the latency on a further device, as the search knows it."""
    return Limit(name=further_name(device_id), value=value, unit="ms")


def violations(genomes_NG: Genomes, *, costs: Mapping[str, Compute], limits: Sequence[Limit]) -> FloatArray:
    """How much each architecture exceeds the limit that it meets worst (N,), as of `Limit.violation`; 0: no limits."""
    worst_N = np.full(len(genomes_NG), -np.inf if limits else 0.0)
    for limit in limits:
        worst_N = np.maximum(worst_N, costs[limit.name](genomes_NG) / limit.value - 1.0)
    return worst_N


def require_reachable(space: SearchSpace, *, costs: Mapping[str, Compute], limits: Sequence[Limit], seed: int) -> None:
    """Refuse limits that no architecture can meet, alone or together, at once.

    Raises:
        InfeasibleError: names the smallest reachable values, and the limits that bind.
    """
    if not limits:
        return
    _, missed = least(space, lambda genomes_NG: violations(genomes_NG, costs=costs, limits=limits), seed=seed)
    if missed > 0:
        raise explain_infeasible(space, costs=costs, limits=limits, seed=seed)


def explain_infeasible(
    space: SearchSpace, *, costs: Mapping[str, Compute], limits: Sequence[Limit], seed: int
) -> InfeasibleError:
    """The answer to limits that cannot be met: what each could be at least, and which of them bind."""
    reachable, binding = [], []
    for limit in limits:
        arch, value = least(space, costs[limit.name], seed=seed)
        provenance = "estimated" if limit.name in _COUNTS else "predicted"
        reachable.append(reached(limit, value=value, arch=arch, provenance=provenance))
        if limit.violation(value) > 0:
            binding.append(limit)
    return infeasible(space, limits=limits, reachable=reachable, binding=binding)


def reached(limit: Limit, *, value: float, arch: Architecture, provenance: str) -> str:
    """The smallest value of a limited cost, as `infeasible` wants it."""
    unit = f" {limit.unit}" if limit.unit else ""
    return f"{limit.name} {value:.6g}{unit} ({provenance}, {arch.arch_id})"


def infeasible(
    space: SearchSpace, *, limits: Sequence[Limit], reachable: Sequence[str], binding: Sequence[Limit]
) -> InfeasibleError:
    """The words for limits that cannot be met.

    Args:
        space: whose architectures do not meet them.
        limits: what was asked for.
        reachable: from `reached`, the smallest values.
        binding: limits that nothing meets even alone; none if it is only all together that nothing meets.
    """
    binds = " and ".join(limit.name for limit in binding or limits)
    how = "binds" if len(binding or limits) == 1 else "bind" if binding else "bind together, each alone can be met"
    above = "these values" if binding else "what was asked"
    raised = " and ".join(_setting(limit) for limit in binding or limits)
    asked = ", ".join(str(limit) for limit in limits)
    return InfeasibleError(
        f"no architecture of {space.space_id} meets {asked}; the smallest reachable values, each by itself: "
        f"{', '.join(reachable)}; {binds} {how}",
        hint=f"raise {raised} above {above}, or choose another device or space",
    )


def _setting(limit: Limit) -> str:
    """What a recipe calls a limit."""
    name, _, device_id = limit.name.partition(_AT)
    return f"limits.{name} of {device_id} in the recipe's devices" if device_id else name
