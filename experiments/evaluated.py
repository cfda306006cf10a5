"""Which rows of a run's tables still count: the supernet, and the limits, may have changed since."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from experiments.search_clock import is_over
from experiments.session import Session
from nas.accuracy import metric_label
from nas.limits import within_limits
from nas.pareto import compute_front
from nas.pricing import LIMITS, violations
from nas.search.neighbours import Neighbours
from nas.search.records import known_values
from nas.search.study import Values
from searchspaces import Architecture


def inherited_rows(session: Session) -> pd.DataFrame:
    """Evaluations with the weights of this run's supernet, one a candidate."""
    rows = current_evaluations(session)
    return rows[rows["weights_kind"] == "inherited"].drop_duplicates("candidate_id", keep="last")


def current_evaluations(session: Session) -> pd.DataFrame:
    """Evaluations for the session's device that still count.

    Left out are those of an earlier supernet's inherited weights, and those beyond the limits of the search, which may
    be newer than they; on a further device only the limits on counts matter.
    """
    return _still_counting(session, session.run.evaluations_on(session.device_id))


def stopped_rows(session: Session, *, of_epochs: int = 0) -> pd.DataFrame:
    """What early stopping ended, of those that still count, one an architecture; of fine-tunings of `of_epochs`.

    They count as long as the rival that they cannot beat does: a later limit may exclude it and not them.
    """
    rows = session.run.stopped()
    rows = rows[(rows["device_id"] == session.device_id) & (rows["of_epochs"] == of_epochs)]
    if not len(rows):
        return rows
    rows = rows[rows["rival"].isin(current_evaluations(session)["arch_id"])]
    return _still_counting(session, rows).drop_duplicates("arch_id", keep="last")


def known_evaluations(session: Session) -> dict[str, Values]:
    """By arch_id what is evaluated with inherited weights or was stopped, and the latency that is predicted now.

    What the search would not evaluate any more because of a limit on a further device does not count.
    """
    limits = [limit for limit in session.limits if limit.name not in LIMITS]

    def within(rows: pd.DataFrame) -> pd.DataFrame:
        genomes_NG = session.run.space.genomes([Architecture.from_json(text) for text in rows["architecture"]])
        return rows[violations(genomes_NG, costs=session.pricer.costs, limits=limits) <= 0]

    inherited, stopped = inherited_rows(session), stopped_rows(session)
    if limits:
        inherited = within(inherited)
        stopped = within(stopped[stopped["rival"].isin(inherited["arch_id"])])
    return known_values(inherited, stopped)


def nothing_left(session: Session, known: Mapping[str, Values]) -> bool:
    """Whether no architecture within the limits is found beside the known ones, so that no workers need to start.

    In a space of up to 20,000 architectures that is sure, see `Neighbours.find`.

    Args:
        session: an open session of a profiled run.
        known: values by arch_id; where there are none, everything is left.
    """
    near = [one.architecture for one in known.values() if one.architecture is not None]
    neighbours = Neighbours(
        session.run.space,
        costs=session.pricer.costs,
        limits=session.limits,
        rng=np.random.default_rng((session.recipe.seed, len(known))),
    )
    return bool(known) and neighbours.find(near=near, is_new=lambda arch: arch.arch_id not in known) is None


def ended_before(
    session: Session, known: Mapping[str, Values], *, wanted: int, used_up: Callable[[], str | None]
) -> str | None:
    """Why a search has nothing to do, in a few words; None if it has, and needs its workers.

    Args:
        session: an open session of a profiled run.
        known: values by arch_id of what is evaluated or was stopped.
        wanted: how many known ones are enough.
        used_up: as of `SearchClock`.
    """
    if len(known) >= wanted:
        return "finished before"
    if is_over(len(known), wanted=wanted, used_up=used_up) or nothing_left(session, known):
        return used_up() or f"finished before: found no further architecture after {len(known)} of {wanted}"
    return None


def predicted_front_text(session: Session) -> str:
    """What the search has found by now; the predicted front, also of a run that has a verified one."""
    run, device_id = session.run, session.device_id
    front = compute_front(
        run.evaluations_on(device_id), run.verifications().iloc[:0], device_id=device_id, limits=run.limits(device_id)
    )
    best = max((point.accuracy for point in front.points), default=float("nan"))
    label = metric_label(session.recipe.data.metric)
    return f"predicted front of {len(front.points)} points, best {label} on search {best:.2%}"


def _still_counting(session: Session, rows: pd.DataFrame) -> pd.DataFrame:
    weights = session.bench.inherit(session.run.space.smallest).weights
    current = (rows["weights_kind"] != "inherited") | (rows["weights"] == weights)
    return rows[current & within_limits(rows, session.run.limits(session.device_id), latency="latency_predicted_ms")]
