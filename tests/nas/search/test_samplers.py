"""Published searches as samplers: what every sampler of ours keeps to, and what each of them is about."""

from collections.abc import Callable, Sequence

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from nas.errors import RunError
from nas.objectives import ACCURACY, LATENCY, Limit, Objective
from nas.pricing import Compute, Pricer, count_costs
from nas.search import gradient
from nas.search.evolution import Evolution
from nas.search.gradient import GradientSampler
from nas.search.mnasnet import HARD, SOFT, MnasNetSampler, reward
from nas.search.ofa_evolution import OfaEvolutionSampler, remembered
from nas.search.space_sampler import SpaceSampler
from nas.search.surrogate import SurrogateSampler
from predictors.differentiable import ExpectedFeatures
from searchspaces import Architecture, SearchSpace, get_space
from searchspaces.enumeration import enumerate_genomes
from searchspaces.genomes import Genomes
from tests.nas.search.small_spaces import EIGHTEEN
from tests.nas.search.test_surrogate import OBJECTIVES, Values, hypervolume, latency_of, make_study, search, values_of
from tests.nas.tiny_run import SPACE

MACRO = get_space("nas-bench-macro")
FIRST = 8
Make = Callable[..., SpaceSampler]


@pytest.fixture(params=["surrogate", "mnasnet", "ofa-evolution", "gradient"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a sampler that is quick: short evolutions, few steps."""
    monkeypatch.setattr(gradient, "_STEPS", 30)

    def make_it(
        space: SearchSpace,
        *,
        objectives: Sequence[Objective] = OBJECTIVES,
        computed: dict[str, Compute] | None = None,
        limits: Sequence[Limit] = (),
        seed: int = 0,
    ) -> SpaceSampler:
        match request.param:
            case "mnasnet":
                return MnasNetSampler(
                    space, objectives=objectives, computed=computed, limits=limits, population=FIRST, seed=seed
                )
            case "ofa-evolution":
                return OfaEvolutionSampler(
                    space, objectives=objectives, computed=computed, limits=limits, generations=15, seed=seed
                )
            case "gradient":
                return GradientSampler(space, objectives=objectives, computed=computed, limits=limits, seed=seed)
            case _:
                return SurrogateSampler(space, objectives=objectives, computed=computed, limits=limits, seed=seed)

    return make_it


def constant(values: Values, which: int) -> Values:
    def some(arch: Architecture) -> list[float]:
        found = list(values(arch))
        found[which] = 0.5
        return found

    return some


def test_a_small_space_is_exhausted_without_a_repeat_and_then_repeats(make: Make) -> None:
    study = make_study(make(EIGHTEEN))
    archs = search(study, EIGHTEEN, num=18, values=values_of(EIGHTEEN))
    assert len(set(archs)) == EIGHTEEN.size == 18
    assert search(study, EIGHTEEN, num=1, values=values_of(EIGHTEEN))[0] in archs


def test_computed_limits_hold_and_nothing_comes_twice(make: Make) -> None:
    costs = {"latency_ms": latency_of(SPACE), **count_costs(SPACE, num_classes=10)}
    drawn_NG = SPACE.sample_many(1000, np.random.default_rng(0))
    limits = [
        Limit(name=name, value=float(np.quantile(costs[name](drawn_NG), share)), unit="")
        for name, share in (("latency_ms", 0.3), ("params", 0.5))
    ]
    study = make_study(make(SPACE, computed=costs, limits=limits))
    archs = search(study, SPACE, num=24, values=values_of(SPACE))
    assert len(set(archs)) == 24
    for limit in limits:
        assert (costs[limit.name](SPACE.genomes(archs)) <= limit.value).all()


def test_waiting_and_failed_trials_are_not_proposed_again_by_who_saw_them(make: Make) -> None:
    study = make_study(make(SPACE))
    archs = search(study, SPACE, num=14, values=values_of(SPACE))
    waiting = [study.ask() for _ in range(6)]
    archs += [SPACE.suggest(trial) for trial in waiting]
    for trial in waiting:
        study.tell(trial, state=TrialState.FAIL)
    archs += search(study, SPACE, num=6, values=values_of(SPACE))
    assert len(set(archs)) == len(archs) == 26


def test_what_failed_before_a_sampler_was_made_may_be_tried_again_and_nothing_else(make: Make) -> None:
    study = make_study(make(EIGHTEEN))
    search(study, EIGHTEEN, num=13, values=values_of(EIGHTEEN))
    failing = [study.ask() for _ in range(4)]
    failed = {EIGHTEEN.suggest(trial) for trial in failing}
    for trial in failing:
        study.tell(trial, state=TrialState.FAIL)
    waits = EIGHTEEN.suggest(study.ask())
    study.sampler = make(EIGHTEEN, seed=1)
    again = study.ask()
    first = EIGHTEEN.suggest(again)
    # It fails again, and this sampler has seen it.
    study.tell(again, state=TrialState.FAIL)
    archs = [first, *search(study, EIGHTEEN, num=3, values=values_of(EIGHTEEN))]
    assert set(archs) == failed
    assert waits not in archs


@pytest.mark.parametrize("make", ["mnasnet", "ofa-evolution", "gradient"], indirect=True)
def test_the_seed_decides_and_the_study_is_all_that_is_remembered(make: Make) -> None:
    runs = []
    for seed in (0, 0, 1):
        study = make_study(RandomSampler(seed=0))
        search(study, MACRO, num=16, values=values_of(MACRO))
        study.sampler = make(MACRO, seed=seed)
        runs.append(search(study, MACRO, num=6, values=values_of(MACRO)))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("which", [0, 1], ids=["accuracy", "latency"])
def test_a_constant_objective_leaves_a_search_in_the_other(make: Make, which: int) -> None:
    study = make_study(make(SPACE))
    archs = search(study, SPACE, num=22, values=constant(values_of(SPACE), which))
    assert len(set(archs)) == 22


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_accuracies_at_either_end_are_no_hindrance(make: Make, accuracy: float) -> None:
    """Nothing learnt at all, or nothing wrong: logarithms and shares must survive it, computed costs too."""
    study = make_study(make(SPACE, computed={"latency_ms": latency_of(SPACE)}))
    archs = search(study, SPACE, num=18, values=lambda arch: (accuracy, values_of(SPACE)(arch)[1]))
    assert len(set(archs)) == 18


def test_one_outlier_among_equal_accuracies(make: Make) -> None:
    def values(arch: Architecture) -> tuple[float, float]:
        return 0.9 if arch == SPACE.largest else 0.5, values_of(SPACE)(arch)[1]

    assert len(set(search(make_study(make(SPACE)), SPACE, num=18, values=values))) == 18


@pytest.mark.parametrize("make", ["mnasnet", "ofa-evolution", "gradient"], indirect=True)
def test_more_is_found_than_by_chance_and_over_the_whole_range_of_costs(make: Make) -> None:
    archs = search(make_study(make(MACRO)), MACRO, num=36, values=values_of(MACRO))
    chance = search(make_study(RandomSampler(seed=0)), MACRO, num=36, values=values_of(MACRO))
    assert hypervolume(archs, space=MACRO) > hypervolume(chance, space=MACRO)
    logs_N = np.log(latency_of(MACRO)(MACRO.genomes(archs)))
    assert np.ptp(logs_N[12:]) > 0.4 * np.ptp(logs_N)


@pytest.mark.parametrize("make", ["mnasnet", "ofa-evolution", "gradient"], indirect=True)
def test_other_objectives_than_an_accuracy_and_a_cost_are_refused(make: Make) -> None:
    params = Objective(name="params", direction="minimize", unit="", cost_class="cheap")
    with pytest.raises(RunError, match="weighs one accuracy against one cost, the objectives are accuracy, latency_ms"):
        make(MACRO, objectives=(*OBJECTIVES, params))
    with pytest.raises(RunError, match="the objectives are params"):
        make(MACRO, objectives=(params, LATENCY))
    with pytest.raises(RunError, match="limits on accuracy"):
        make(MACRO, limits=[Limit(name=ACCURACY.name, value=0.5, unit="")])


def test_the_soft_reward_orders_alike_for_every_target_and_the_hard_one_does_not() -> None:
    accuracy_N, cost_N = np.array([0.9, 0.8, 0.5]), np.array([4.0, 2.0, 1.0])
    np.testing.assert_allclose(
        reward(accuracy_N, cost_N, target=2.0, exponents=SOFT), accuracy_N * np.array([2.0, 1.0, 0.5]) ** -0.07
    )
    np.testing.assert_allclose(reward(accuracy_N, cost_N, target=2.0, exponents=HARD), [0.45, 0.8, 0.5])
    soft, hard = (
        {tuple(np.argsort(reward(accuracy_N, cost_N, target=target, exponents=w)).tolist()) for target in (0.5, 2.0, 8)}
        for w in (SOFT, HARD)
    )
    assert len(soft) == 1 < len(hard)


def test_the_evolution_finds_the_best_that_the_constraint_allows() -> None:
    everything_NG = enumerate_genomes(MACRO)
    weight_G = np.random.default_rng(0).normal(size=everything_NG.shape[1])

    def judge(genomes_NG: Genomes) -> np.ndarray:
        return np.asarray(genomes_NG @ weight_G)

    def allows(genomes_NG: Genomes) -> np.ndarray:
        return np.asarray(genomes_NG.sum(axis=1) <= 6)

    evolution = Evolution(MACRO, judge=judge, allows=allows, rng=np.random.default_rng(1))
    found = evolution.run(MACRO.genomes([MACRO.smallest]), generations=40)
    assert allows(found.genomes_NG).all()
    assert (np.diff(found.value_N) <= 0.0).all()
    assert found.value_N[0] == pytest.approx(judge(everything_NG[allows(everything_NG)]).max())


def test_what_is_remembered_is_predicted_once() -> None:
    asked: list[int] = []

    def predict(genomes_NG: Genomes) -> np.ndarray:
        asked.append(len(genomes_NG))
        return np.asarray(genomes_NG.sum(axis=1), dtype=np.float64)

    some_NG = EIGHTEEN.sample_many(6, np.random.default_rng(0))
    ask = remembered(predict)
    for rows in ([0, 1, 0], [2, 1], [0, 2]):
        np.testing.assert_array_equal(ask(some_NG[rows]), some_NG[rows].sum(axis=1))
    assert sum(asked) == len(np.unique(some_NG[:3], axis=0))


def test_descending_ends_at_the_choices_of_the_smallest_loss() -> None:
    names = [choice.name for choice in MACRO.choices]

    def loss_B(chances: gradient.PerGene) -> torch.Tensor:
        """The first row likes the first value of everything, the second row the last."""
        return -torch.stack([chances[name][[0, 1], [0, -1]] for name in names]).sum(dim=0)

    ended = gradient.relax(MACRO, loss_B, num=2, generator=torch.Generator().manual_seed(0))
    for name in names:
        assert ended[name].argmax(dim=1).tolist() == [0, ended[name].shape[1] - 1]


@pytest.mark.parametrize("knows_predictor", [True, False], ids=["the run's predictor", "a model of what is computed"])
def test_a_computed_cost_is_differentiable_either_way(macs_pricer: Pricer, *, knows_predictor: bool) -> None:
    sampler = GradientSampler(
        SPACE,
        objectives=OBJECTIVES,
        computed=macs_pricer.costs,
        predictor=macs_pricer.predictor if knows_predictor else None,
        seed=0,
    )
    assert sampler._known_cost is not None
    genomes_NG = enumerate_genomes(SPACE)
    chances = gradient.certain(SPACE, np.maximum(genomes_NG, 0))
    found_N = sampler._known_cost(ExpectedFeatures(SPACE)(chances)).numpy()
    np.testing.assert_allclose(found_N, macs_pricer.costs["latency_ms"](genomes_NG), rtol=0.05)


def test_a_queued_trial_comes_as_it_is(make: Make) -> None:
    study: optuna.Study = make_study(make(EIGHTEEN))
    study.enqueue_trial(EIGHTEEN.complete_genes(EIGHTEEN.largest))
    assert search(study, EIGHTEEN, num=1, values=values_of(EIGHTEEN)) == [EIGHTEEN.largest]
