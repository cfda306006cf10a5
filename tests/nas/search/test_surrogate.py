"""Our sampler: nothing twice, nothing beyond what is computed, better than chance, and undisturbed by odd studies."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import moocore
import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hardware.cost import analytic_costs
from nas import SurrogateSampler
from nas.errors import RunError
from nas.objectives import ACCURACY, LATENCY, Limit, Objective
from nas.pricing import Compute, count_costs
from nas.search.models import ObjectiveModels, fit_models
from nas.search.seen import NOT_EVALUATED, Genome
from predictors.prediction import FloatArray
from searchspaces import Architecture, SearchSpace, get_space
from searchspaces.genomes import Genomes
from tests.nas.search.small_spaces import EIGHTEEN

MACRO = get_space("nas-bench-macro")
OBJECTIVES = (ACCURACY, LATENCY)
Values = Callable[[Architecture], Sequence[float]]


def latency_of(space: SearchSpace) -> Compute:
    def latency_ms(genomes_NG: Genomes) -> FloatArray:
        return 0.1 + 1e-8 * analytic_costs(space.op_table(genomes_NG)).macs_N.astype(np.float64)

    return latency_ms


def values_of(space: SearchSpace) -> Values:
    """Accuracy that grows with parameters and with early choices, and latency by MACs."""
    latency_ms = latency_of(space)

    def values(arch: Architecture) -> tuple[float, float]:
        genome_NG = space.genomes([arch])
        params = float(analytic_costs(space.op_table(genome_NG)).params_N[0])
        early = float((np.maximum(genome_NG[0], 0) / (1.0 + np.arange(genome_NG.shape[1]))).sum())
        return 1.0 - 0.5 / (1.0 + np.log1p(params / 1e5) + 0.2 * early), float(latency_ms(genome_NG)[0])

    return values


def make_study(sampler: BaseSampler, *, num_objectives: int = 2) -> optuna.Study:
    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (num_objectives - 1)]
    return optuna.create_study(directions=directions, sampler=sampler)


def search(study: optuna.Study, space: SearchSpace, *, num: int, values: Values) -> list[Architecture]:
    """Ask and tell, one after the other."""
    archs = []
    for _ in range(num):
        trial = study.ask()
        archs.append(space.suggest(trial))
        study.tell(trial, list(values(archs[-1])))
    return archs


def hypervolume(archs: Sequence[Architecture], *, space: SearchSpace) -> float:
    values_NM = np.array([values_of(space)(arch) for arch in archs])
    latency_N = latency_of(space)(space.genomes([space.largest]))
    costs_NM = np.column_stack([1.0 - values_NM[:, 0], values_NM[:, 1]])
    return float(moocore.hypervolume(costs_NM, ref=[1.0, 1.1 * latency_N[0]]))


def test_the_ends_of_the_space_come_first() -> None:
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    archs = search(study, MACRO, num=2, values=values_of(MACRO))
    assert archs == [MACRO.smallest, MACRO.largest]


def test_a_small_space_is_exhausted_without_a_repeat() -> None:
    study = make_study(SurrogateSampler(EIGHTEEN, objectives=OBJECTIVES, first=6, seed=0))
    archs = search(study, EIGHTEEN, num=18, values=values_of(EIGHTEEN))
    assert len(set(archs)) == EIGHTEEN.size == 18
    # Then there is nothing new; it goes on all the same, and whoever asks sees that it repeats itself.
    assert search(study, EIGHTEEN, num=1, values=values_of(EIGHTEEN))[0] in archs


def test_nothing_is_proposed_twice_in_a_large_space() -> None:
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    assert len(set(search(study, MACRO, num=24, values=values_of(MACRO)))) == 24


def test_what_is_queued_comes_next() -> None:
    study = make_study(SurrogateSampler(EIGHTEEN, objectives=OBJECTIVES, first=6, seed=0))
    search(study, EIGHTEEN, num=8, values=values_of(EIGHTEEN))
    (queued,) = EIGHTEEN.architectures(EIGHTEEN.sample_many(1, np.random.default_rng(3)))
    study.enqueue_trial(EIGHTEEN.complete_genes(queued))
    assert search(study, EIGHTEEN, num=1, values=values_of(EIGHTEEN)) == [queued]


@pytest.mark.parametrize("evaluated", [0, 8])
def test_what_waits_for_its_value_is_not_proposed_again(evaluated: int) -> None:
    study = make_study(SurrogateSampler(EIGHTEEN, objectives=OBJECTIVES, first=6, seed=0))
    archs = search(study, EIGHTEEN, num=evaluated, values=values_of(EIGHTEEN))
    archs += [EIGHTEEN.suggest(study.ask()) for _ in range(10)]
    assert len(set(archs)) == len(archs)


def test_a_waiting_trial_moves_the_next_one_elsewhere() -> None:
    """Two workers do not look at the same place: the second knows what the first expects to find."""

    def second(*, waits: bool) -> Architecture:
        study = make_study(
            SurrogateSampler(MACRO, objectives=OBJECTIVES, computed={"latency_ms": latency_of(MACRO)}, seed=0)
        )
        search(study, MACRO, num=14, values=values_of(MACRO))
        first = study.ask()
        arch = MACRO.suggest(first)
        if not waits:
            study.tell(first, state=TrialState.FAIL)
        other = MACRO.suggest(study.ask())
        assert other != arch
        return other

    latency_ms = latency_of(MACRO)(MACRO.genomes([second(waits=True), second(waits=False)]))
    assert latency_ms[0] != latency_ms[1]


@pytest.mark.parametrize(("waiting", "fits"), [(0, 2), (40, 1)])
def test_models_are_fitted_again_the_later_the_more_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, waiting: int, fits: int
) -> None:
    fitted: list[int] = []

    def count(genomes_NG: Genomes, *args: Any, **kwargs: Any) -> ObjectiveModels:
        fitted.append(len(genomes_NG))
        return fit_models(genomes_NG, *args, **kwargs)

    monkeypatch.setattr("nas.search.surrogate.fit_models", count)
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    search(study, MACRO, num=12, values=values_of(MACRO))
    for _ in range(waiting):
        MACRO.suggest(study.ask())
    search(study, MACRO, num=7, values=values_of(MACRO))
    assert len(fitted) == fits


@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_for_two_devices_finds_more_of_the_other_ones_front(seed: int) -> None:
    here = latency_of(MACRO)

    def there(genomes_NG: Genomes) -> FloatArray:
        """A device that waits for weights."""
        return 0.1 + 1e-6 * analytic_costs(MACRO.op_table(genomes_NG)).params_N.astype(np.float64)

    def found(*elsewhere: Compute) -> float:
        sampler = SurrogateSampler(
            MACRO, objectives=OBJECTIVES, computed={"latency_ms": here}, elsewhere=elsewhere, seed=seed
        )
        archs = search(make_study(sampler), MACRO, num=36, values=values_of(MACRO))
        costs_NM = np.column_stack([[-values_of(MACRO)(arch)[0] for arch in archs], there(MACRO.genomes(archs))])
        return float(moocore.hypervolume(costs_NM, ref=[-0.5, 3.2]))

    assert found(there) > found() + 0.01


def test_further_devices_need_a_latency_that_is_computed() -> None:
    with pytest.raises(RunError, match="latency_ms, computed"):
        SurrogateSampler(MACRO, objectives=OBJECTIVES, elsewhere=[latency_of(MACRO)])


def test_limits_on_what_is_computed_always_hold() -> None:
    costs = {"latency_ms": latency_of(MACRO), **count_costs(MACRO, num_classes=10)}
    drawn_NG = MACRO.sample_many(1000, np.random.default_rng(0))
    limits = [
        Limit(name=name, value=float(np.quantile(costs[name](drawn_NG), share)), unit="")
        for name, share in (("latency_ms", 0.05), ("params", 0.3))
    ]
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, computed=costs, limits=limits, seed=0))
    genomes_NG = MACRO.genomes(archs := search(study, MACRO, num=20, values=values_of(MACRO)))
    for limit in limits:
        assert (costs[limit.name](genomes_NG) <= limit.value).all()
    assert len(set(archs)) == 20


def test_what_a_newer_limit_excludes_hides_nothing() -> None:
    costs = {"latency_ms": latency_of(MACRO), **count_costs(MACRO, num_classes=10)}
    drawn_NG = MACRO.sample_many(1000, np.random.default_rng(0))
    limit = Limit(name="params", value=float(np.quantile(costs["params"](drawn_NG), 0.2)), unit="")

    def sampler(*limits: Limit) -> SurrogateSampler:
        return SurrogateSampler(MACRO, objectives=OBJECTIVES, computed=costs, limits=limits, seed=0)

    before = search(make_study(sampler()), MACRO, num=40, values=values_of(MACRO))
    allowed = [arch for arch in before if costs["params"](MACRO.genomes([arch]))[0] <= limit.value]
    assert 5 <= len(allowed) < len(before)

    def go_on(known: Sequence[Architecture]) -> float:
        study = make_study(sampler(limit))
        for arch in known:
            study.enqueue_trial(MACRO.complete_genes(arch))
        search(study, MACRO, num=len(known), values=values_of(MACRO))
        return hypervolume([*allowed, *search(study, MACRO, num=16, values=values_of(MACRO))], space=MACRO)

    # What is known beyond the limit tells of accuracy, and is no reason to stay away.
    assert go_on(before) >= 0.999 * go_on(allowed)


def test_a_limit_on_one_device_leaves_a_search_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    here = latency_of(MACRO)
    limit = Limit(
        name="latency_ms", value=float(np.median(here(MACRO.sample_many(500, np.random.default_rng(0))))), unit=""
    )
    sampler = SurrogateSampler(
        MACRO,
        objectives=OBJECTIVES,
        computed={"latency_ms": here},
        limits=[limit],
        elsewhere=[lambda genomes_NG: 10.0 * here(genomes_NG)],
        seed=0,
    )
    by_chance: list[int] = []
    draw = sampler._random

    def remember() -> Genome:
        by_chance.append(1)
        return draw()

    monkeypatch.setattr(sampler, "_random", remember)
    archs = search(make_study(sampler), MACRO, num=28, values=values_of(MACRO))
    assert (here(MACRO.genomes(archs)) <= limit.value).all()
    assert not by_chance


def test_few_within_the_limits_are_all_found_before_any_other() -> None:
    latency_ms = latency_of(EIGHTEEN)
    everything_NG = np.unique(EIGHTEEN.sample_many(5000, np.random.default_rng(0)), axis=0)
    limit = Limit(name="latency_ms", value=float(np.sort(latency_ms(everything_NG))[4]), unit="ms")
    study = make_study(
        SurrogateSampler(EIGHTEEN, objectives=OBJECTIVES, computed={"latency_ms": latency_ms}, limits=[limit], seed=0)
    )
    archs = search(study, EIGHTEEN, num=5, values=values_of(EIGHTEEN))
    assert len(set(archs)) == 5
    assert (latency_ms(EIGHTEEN.genomes(archs)) <= limit.value).all()


def test_a_limit_on_what_is_predicted_is_mostly_kept() -> None:
    latency_ms = latency_of(MACRO)
    value = float(np.quantile(latency_ms(MACRO.sample_many(1000, np.random.default_rng(0))), 0.25))
    limit = Limit(name="latency_ms", value=value, unit="ms")
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, limits=[limit], seed=0))
    archs = search(study, MACRO, num=24, values=values_of(MACRO))
    kept_N = latency_ms(MACRO.genomes(archs)) <= limit.value
    assert kept_N[12:].mean() > 0.7 > kept_N[:12].mean()


def test_only_costs_can_be_limited() -> None:
    limit = Limit(name="accuracy", value=0.9, unit="")
    with pytest.raises(RunError, match="limits on accuracy") as caught:
        SurrogateSampler(MACRO, objectives=OBJECTIVES, computed={"macs": latency_of(MACRO)}, limits=[limit])
    assert caught.value.hint == "limits can be set on: latency_ms, macs"


def test_the_seed_decides_the_proposals() -> None:
    runs = [
        search(
            make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=seed)),
            MACRO,
            num=15,
            values=values_of(MACRO),
        )
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_more_than_chance_at_equal_evaluations(seed: int) -> None:
    ours, chance = (
        hypervolume(search(make_study(sampler), MACRO, num=30, values=values_of(MACRO)), space=MACRO)
        for sampler in (SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=seed), RandomSampler(seed=seed))
    )
    assert ours > chance


def test_three_objectives() -> None:
    params = Objective(name="params", direction="minimize", unit="", cost_class="cheap")
    study = make_study(SurrogateSampler(MACRO, objectives=(*OBJECTIVES, params), seed=0), num_objectives=3)

    def values(arch: Architecture) -> list[float]:
        count = analytic_costs(MACRO.op_table(MACRO.genomes([arch]))).params_N[0]
        return [*values_of(MACRO)(arch), float(count)]

    assert len(set(search(study, MACRO, num=15, values=values))) == 15


@pytest.mark.parametrize("constant", [0, 1], ids=["accuracy", "latency"])
def test_a_constant_objective_leaves_a_search_in_the_other(constant: int) -> None:
    def values(arch: Architecture) -> list[float]:
        found = list(values_of(MACRO)(arch))
        found[constant] = 0.5
        return found

    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    assert len(set(search(study, MACRO, num=16, values=values))) == 16


def test_a_search_in_which_everything_is_constant_is_one_by_chance() -> None:
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    assert len(set(search(study, MACRO, num=16, values=lambda _: (0.5, 1.0)))) == 16


def test_several_threads_are_never_given_the_same() -> None:
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    archs: list[Architecture] = []

    def judge(trial: optuna.Trial) -> Sequence[float]:
        archs.append(MACRO.suggest(trial))
        return values_of(MACRO)(archs[-1])

    study.optimize(judge, n_trials=30, n_jobs=4)
    assert len(set(archs)) == 30


def test_a_study_with_it_can_be_copied() -> None:
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    search(study, MACRO, num=3, values=values_of(MACRO))
    assert len(set(search(copy.deepcopy(study), MACRO, num=14, values=values_of(MACRO)))) == 14


@pytest.mark.filterwarnings("ignore:The value nan is not acceptable")
def test_failed_and_unevaluated_trials_are_remembered_but_not_believed() -> None:
    study = make_study(SurrogateSampler(EIGHTEEN, objectives=OBJECTIVES, first=4, seed=0))
    archs = search(study, EIGHTEEN, num=6, values=values_of(EIGHTEEN))
    for _ in range(3):
        failed, nothing, unmarked = study.ask(), study.ask(), study.ask()
        archs += [EIGHTEEN.suggest(trial) for trial in (failed, nothing, unmarked)]
        study.tell(failed, state=TrialState.FAIL)
        study.tell(nothing, [float("nan"), 1.0])
        unmarked.set_user_attr(NOT_EVALUATED, "beyond a limit")
        # Percent would be refused, if it were believed.
        study.tell(unmarked, [93.0, -1.0])
    assert len(set(archs)) == len(archs) == 15


def test_trials_of_other_parameters_are_drawn_at_random_and_ignored() -> None:
    study = make_study(SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0))
    drawn = []
    for _ in range(3):
        trial = study.ask()
        drawn.append(trial.suggest_float("learning_rate", 0.0, 1.0))
        study.tell(trial, [0.5, 1.0])
    assert len(set(drawn)) == 3
    study.sampler = SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=0)
    assert search(study, MACRO, num=2, values=values_of(MACRO)) == [MACRO.smallest, MACRO.largest]


def test_a_new_sampler_goes_on_with_an_old_study() -> None:
    study = make_study(RandomSampler(seed=0))
    archs = search(study, MACRO, num=12, values=values_of(MACRO))
    study.sampler = SurrogateSampler(MACRO, objectives=OBJECTIVES, seed=1)
    later = search(study, MACRO, num=4, values=values_of(MACRO))
    assert not set(archs) & set(later)
    # Twelve known ones are enough for models: no ends any more.
    assert later[0] not in (MACRO.smallest, MACRO.largest)
