"""A study whose trials have the latencies that the present predictor gives.

What an Optuna trial was told can never change. So when the predictor has learnt more, the trials go on in a copy of the
study with new latencies: the sampler compares like with like. Trials keep their numbers, and evolutions their
generations. The copies lie in the same file, named after the run and the predictor.
"""

from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.pricing import Price, Pricer
from nas.search.seen import NOT_EVALUATED
from nas.search.settings import SearchSettings
from nas.search.storage import open_storage
from nas.search.study import SearchStudy, Values, open_study

_COPIED = "copied_trials"


def open_repriced_study(
    path: Path,
    *,
    name: str,
    predictor_id: str,
    pricer: Pricer,
    settings: SearchSettings,
    known: Mapping[str, Values],
) -> SearchStudy:
    """Open the run's study with the latencies of a predictor; copy it first if it has others.

    A copy that a kill left half done is made again.

    Args:
        path: of the SQLite file.
        name: of the run's study.
        predictor_id: of the predictor that `pricer` uses.
        pricer: says the latencies.
        settings: sampler, limits and seed.
        known: values by arch_id, from the tables, for trials that a killed process left running.

    Raises:
        RunError: see `open_study`.
    """
    own = f"{name}/{predictor_id}"
    # Opened with its own checks, which also makes it where there is none.
    first = open_study(path, name=name, pricer=pricer, settings=settings)
    storage = open_storage(path)
    newest = _newest(storage, name=name, first=own)
    if newest != own:
        source = first if newest == name else open_study(path, name=newest, pricer=pricer, settings=settings)
        source.recover(known)
        if own in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=own, storage=storage)
        trials = optuna.load_study(study_name=newest, storage=storage).get_trials(deepcopy=False)
        copy = optuna.create_study(
            study_name=own, storage=storage, directions=optuna.load_study(study_name=newest, storage=storage).directions
        )
        copy.add_trials(_repriced(trials, pricer=pricer, settings=settings))
        copy.set_user_attr(_COPIED, len(trials))
    return open_study(path, name=own, pricer=pricer, settings=settings)


def newest_study(path: Path, *, name: str) -> str:
    """Name of the run's study with the most trials: of its last copy, or of the run's own study if there is none."""
    return _newest(open_storage(path), name=name, first=name) if path.exists() else name


def _newest(storage: optuna.storages.RDBStorage, *, name: str, first: str) -> str:
    """The whole study with the most trials; among equal ones `first`."""
    whole = [
        one
        for one in optuna.get_all_study_summaries(storage)
        if one.study_name == name or (one.study_name.startswith(f"{name}/") and _COPIED in one.user_attrs)
    ]
    return max(whole, key=lambda one: (one.n_trials, one.study_name == first)).study_name if whole else name


def _repriced(trials: list[FrozenTrial], *, pricer: Pricer, settings: SearchSettings) -> list[FrozenTrial]:
    """The same trials, in the same order, with the latencies and violations that they have now."""
    whole = [n for n, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
    archs = [pricer.space.architecture(trials[n].params) for n in whole]
    prices = dict(zip(whole, pricer.price(archs), strict=True))
    return [
        _told(trial, prices[n], settings=settings) if n in prices else _as_it_was(trial)
        for n, trial in enumerate(trials)
    ]


def _told(trial: FrozenTrial, price: Price, *, settings: SearchSettings) -> FrozenTrial:
    violations = {limit.name: limit.violation(price.cost(limit.name)) for limit in settings.limits}
    if NOT_EVALUATED in trial.user_attrs and all(violation <= 0 for violation in violations.values()):
        # Within the limits by now: without its genes nothing keeps a sampler from proposing it again.
        return create_trial(state=TrialState.FAIL)
    attributes = {key: value for key, value in trial.system_attrs.items() if not key.startswith("constraints")}
    return create_trial(
        values=[trial.values[0], price.latency_predicted_ms],
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=attributes,
        constraints=violations or None,
    )


def _as_it_was(trial: FrozenTrial) -> FrozenTrial:
    return create_trial(
        state=trial.state,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
    )
