"""Gradient-based search on models, as a sampler: probabilities of choices descend, architectures are drawn from them.

As in ProxylessNAS (Cai, Zhu, Han, ICLR 2019) and FBNet (Wu et al., CVPR 2019) every choice has path weights, relaxed by
Gumbel-softmax under a falling temperature, and the loss weighs accuracy against the logarithm of latency. There, paths
are those of a supernet that is trained meanwhile; here, accuracy is a model that is fitted again whenever the study has
some more evaluations, and latency the run's predictor, where it has gradients, or a model of it. One descent has
several weights of latency at once, so that a front comes out; a weighted sum finds only what is on its convex hull.

Letters: N architectures, G genes, B weights of latency, V values of a choice, D draws.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

import numpy as np
import torch

from nas.search.models import ACCURACY_FAMILIES, without_hopeless
from nas.search.seen import Genome
from nas.search.space_sampler import SpaceOptions, SpaceSampler, accuracy_and_cost
from predictors.differentiable import DifferentiableBlend, DifferentiableLatency, ExpectedFeatures
from predictors.errors import PredictorError
from predictors.features import LatencyFeatures
from predictors.latency import LatencyPredictor
from predictors.prediction import FloatArray
from predictors.regressors.gaussian import REGRESSORS
from predictors.regressors.regressor import Regressor
from predictors.selection import blend, is_constant
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes, unique_genomes

# As many weights of latency in a descent, and as many evaluations before the next.
_WEIGHTS = 8
# Weights are spread over this factor about the one that balances the ranges of both objectives.
_SPREAD = 30.0
_STEPS, _LEARNING_RATE = 80, 0.2
_HOT, _COLD = 5.0, 0.1
# Architectures are drawn from nearly certain choices, then from softer and softer ones.
_DRAWS, _SHARP, _SOFT = 48, 1e-3, 4.0
_PRICED = 1024
# Families that take the features of every space.
_COST_FAMILIES = tuple(family for family in REGRESSORS if family.needs is None)

# By name of the gene (B, V).
PerGene = Mapping[str, torch.Tensor]
# A predicted objective (B,), from the blocks of `ExpectedFeatures`.
_Predict = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


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
        predictor: LatencyPredictor | None = None,
        **options: Unpack[SpaceOptions],
    ) -> None:
        super().__init__(space, **options)
        self._accuracy, self._cost = accuracy_and_cost(self._objectives, sampler="gradient")
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
                return DifferentiableLatency(predictor).of_blocks
        except PredictorError:
            pass  # a model of it has gradients
        ends_NG = self._space.genomes([self._space.smallest, self._space.largest])
        genomes_NG = unique_genomes(np.concatenate([ends_NG, self._space.sample_many(_PRICED, self._rng)]))
        return self._fit(_COST_FAMILIES, genomes_NG, compute(genomes_NG))

    def _next(self, pending_NG: Genomes) -> Genome:
        if self._knows_little(pending_NG):
            return self._first_one()
        num = len(self._seen.genomes)
        if not self._num_fitted or num >= self._num_fitted + _WEIGHTS:
            self._found, self._num_fitted = self._descend(), num
        chosen_G = self._unseen(self._found)
        return self._random() if chosen_G is None else chosen_G

    def _fit(self, families: Sequence[Regressor], genomes_NG: Genomes, value_N: FloatArray) -> _Predict:
        """A differentiable model of a positive value."""
        if is_constant(value_N):
            constant = float(value_N[0])
            return lambda blocks: torch.full_like(blocks["totals"][:, 0], constant)
        features = LatencyFeatures(space=self._space)
        fitted = blend(families, features.encode(genomes_NG), value_N, population=features.population())
        return DifferentiableBlend(fitted, features=self._features).of_blocks

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
        # What is beyond the limit costs as much as under the largest weight.
        beyond, log_limit = balanced * _SPREAD, math.log(self._limits.get(self._cost, math.inf))

        def loss_B(chances: PerGene) -> torch.Tensor:
            blocks = self._features(chances)
            log_B = cost(blocks).log()
            # The error is 1 - accuracy: it falls where -accuracy does.
            return error(blocks) + weight_B * log_B + beyond * (log_B - log_limit).clamp(min=0.0)

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

    def _drawn(self, ended: PerGene, *, generator: torch.Generator) -> Genomes:
        """Genomes (D, B, G), inactive genes included: the most probable of each weight, then less and less so."""
        softness_D = torch.from_numpy(np.geomspace(_SHARP, _SOFT, _DRAWS))
        columns = [
            _gumbel(ended[choice.name].expand(_DRAWS, -1, -1), softness_D[:, None, None], generator=generator)
            for choice in self._space.choices
        ]
        return torch.stack([chance_DBV.argmax(dim=2) for chance_DBV in columns], dim=2).to(torch.int8).numpy()


def relax(
    space: SearchSpace, loss_B: Callable[[PerGene], torch.Tensor], *, num: int, generator: torch.Generator
) -> PerGene:
    """Minimise losses over path weights, by Adam on Gumbel-softmax samples under a falling temperature.

    Args:
        space: the search space.
        loss_B: losses (B,) of probabilities.
        num: how many rows B, each for itself.
        generator: of the samples.

    Returns:
        The path weights at the end: logits.
    """
    logits = {
        choice.name: torch.zeros(num, len(choice.values), dtype=torch.float64).requires_grad_()
        for choice in space.choices
    }
    optimizer = torch.optim.Adam(logits.values(), lr=_LEARNING_RATE)
    for temperature in torch.from_numpy(np.geomspace(_HOT, _COLD, _STEPS)):
        sampled = {
            name: (_gumbel(logit_BV, 1.0, generator=generator) / temperature).softmax(dim=1)
            for name, logit_BV in logits.items()
        }
        optimizer.zero_grad()
        loss_B(sampled).sum().backward()
        optimizer.step()
    return {name: logit_BV.detach() for name, logit_BV in logits.items()}


def _gumbel(logits: torch.Tensor, softness: torch.Tensor | float, *, generator: torch.Generator) -> torch.Tensor:
    """Logits with noise: the largest of a row is a draw from their softmax, or from a softer one."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp(min=1e-12)
    return logits - softness * torch.log(-torch.log(uniform))


def certain(space: SearchSpace, genomes_BG: Genomes) -> PerGene:
    """Probabilities 0 and 1 of complete genomes."""
    return {
        choice.name: torch.nn.functional.one_hot(torch.from_numpy(genomes_BG[:, g]).long(), len(choice.values)).double()
        for g, choice in enumerate(space.choices)
    }
