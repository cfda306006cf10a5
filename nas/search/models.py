"""Models of a search's objectives: what is known and what is predicted of any architecture, ready for an acquisition.

All objectives are minimised: costs as they are, since they add up, and accuracy as the logarithm of the error rate: a
tenth of a point matters more at 94 % than at 60 %.

Letters: N architectures, G genes, M objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.errors import RunError
from nas.objectives import Objective
from nas.pricing import Compute
from predictors.features import LatencyFeatures, of_function
from predictors.prediction import FloatArray
from predictors.regressors.gaussian import REGRESSORS, GaussianProcess, View
from predictors.selection import Blend, blend, is_constant
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

# Without a single error on the images at hand a network makes some on others.
_LEAST_ERROR = 1e-4
_MOST_WRONG = float(np.log(4.0))
# A network that a compiler optimised away is no outlier of a model that takes noise as relative to the cost.
_LEAST_SHARE = 0.02
# What a network computes: effects on the error rate multiply, and depend on each other.
ACCURACY_FAMILIES = (
    GaussianProcess(
        name="gp-accuracy",
        views=(
            View(block="totals", log_share=0.0, logarithmic=True),
            View(block="kinds", log_share=-1.0, logarithmic=True),
            View(block="choices", log_share=-1.0),
        ),
        logarithmic=True,
        smooth=(View(block="choices", log_share=0.0), View(block="kinds", log_share=0.0, logarithmic=True)),
    ),
)
# The same where the space says which paths lead through a network.
_PATH_FAMILIES = tuple(family for family in REGRESSORS if family.name == "gp-paths")
# Costs add up, over all operators or, after a compiler, over those that are used.
_COST = tuple(family for family in REGRESSORS if family.name in ("gp-additive", "gp-live"))


def as_costs(values_NM: FloatArray, *, objectives: Sequence[Objective]) -> FloatArray:
    """What trials are told, to be minimised, (N, M): logarithms of error rates, and costs.

    Raises:
        RunError: a cost that is not positive, or an accuracy above 1 (percent?).
    """
    cost_NM = np.array(values_NM, dtype=np.float64)
    for m, objective in enumerate(objectives):
        wrong_N = cost_NM[:, m] > 1.0 if objective.direction == "maximize" else cost_NM[:, m] <= 0.0
        if wrong_N.any():
            allowed = "fractions up to 1" if objective.direction == "maximize" else "positive values"
            raise RunError(
                f"objective {objective.name} is {cost_NM[wrong_N, m][0]:g}, the surrogate sampler takes {allowed}",
                hint="give the objective in another unit, or choose another sampler",
            )
        if objective.direction == "maximize":
            cost_NM[:, m] = np.log(np.maximum(1.0 - cost_NM[:, m], _LEAST_ERROR))
    return cost_NM


def without_hopeless(cost_NM: FloatArray, *, objectives: Sequence[Objective]) -> FloatArray:
    """The same, but no error rate above four times the median: beyond it a network is no candidate.

    Networks that learnt nothing would otherwise stretch the scale on which good ones are told apart.
    """
    bounded_NM = cost_NM.copy()
    for m, objective in enumerate(objectives):
        if objective.direction == "maximize":
            bounded_NM[:, m] = np.minimum(cost_NM[:, m], np.median(cost_NM[:, m]) + _MOST_WRONG)
    return bounded_NM


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectiveModels:
    """Predicts all objectives of architectures.

    Attributes:
        space: the architectures' space.
        objectives: in the order of the columns.
        computed: by name, how to compute objectives exactly.
        blends: by name, the models of the others; none for one that was the same for all.
        constants: by name, the value of those.
        num_fitted: architectures that the models were fitted to.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    computed: Mapping[str, Compute]
    blends: Mapping[str, Blend]
    constants: Mapping[str, float]
    num_fitted: int

    def predict(self, genomes_NG: Genomes) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations (N, M), as of `as_costs`; the deviation of what is computed is 0."""
        mean_NM = np.empty((len(genomes_NG), len(self.objectives)))
        spread_NM = np.zeros_like(mean_NM)
        blocks = LatencyFeatures(space=self.space).encode(genomes_NG) if self.blends else {}
        for m, objective in enumerate(self.objectives):
            if objective.name in self.computed:
                value_N = self.computed[objective.name](genomes_NG)
                mean_NM[:, m] = as_costs(value_N[:, None], objectives=[objective])[:, 0]
            elif objective.name in self.constants:
                mean_NM[:, m] = self.constants[objective.name]
            else:
                function = _is_function(objective)
                value_N, spread_N = self.blends[objective.name].predict(of_function(blocks) if function else blocks)
                mean_NM[:, m] = np.log(value_N) if function else value_N
                spread_NM[:, m] = spread_N if function else spread_N * value_N
        return mean_NM, spread_NM


def fit_models(
    genomes_NG: Genomes,
    cost_NM: FloatArray,
    *,
    space: SearchSpace,
    objectives: Sequence[Objective],
    computed: Mapping[str, Compute],
) -> ObjectiveModels:
    """Fit models of all objectives that are not computed.

    Args:
        genomes_NG: evaluated architectures, at least 3.
        cost_NM: theirs, from `as_costs`.
        space: the search space.
        objectives: in the order of the columns.
        computed: by name, those that need no model.
    """
    features = LatencyFeatures(space=space)
    blocks = features.encode(genomes_NG)
    blends, constants = {}, {}
    for m, objective in enumerate(objectives):
        if objective.name in computed:
            continue
        if is_constant(cost_NM[:, m]):
            constants[objective.name] = float(cost_NM[0, m])
            continue
        value_N, seen, population = cost_NM[:, m], blocks, features.population()
        if _is_function(objective):
            value_N, seen, population = np.exp(value_N), of_function(seen), of_function(population)
            families = _PATH_FAMILIES if "paths" in seen else ACCURACY_FAMILIES
        else:
            value_N, families = np.maximum(value_N, _LEAST_SHARE * np.median(value_N)), _COST
        blends[objective.name] = blend(families, seen, value_N, population=population)
    return ObjectiveModels(
        space=space,
        objectives=tuple(objectives),
        computed=computed,
        blends=blends,
        constants=constants,
        num_fitted=len(genomes_NG),
    )


def _is_function(objective: Objective) -> bool:
    """Whether it depends on what a network computes, rather than on how."""
    return objective.direction == "maximize"
