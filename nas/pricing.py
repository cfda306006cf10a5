"""Cheap objectives: predicted latency and analytic counts of architectures, computed before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hardware.cost import analytic_costs
from nas.errors import InfeasibleError
from nas.objectives import Limit
from predictors.latency import LatencyPredictor
from searchspaces import Architecture, SearchSpace

_POOL, _ROUNDS, _PARENTS = 4096, 12, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one architecture costs, without running it. Latencies are `predicted`, counts `estimated` by analysis.

    Attributes:
        device_id: the predictor's device.
        latency_predicted_ms, latency_predicted_low_ms, latency_predicted_high_ms: prediction and its interval.
        in_range: whether the predictor was fitted on networks like this one.
        macs, params: for one image.
    """

    device_id: str
    latency_predicted_ms: float
    latency_predicted_low_ms: float
    latency_predicted_high_ms: float
    in_range: bool
    macs: int
    params: int

    def row(self) -> Mapping[str, object]:
        """The columns that every table has about a price."""
        return {name: getattr(self, name) for name in self.__slots__}


class Pricer:
    """Prices architectures of one space for one device."""

    def __init__(self, space: SearchSpace, *, predictor: LatencyPredictor, num_classes: int) -> None:
        self.space = space
        self.predictor = predictor
        self._num_classes = num_classes

    def price(self, archs: Sequence[Architecture]) -> list[Price]:
        """One price an architecture, in their order."""
        if not archs:
            return []
        genomes_NG = self.space.genomes(archs)
        costs = analytic_costs(self.space.op_table(genomes_NG, num_classes=self._num_classes))
        prediction = self.predictor.predict(genomes_NG)
        return [
            Price(
                device_id=self.predictor.device_id,
                latency_predicted_ms=float(prediction.mean[n]),
                latency_predicted_low_ms=float(prediction.lower[n]),
                latency_predicted_high_ms=float(prediction.upper[n]),
                in_range=bool(prediction.in_range[n]),
                macs=int(costs.macs_N[n]),
                params=int(costs.params_N[n]),
            )
            for n in range(len(archs))
        ]

    def fastest(self, *, seed: int) -> tuple[Architecture, Price]:
        """The architecture with the smallest predicted latency that a short evolution from the smallest one finds."""
        rng = np.random.default_rng(seed)
        space = self.space
        genomes_NG = np.concatenate([space.genomes([space.smallest]), space.sample_many(_POOL, rng)])
        for _ in range(_ROUNDS):
            best = np.argsort(self.predictor.predict(genomes_NG).mean, kind="stable")[:_PARENTS]
            parents_NG = genomes_NG[best]
            children_NG = space.mutate_many(np.repeat(parents_NG, 8, axis=0), rng)
            genomes_NG = np.concatenate([parents_NG, children_NG])
        best_one = int(np.argmin(self.predictor.predict(genomes_NG).mean))
        arch = space.architectures(genomes_NG[best_one : best_one + 1])[0]
        return arch, self.price([arch])[0]


def latency_limit(value: float | None) -> Limit | None:
    """The limit of a recipe, if it has one."""
    return None if value is None else Limit(name="latency_ms", value=value, unit="ms")


def require_reachable(pricer: Pricer, *, limit: Limit | None, seed: int) -> None:
    """Refuse a limit that no architecture can meet, at once.

    Raises:
        InfeasibleError: names the smallest reachable latency and the architecture that has it.
    """
    if limit is None:
        return
    arch, price = pricer.fastest(seed=seed)
    if limit.violation(price.latency_predicted_ms) > 0:
        raise infeasible(limit, reachable_ms=price.latency_predicted_ms, arch=arch, provenance="predicted")


def infeasible(limit: Limit, *, reachable_ms: float, arch: Architecture, provenance: str) -> InfeasibleError:
    """The answer to a limit that cannot be met."""
    return InfeasibleError(
        f"no architecture of {arch.space_id} meets {limit.name} <= {limit.value:g} {limit.unit}: "
        f"the smallest reachable latency is {reachable_ms:.4g} {limit.unit} ({provenance}, {arch.arch_id})",
        hint=f"raise search.limits.{limit.name} above {reachable_ms:.4g} {limit.unit}, with a new --run-dir, "
        "or choose a faster device",
    )
