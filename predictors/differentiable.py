"""A latency predictor with gradients: its answer for choices that are probabilities, for gradient-based search.

Features are sums over operators, and an operator depends on few genes: their expectation under independent choices is
exact, a sum over the combinations of these genes. What the predictor makes of the features is smooth. For probabilities
of 0 and 1 the answer is that of the predictor itself (Cai, Zhu, Han, ProxylessNAS, ICLR 2019, section 3.3, takes the
expectation of a sum of latencies in the same way).

Letters: B sets of probabilities, D columns, E columns of the smooth kernels.
"""

from collections.abc import Mapping

import torch

from predictors.errors import PredictorError
from predictors.features import NUM_COUNTS, feature_layout
from predictors.latency import LatencyPredictor
from predictors.regressors.gaussian import FittedGaussianProcess, differentiable_mean
from predictors.selection import Blend
from searchspaces import SearchSpace

# Rows of 32-bit numbers do not sum to 1 exactly.
_TOLERANCE = 1e-3


class ExpectedFeatures:
    """The blocks of `LatencyFeatures` in expectation, without those of operators that compilers leave out.

    Args:
        space: the architectures' space.

    Raises:
        PredictorError: the space's operators depend on too many genes.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._layout = feature_layout(space)
        if not self._layout.sums.groups:
            raise PredictorError(
                f"operators of {space.space_id} depend on too many genes at once for expectations",
                hint="use the predictor itself, with a search that needs no gradients",
            )
        self._tables = [
            (group.genes.tolist(), torch.from_numpy(group.table), torch.from_numpy(group.columns))
            for group in self._layout.sums.groups
        ]

    def __call__(self, probabilities: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Blocks of B rows, each (B, columns).

        Args:
            probabilities: by name of the gene (B, values), float64, rows that sum to 1; of every gene of the space,
                those of genes that may be inactive included.

        Raises:
            PredictorError: a gene is missing, or its tensor has another shape, or rows that are no probabilities; it is
                named.
        """
        chances = [self._checked(probabilities, choice.name, len(choice.values)) for choice in self.space.choices]
        layout, num = self._layout, len(chances[0])
        for choice, chance in zip(self.space.choices, chances, strict=True):
            if len(chance) != num:
                raise PredictorError(
                    f"gene {choice.name!r} has {len(chance)} rows, {self.space.choices[0].name!r} has {num}",
                    hint="give every gene as many rows",
                )
        width = layout.num_stages + layout.num_shapes
        sums_BC = torch.zeros(num, width, dtype=torch.float64)
        for genes, table, columns in self._tables:
            joint_BR = torch.ones(num, 1, dtype=torch.float64)
            for gene in genes:
                joint_BR = (joint_BR[:, :, None] * chances[gene][:, None, :]).flatten(1)
            sums_BC = sums_BC.index_add(1, columns, joint_BR @ table)
        stages_BC, shapes_BC = sums_BC[:, : layout.num_stages], sums_BC[:, layout.num_stages :]
        kinds_BC = stages_BC @ torch.from_numpy(layout.kind_of_stage)
        return {
            "totals": kinds_BC.unflatten(1, (NUM_COUNTS, -1)).sum(dim=2),
            "kinds": kinds_BC,
            "shapes": shapes_BC,
            "stages": stages_BC,
            "choices": torch.cat(_active(self.space, chances), dim=1),
        }

    def _checked(self, probabilities: Mapping[str, torch.Tensor], name: str, num: int) -> torch.Tensor:
        tensor = probabilities.get(name)
        if tensor is None or tensor.ndim != 2 or tensor.shape[1] != num:
            found = "nothing" if tensor is None else f"a tensor of shape {tuple(tensor.shape)}"
            raise PredictorError(
                f"gene {name!r} has {found}, expected probabilities of shape (B, {num})",
                hint="give every gene of the space the probabilities of its values",
            )
        chance = tensor.double()
        with torch.no_grad():
            # NaN is none of them.
            sound = (chance >= 0.0).all() and ((chance.sum(dim=1) - 1.0).abs() <= _TOLERANCE).all()
        if not sound:
            raise PredictorError(
                f"gene {name!r} has rows that are no probabilities: {chance.min():.4g} to {chance.max():.4g}, sums "
                f"{chance.sum(dim=1).min():.4g} to {chance.sum(dim=1).max():.4g}",
                hint="give rows of values from 0 to 1 that sum to 1, for example a softmax",
            )
        return chance


class DifferentiableBlend:
    """Predicts the mean of a `Blend` from probabilities of choices.

    Families without gradients are left out, and the others take over their weights.

    Args:
        blend: fitted to features of `LatencyFeatures` without sources.
        features: of the same space.

    Raises:
        PredictorError: none of its families has gradients.
    """

    def __init__(self, blend: Blend, *, features: ExpectedFeatures) -> None:
        self._features = features
        self._weighted = [
            (member, weight)
            for member, weight in zip(blend.members, blend.weights, strict=True)
            # What a family needs beside the blocks of all spaces has no expectation.
            if isinstance(member, FittedGaussianProcess) and member.family.needs is None
        ]
        if not self._weighted:
            raise PredictorError(
                f"the predictor consists of {', '.join(blend.names)}, without gradients",
                hint="use the predictor itself, with a search that needs no gradients",
            )

    def __call__(self, probabilities: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Predicted costs (B,); see `ExpectedFeatures` for the probabilities."""
        return self.of_blocks(self._features(probabilities))

    def of_blocks(self, blocks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same, from what `ExpectedFeatures` makes of the probabilities."""
        logs = [weight * torch.log(differentiable_mean(member, blocks)) for member, weight in self._weighted]
        return torch.exp(torch.stack(logs).sum(dim=0) / sum(weight for _, weight in self._weighted))


class DifferentiableLatency(DifferentiableBlend):
    """Predicts the mean of a `LatencyPredictor`, in its unit, from probabilities of choices.

    Args:
        predictor: one without sources.

    Raises:
        PredictorError: no `LatencyPredictor`, or one that builds on other devices, none of its families has gradients,
            or its space's operators depend on too many genes.
    """

    def __init__(self, predictor: LatencyPredictor) -> None:
        if not isinstance(predictor, LatencyPredictor):
            raise PredictorError(
                f"{type(predictor).__name__} has no gradients", hint="give a predictor that fit_latency_predictor made"
            )
        if predictor.sources:
            raise PredictorError(
                f"the predictor of {predictor.device_id!r} builds on {len(predictor.sources)} others, "
                "which have no gradients",
                hint="fit one without sources",
            )
        super().__init__(predictor.model.blend, features=ExpectedFeatures(predictor.space))


def _active(space: SearchSpace, chances: list[torch.Tensor]) -> list[torch.Tensor]:
    """Probabilities of each value, times that of its gene being active."""
    found: dict[str, torch.Tensor] = {}
    for choice, chance in zip(space.choices, chances, strict=True):
        if choice.parent is None:
            found[choice.name] = chance
            continue
        parent = next(other for other in space.choices if other.name == choice.parent)
        rows = [parent.values.index(value) for value in choice.parent_values]
        found[choice.name] = chance * found[choice.parent][:, rows].sum(dim=1, keepdim=True)
    return list(found.values())
