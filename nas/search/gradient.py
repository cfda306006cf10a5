"""Gradient-based search on models, as a sampler: probabilities of choices descend, architectures are drawn from them.

As in ProxylessNAS (Cai, Zhu, Han, ICLR 2019) and FBNet (Wu et al., CVPR 2019) every choice has path weights, relaxed by
Gumbel-softmax under a falling temperature, and the loss weighs accuracy against the logarithm of latency. There, paths
are those of a supernet that is trained meanwhile; here, accuracy is a model that is fitted again whenever the study has
some more evaluations, and latency the run's predictor, where it has gradients, or a model of it. One descent has several
weights of latency at once, so that a front comes out; a weighted sum finds only what is on the front's convex hull.

Letters: N architectures, G genes, B weights of latency, V values of a choice, D draws.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from nas.objectives import Limit, Objective
from nas.pricing import Compute
from nas.search.models import ACCURACY_FAMILIES, without_hopeless
from nas.search.seen import Genome
from nas.search.space_sampler import SpaceSampler, accuracy_and_cost
from predictors.differentiable import DifferentiableBlend, DifferentiableLatency, ExpectedFeatures
from predictors.errors import PredictorError
from predictors.features import LatencyFeatures
from predictors.latency import LatencyPredictor
from predictors.prediction import FloatArray
from predictors.regressors.gaussian import REGRESSORS
from predictors.regressors.regressor import Regressor
from predictors.selection import blend
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

# As many weights of latency in a descent, and as many evaluations before the next.
_WEIGHTS = 8
# Weights are spread over this factor about the one that balances the ranges of both objectives.
_SPREAD = 30.0
_STEPS, _LEARNING_RATE = 120, 0.2
_HOT, _COLD = 5.0, 0.1
_DRAWS = 32
_PRICED = 1024
# How much a predicted cost beyond its limit adds to the loss, for each unit of its logarithm.
_BEYOND_LIMIT = 10.0
# Families that take the features of every space.
_COST_FAMILIES = tuple(family for family in REGRESSORS if family.needs is None)

Probabilities = Mapping[str, torch.Tensor]
# A predicted objective (B,).
_Predict = Callable[[Probabilities], torch.Tensor]


class GradientSampler(SpaceSampler):
    """Descends on differentiable models of accuracy and one cost.

    Args:
        space, objectives, computed, limits, seed: see `SpaceSampler`; one accuracy and one cost.
        predictor: what computes the cost, if it is a predictor.

    Raises:
        RunError: as `SpaceSampler`, or other objectives than an accuracy and a cost.
        PredictorError: the space's operators depend on too many genes at once for gradients.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        objectives: Sequence[Objective],
        computed: Mapping[str, Compute] | None = None,
        limits: Sequence[Limit] = (),
        predictor: LatencyPredictor | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, objectives=objectives, computed=computed, limits=limits, seed=seed)
        self._accuracy, self._cost = accuracy_and_cost(objectives, sampler="gradient")
        self._features = ExpectedFeatures(space)
        self._known_cost = self._computed_cost(predictor)
        self._found: list[Genome] = []
        self._num_fitted = 0

    def _computed_cost(self, predictor: LatencyPredictor | None) -> _Predict | None:
        """The cost where it is computed; None where it is learnt from evaluations."""
        compute = self._computed.get(self._objectives[self._cost].name)
        if compute is None:
            return None
        try:
            if predictor is not None:
                return DifferentiableLatency(predictor)
        except PredictorError:
            pass  # a model of it has gradients
        ends_NG = self._space.genomes([self._space.smallest, self._space.largest])
        genomes_NG = np.unique(np.concatenate([ends_NG, self._space.sample_many(_PRICED, self._rng)]), axis=0)
        return self._fit(_COST_FAMILIES, genomes_NG, compute(genomes_NG))

    def _next(self, pending_NG: Genomes) -> Genome:
        if self._knows_little(pending_NG):
            return self._first_one()
        num = len(self._seen.genomes)
        if not self._num_fitted or num >= self._num_fitted + _WEIGHTS:
            self._found, self._num_fitted = self._descend(), num
        chosen_G = self._unseen(self._found)
        if chosen_G is None:
            self._found = self._descend()
            chosen_G = self._unseen(self._found)
        return self._random() if chosen_G is None else chosen_G

    def _fit(self, families: Sequence[Regressor], genomes_NG: Genomes, value_N: FloatArray) -> _Predict:
        """A differentiable model of a positive value."""
        if np.ptp(value_N) == 0.0:
            constant = float(value_N[0])
            return lambda chances: torch.full((len(next(iter(chances.values()))),), constant, dtype=torch.float64)
        features = LatencyFeatures(space=self._space)
        fitted = blend(families, features.encode(genomes_NG), value_N, population=features.population())
        return DifferentiableBlend(fitted, features=self._features)

    def _descend(self) -> list[Genome]:
        """What a descent ends at, for each weight the best new one, then the next best ones."""
        genomes_NG = np.array(self._seen.genomes, dtype=np.int8)
        told_NM = without_hopeless(self._told_NM(), objectives=self._objectives)
        error_N, cost_N = np.exp(told_NM[:, self._accuracy]), told_NM[:, self._cost]
        error = self._fit(ACCURACY_FAMILIES, genomes_NG, error_N)
        cost = self._known_cost or self._fit(_COST_FAMILIES, genomes_NG, cost_N)
        balanced = (np.ptp(error_N) or 1.0) / (np.ptp(np.log(cost_N)) or 1.0)
        places_B = (np.arange(_WEIGHTS) + self._spread()) / _WEIGHTS
        weight_B = torch.from_numpy(balanced * _SPREAD ** (2.0 * places_B - 1.0))
        limit = self._limits.get(self._cost, np.inf)

        def loss_B(chances: Probabilities) -> torch.Tensor:
            log_B = cost(chances).log()
            # The error is 1 - accuracy: it falls where -accuracy does.
            return error(chances) + weight_B * (log_B + _BEYOND_LIMIT * (log_B - np.log(limit)).clamp(min=0.0))

        generator = torch.Generator().manual_seed(int(self._rng.integers(2**31)))
        ended = relax(self._space, loss_B, num=_WEIGHTS, generator=generator)
        drawn_DBG = self._drawn(ended, generator=generator)
        with torch.no_grad():
            loss_DB = np.stack([loss_B(certain(self._space, drawn_BG)).numpy() for drawn_BG in drawn_DBG])
        best_DB = np.argsort(loss_DB, axis=0, kind="stable")
        per_weight = []
        for b in self._rng.permutation(_WEIGHTS):
            ordered_DG = self._within(self._space.canonicalise(drawn_DBG[best_DB[:, b], b]))
            per_weight.append(list({row.tobytes(): row for row in ordered_DG if self._seen.is_new(row)}.values()))
        return [rows[rank] for rank in range(_DRAWS) for rows in per_weight if rank < len(rows)]

    def _drawn(self, ended: Probabilities, *, generator: torch.Generator) -> Genomes:
        """Genomes (D, B, G), inactive genes included: the most probable of each weight, then random ones."""
        columns = []
        for choice in self._space.choices:
            chance_BV = ended[choice.name]
            random_BD = torch.multinomial(chance_BV, _DRAWS - 1, replacement=True, generator=generator)
            columns.append(torch.cat([chance_BV.argmax(dim=1, keepdim=True), random_BD], dim=1).T)
        return torch.stack(columns, dim=2).to(torch.int8).numpy()


def relax(
    space: SearchSpace, loss_B: Callable[[Probabilities], torch.Tensor], *, num: int, generator: torch.Generator
) -> Probabilities:
    """Minimise losses over probabilities of choices, by Adam on Gumbel-softmax samples under a falling temperature.

    Args:
        space: the search space.
        loss_B: losses (B,) of probabilities by name of the gene, each (B, V).
        num: how many rows B, each for itself.
        generator: of the samples.

    Returns:
        The probabilities at the end.
    """
    logits = {
        choice.name: torch.zeros(num, len(choice.values), dtype=torch.float64).requires_grad_()
        for choice in space.choices
    }
    optimizer = torch.optim.Adam(logits.values(), lr=_LEARNING_RATE)
    for temperature in np.geomspace(_HOT, _COLD, _STEPS).tolist():
        sampled = {}
        for name, logit_BV in logits.items():
            uniform_BV = torch.rand(logit_BV.shape, generator=generator, dtype=torch.float64).clamp(min=1e-12)
            sampled[name] = ((logit_BV - torch.log(-torch.log(uniform_BV))) / temperature).softmax(dim=1)
        optimizer.zero_grad()
        loss_B(sampled).sum().backward()
        optimizer.step()
    return {name: logit_BV.detach().softmax(dim=1) for name, logit_BV in logits.items()}


def certain(space: SearchSpace, genomes_BG: Genomes) -> Probabilities:
    """Probabilities 0 and 1 of complete genomes."""
    return {
        choice.name: torch.nn.functional.one_hot(torch.from_numpy(genomes_BG[:, g]).long(), len(choice.values)).double()
        for g, choice in enumerate(space.choices)
    }
