"""What stages cost, kept in the run's table `stages`."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from experiments.recipe import Recipe
from experiments.session import Session
from hardware.energy import EnergyInterval, RaplReader
from hardware.errors import StorageError
from hardware.files import JSON
from nas.stage_calls import LEAST_SECONDS, at_work

_T = TypeVar("_T")


def recorded(session: Session, stage: str, action: Callable[[], _T], *, device_id: str | None = None) -> _T:
    """Do `action` and append how long it took, however it ends; nothing if it says False: there was nothing to do.

    Args:
        session: whose run.
        stage: its name.
        action: the stage.
        device_id: where it measures; the session's device if None.
    """
    energy, row = EnergyInterval(), _row(session, stage, device_id=device_id)

    with at_work(session.run, row) as end:
        try:
            with RaplReader().interval() as energy:
                result = action()
        except BaseException as e:
            ended = "interrupted" if isinstance(e, KeyboardInterrupt) else "failed"
            if (energy.seconds or 0.0) >= LEAST_SECONDS:
                # The stage's own error must not be hidden by this one.
                with suppress(StorageError):
                    end({"seconds": energy.seconds, "joules": energy.joules, "ended": ended})
            raise
        if result is not False:
            end({"seconds": energy.seconds, "joules": energy.joules, "ended": "done"})
    return result


def most_cores(recipe: Recipe) -> dict[str, int]:
    """CPUs that the workers of each stage have together, for the stages that have workers."""
    train, search = recipe.train, recipe.search
    return {
        "train": train.workers * train.threads_per_worker,
        "search": search.workers * (search.cpus_per_trial if search.candidates == "train" else 1),
        "refine": recipe.refine.workers,
    }


def _row(session: Session, stage: str, *, device_id: str | None) -> dict[str, JSON]:
    train, search = session.recipe.train, session.recipe.search
    gpus = {
        "train": train.workers if train.use_gpu else 0,
        "search": math.ceil(search.workers * search.gpus_per_trial) if search.candidates == "train" else 0,
    }
    return {
        "stage": stage,
        "device_id": device_id or session.device_id,
        "cores": most_cores(session.recipe).get(stage, 1),
        "gpus": gpus.get(stage, 0),
    }
