"""What stages cost, kept in the run's table `stages`."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from experiments.session import Session
from hardware.energy import EnergyInterval, RaplReader
from hardware.errors import StorageError
from hardware.files import JSON
from nas.run import utc_now
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

    def append(ended: str) -> None:
        stop_saying()
        ends = {"seconds": energy.seconds, "joules": energy.joules, "ended": ended, "utc_time": utc_now()}
        session.run.stages_table.append([{**row, **ends}])

    # The row is written while the call still says that it works: a kill between the two counts it once.
    with at_work(session.run, row) as stop_saying:
        try:
            with RaplReader().interval() as energy:
                result = action()
        except BaseException as e:
            ended = "interrupted" if isinstance(e, KeyboardInterrupt) else "failed"
            if (energy.seconds or 0.0) >= LEAST_SECONDS:
                # The stage's own error must not be hidden by this one.
                with suppress(StorageError):
                    append(ended)
            raise
        if result is not False:
            append("done")
    return result


def _row(session: Session, stage: str, *, device_id: str | None) -> dict[str, JSON]:
    train, search = session.recipe.train, session.recipe.search
    trains = search.candidates == "train"
    workers = {
        "train": train.workers * train.threads_per_worker,
        "search": search.workers * (search.cpus_per_trial if trains else 1),
        "refine": session.recipe.refine.workers,
    }
    gpus = {
        "train": train.workers if train.use_gpu else 0,
        "search": math.ceil(search.workers * search.gpus_per_trial) if trains else 0,
    }
    return {
        "stage": stage,
        "device_id": device_id or session.device_id,
        "cores": workers.get(stage, 1),
        "gpus": gpus.get(stage, 0),
    }
