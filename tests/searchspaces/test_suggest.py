"""A space lets Optuna decide: real trials, real samplers."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces.errors import SpaceError
from searchspaces.mbconv_small import mbconv_small
from tests.searchspaces.tiny import TinySpace, enumerate_by_hand, tiny_spaces

SPACE = mbconv_small()


@given(space=tiny_spaces(), data=st.data())
def test_a_fixed_trial_gives_back_the_architecture_it_holds(space: TinySpace, data: st.DataObject) -> None:
    genes = dict(data.draw(st.sampled_from(sorted(enumerate_by_hand(space.choices), key=repr))))
    complete = space.complete_genes(space.architecture(genes))
    assert set(complete) == {choice.name for choice in space.choices}
    trial = optuna.trial.FixedTrial(complete)
    assert dict(space.suggest(trial).genes) == genes
    assert trial.params == complete


def test_inactive_genes_are_asked_for_too_so_that_samplers_can_inherit_and_model_them() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=1))
    for arch in (SPACE.smallest, SPACE.largest):
        study.enqueue_trial(SPACE.complete_genes(arch))
        trial = study.ask()
        assert SPACE.suggest(trial) == arch
        study.tell(trial, [1.0, 1.0])
    # what genetic and multivariate samplers work on: the parameters that all trials have
    shared = optuna.search_space.intersection_search_space(study.get_trials())
    assert set(shared) == {choice.name for choice in SPACE.choices}


def test_a_trial_that_lacks_an_active_gene_is_not_filled_up() -> None:
    genes = dict(SPACE.smallest.genes)
    del genes["resolution"]
    with pytest.raises(ValueError, match="resolution"):
        SPACE.suggest(optuna.trial.FixedTrial(genes))


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=1),
        optuna.samplers.NSGAIISampler(population_size=8, seed=1),
        optuna.samplers.TPESampler(n_startup_trials=8, seed=1),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_real_study_proposes_valid_architectures(sampler: optuna.samplers.BaseSampler) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    seen = set()
    for _ in range(24):
        trial = study.ask()
        arch = SPACE.suggest(trial)
        SPACE.validate(arch)
        assert dict(arch.genes).items() <= trial.params.items()
        table = SPACE.op_table(SPACE.genomes([arch]))
        study.tell(trial, [float(table.macs.sum()), float(table.params.sum())])
        seen.add(arch.arch_id)
    assert len(seen) > 12
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}


def test_an_architecture_that_was_enqueued_comes_back() -> None:
    study = optuna.create_study()
    study.enqueue_trial(dict(SPACE.largest.genes))
    assert SPACE.suggest(study.ask()) == SPACE.largest


def test_a_trial_outside_the_choices_is_refused() -> None:
    class Careless:
        """A trial that answers with something that was not offered."""

        def suggest_categorical(self, name: str, choices: object) -> int:
            return 99

    with pytest.raises(SpaceError, match="has value 99"):
        SPACE.suggest(Careless())
