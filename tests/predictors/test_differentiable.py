from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from predictors import LatencyPredictor, PredictorError, fit_latency_predictor
from predictors.differentiable import DifferentiableLatency
from predictors.features import LatencyFeatures
from predictors.regressors.regressor import FittedRegressor
from predictors.regressors.trees import BoostedTrees
from searchspaces import SearchSpace, get_space
from tests.predictors.synthetic_device import DEVICE_ID, SyntheticDevice


def one_hot(space: SearchSpace, genomes_NG: np.ndarray) -> dict[str, torch.Tensor]:
    """Certain choices; those of inactive genes are whatever."""
    return {
        choice.name: torch.nn.functional.one_hot(
            torch.from_numpy(np.maximum(genomes_NG[:, gene], 0)).long(), len(choice.values)
        ).double()
        for gene, choice in enumerate(space.choices)
    }


@pytest.fixture(params=[40, 14], ids=["with smooth kernels", "without"])
def fitted(request: pytest.FixtureRequest, space: SearchSpace, fit_table: pd.DataFrame) -> LatencyPredictor:
    return fit_latency_predictor(fit_table.head(request.param), space=space, device_id=DEVICE_ID)


def test_for_certain_choices_the_answer_is_that_of_the_predictor(space: SearchSpace, fitted: LatencyPredictor) -> None:
    genomes_NG = space.sample_many(40, np.random.default_rng(1))
    found = DifferentiableLatency(fitted)(one_hot(space, genomes_NG))
    np.testing.assert_allclose(found.numpy(), fitted.predict(genomes_NG).mean, rtol=1e-6)


def test_gradients_are_slopes(space: SearchSpace, fitted: LatencyPredictor) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = {
        choice.name: torch.randn(1, len(choice.values), generator=generator, dtype=torch.float64).requires_grad_()
        for choice in space.choices
    }
    latency = DifferentiableLatency(fitted)

    def value() -> torch.Tensor:
        return latency({name: logit.softmax(dim=1) for name, logit in logits.items()}).sum()

    value().backward()
    for name in ("resolution", space.choices[1].name, space.choices[-1].name):
        gradient = logits[name].grad
        assert gradient is not None
        with torch.no_grad():
            before, step = value(), 1e-5
            logits[name][0, 0] += step
            slope = (value() - before) / step
            logits[name][0, 0] -= step
        assert float(slope) == pytest.approx(float(gradient[0, 0]), rel=1e-2, abs=1e-9)


def test_descending_makes_networks_faster(space: SearchSpace, fitted: LatencyPredictor) -> None:
    logits = {choice.name: torch.zeros(1, len(choice.values), dtype=torch.float64) for choice in space.choices}
    for logit in logits.values():
        logit.requires_grad_()
    latency, optimizer = DifferentiableLatency(fitted), torch.optim.Adam(logits.values(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        latency({name: logit.softmax(dim=1) for name, logit in logits.items()}).log().sum().backward()
        optimizer.step()
    arch = space.architecture(
        {choice.name: choice.values[int(logits[choice.name].argmax())] for choice in space.choices}
    )
    all_N = fitted.predict(space.sample_many(2000, np.random.default_rng(2))).mean
    assert fitted.predict([arch]).mean[0] < np.quantile(all_N, 0.01)


def test_a_missing_gene_and_sources_are_refused(
    space: SearchSpace, fitted: LatencyPredictor, device: SyntheticDevice
) -> None:
    some = one_hot(space, space.sample_many(2, np.random.default_rng(3)))
    with pytest.raises(PredictorError, match="'resolution' has nothing"):
        DifferentiableLatency(fitted)({name: chance for name, chance in some.items() if name != "resolution"})
    with pytest.raises(PredictorError, match=r"shape \(2, 2\), expected probabilities of shape \(B, 3\)"):
        DifferentiableLatency(fitted)({**some, "resolution": some["resolution"][:, :2]})
    rng = np.random.default_rng(4)
    helped = fit_latency_predictor(
        device.measure(space, space.sample_many(12, rng), rng=rng), space=space, device_id=DEVICE_ID, sources=[fitted]
    )
    with pytest.raises(PredictorError, match="which have no gradients"):
        DifferentiableLatency(helped)


def test_families_without_gradients_are_left_out(space: SearchSpace, predictor: LatencyPredictor) -> None:
    blend = predictor.model.blend
    features = LatencyFeatures(space=space)
    genomes_NG = space.sample_many(40, np.random.default_rng(5))
    trees = BoostedTrees(name="trees").fit(
        features.encode(genomes_NG), predictor.predict(genomes_NG).mean, population=features.population()
    )

    def made_of(*members: FittedRegressor) -> LatencyPredictor:
        weights = tuple(1.0 / len(members) for _ in members)
        mixed = replace(blend, members=members, weights=weights, calibrations=weights)
        return replace(predictor, model=replace(predictor.model, blend=mixed))

    smooth = made_of(blend.members[0])
    found = DifferentiableLatency(made_of(trees, blend.members[0]))(one_hot(space, genomes_NG))
    np.testing.assert_allclose(found.numpy(), smooth.predict(genomes_NG).mean, rtol=1e-6)
    with pytest.raises(PredictorError, match="consists of trees, without gradients"):
        DifferentiableLatency(made_of(trees))


def test_a_family_that_needs_features_without_expectation_has_no_gradients() -> None:
    """In cells of NAS-Bench-201 compilers leave out what nobody uses, which no sum over single genes tells."""
    space = get_space("nasbench201")
    genomes_NG = np.unique(space.sample_many(30, np.random.default_rng(0)), axis=0)
    live_N = LatencyFeatures(space=space).encode(genomes_NG)["live-totals"][:, 1]
    table = pd.DataFrame(
        {"architecture": [arch.to_json() for arch in space.architectures(genomes_NG)], "latency_ms": 1.0 + live_N / 1e7}
    )
    predictor = fit_latency_predictor(table, space=space, device_id=DEVICE_ID)
    assert "gp-live" in predictor.model.blend.names
    with pytest.raises(PredictorError, match="gp-live, without gradients"):
        DifferentiableLatency(predictor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda chance: 3.0 * chance, "'resolution' has rows that are no probabilities.* sums 3 to 3"),
        (lambda chance: -chance, "'resolution' has rows that are no probabilities"),
        (lambda chance: float("nan") * chance, "'resolution' has rows that are no probabilities"),
        (lambda chance: chance.repeat(4, 1), "has 1 rows, 'resolution' has 4"),
    ],
)
def test_what_are_no_probabilities_is_refused(
    space: SearchSpace, predictor: LatencyPredictor, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    latency = DifferentiableLatency(predictor)
    even = {choice.name: torch.full((1, n), 1.0 / n) for choice in space.choices if (n := len(choice.values))}
    assert torch.isfinite(latency(even)).all()
    with pytest.raises(PredictorError, match=message):
        latency({**even, "resolution": change(even["resolution"])})
