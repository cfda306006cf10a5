"""What a search leaves in a run's tables, and how the next call reads it: evaluated and stopped candidates."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from nas.accuracy import Accuracy, accuracy_row
from nas.candidate import Candidate
from nas.pricing import Price
from nas.run import Run, utc_now
from nas.search.loop import Evaluated
from nas.search.stopping import Rival, Rivals, Stopped
from nas.search.study import Values
from searchspaces import Architecture


def evaluation_row(
    candidate: Candidate, *, accuracy: Accuracy, price: Price, trial_number: int, seconds: float
) -> dict[str, object]:
    """One row of the table `evaluations`: accuracy on the search split."""
    return {
        **candidate.row(),
        **accuracy_row(accuracy),
        **price.row(),
        "split": "search",
        "trial_number": trial_number,
        "seconds": seconds,
        "utc_time": utc_now(),
    }


def stopped_row(row: Mapping[str, object], stopped: Stopped) -> dict[str, object]:
    """One row of the table `stopped`.

    Args:
        row: as of `evaluation_row`, of what was found until then; of a fine-tuning, the candidate is the inherited one
            that it began with.
        stopped: why it ended.
    """
    return {
        **row,
        "accuracy_estimated": stopped.accuracy,
        "rival": stopped.rival,
        "of_images": stopped.of_images,
        "epoch": stopped.epoch,
        "of_epochs": stopped.of_epochs,
    }


def append_trained(
    run: Run, candidate: Candidate, *, accuracy: Accuracy, price: Price, trial_number: int, seconds: float
) -> bool:
    """Append the row of a candidate with weights of its own to `evaluations`; False if it is there already."""
    if candidate.candidate_id in set(run.evaluations()["candidate_id"]):
        return False
    row = evaluation_row(candidate, accuracy=accuracy, price=price, trial_number=trial_number, seconds=seconds)
    run.evaluations_table.append([row])
    return True


def record_evaluated(run: Run, evaluated: Sequence[Evaluated], *, inherit: Callable[[Architecture], Candidate]) -> None:
    """Append what a task of the pool found to the run's tables.

    Args:
        run: whose tables.
        evaluated: judged to the end, or stopped.
        inherit: gives the inherited candidate of an architecture.
    """
    whole: list[dict[str, object]] = []
    stopped: list[dict[str, object]] = []
    answers: list[dict[str, object]] = []
    for one in evaluated:
        candidate, score = inherit(one.architecture), one.score
        row = evaluation_row(
            candidate,
            accuracy=score.accuracy,
            price=one.price,
            trial_number=one.trial_number,
            seconds=score.seconds,
        )
        if score.stopped is None:
            whole.append(row)
        else:
            stopped.append(stopped_row(row, score.stopped))
        if score.answers is not None:
            answers.append({"candidate_id": candidate.candidate_id, "answers": score.answers})
    run.answers_table.append(answers)
    run.evaluations_table.append(whole)
    run.stopped_table.append(stopped)


def known_values(evaluations: pd.DataFrame, stopped: pd.DataFrame) -> dict[str, Values]:
    """What the study was told of each architecture, by id; an evaluation counts more than one that was stopped."""
    known = {}
    for rows, column in ((stopped, "accuracy_estimated"), (evaluations, "accuracy")):
        for row in rows.to_dict("records"):
            known[str(row["arch_id"])] = Values(
                accuracy=float(row[column]),
                latency_ms=float(row["latency_predicted_ms"]),
                architecture=Architecture.from_json(row["architecture"]),
            )
    return known


def known_rivals(evaluations: pd.DataFrame, answers: pd.DataFrame) -> Rivals:
    """The evaluated candidates whose answers were kept."""
    rivals = Rivals()
    kept = dict(zip(answers["candidate_id"], answers["answers"], strict=True))
    for row in evaluations[evaluations["candidate_id"].isin(kept)].to_dict("records"):
        rivals.add(
            Rival(arch_id=str(row["arch_id"]), answers=kept[row["candidate_id"]]),
            accuracy=float(row["accuracy"]),
            slowest_ms=float(row["latency_predicted_high_ms"]),
        )
    return rivals
