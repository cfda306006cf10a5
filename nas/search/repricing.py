"""Trials as they are seen today: the predictor may have learnt more since they were told, and the limits may be others.

What an Optuna trial was told can never change, and stays in the file as it is. A search that goes on compares like with
like: in its memory every trial has the latency that is predicted now, and its distance to the limits of now. Trials
keep their numbers, and evolutions their generations.
"""

from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.objectives import Limit
from nas.pricing import Price, Pricer
from nas.search.seen import NOT_EVALUATED


def violations_of(price: Price, limits: Sequence[Limit]) -> Mapping[str, float]:
    """By the name of each limit how far the price is beyond it, as of `Limit.violation`."""
    return {limit.name: limit.violation(price.cost(limit.name)) for limit in limits}


def repriced(trials: Sequence[FrozenTrial], *, pricer: Pricer, limits: Sequence[Limit]) -> list[FrozenTrial]:
    """The same trials, in the same order, with the latencies and violations that they have now.

    Args:
        trials: of a study of the pricer's space.
        pricer: says the latencies.
        limits: of the search.
    """
    names = {choice.name for choice in pricer.space.choices}
    open_or_told = (TrialState.COMPLETE, TrialState.RUNNING)
    whole = [n for n, trial in enumerate(trials) if trial.state in open_or_told and names <= set(trial.params)]
    archs = [pricer.space.architecture({name: trials[n].params[name] for name in names}) for n in whole]
    prices = dict(zip(whole, pricer.price(archs), strict=True))
    return [_seen(trial, prices[n], limits=limits) if n in prices else trial for n, trial in enumerate(trials)]


def _seen(trial: FrozenTrial, price: Price, *, limits: Sequence[Limit]) -> FrozenTrial:
    violations = violations_of(price, limits)
    is_told = trial.state == TrialState.COMPLETE
    if is_told and NOT_EVALUATED in trial.user_attrs and all(violation <= 0 for violation in violations.values()):
        # Within the limits by now: without its genes nothing keeps a sampler from proposing it again.
        return create_trial(state=TrialState.FAIL)
    return create_trial(
        state=trial.state,
        values=[trial.values[0], price.latency_predicted_ms] if is_told else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs={key: value for key, value in trial.system_attrs.items() if not key.startswith("constraints")},
        constraints=dict(violations) or None,
    )
