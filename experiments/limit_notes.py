"""What the limits of a recipe hide or cannot reach yet, in sentences."""

from experiments.reachable import asked_limits
from experiments.report import beyond_limits
from experiments.session import Session


def limit_notes(session: Session) -> list[str]:
    """What a search says of its limits before it begins."""
    devices = [session.recipe.device.id, *(one.id for one in session.recipe.devices)]
    hidden = {one: beyond_limits(session.run, one) for one in devices}
    unheeded = [limit for limit in asked_limits(session.recipe) if limit not in session.limits]
    return [
        *(f"on {one} {text}" for one, text in hidden.items() if text is not None),
        *(
            f"the search does not keep to {limit}: nothing predicts that latency before `nas profile`; the front does"
            for limit in unheeded
        ),
    ]
