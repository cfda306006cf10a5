"""What stages cost, kept in the run's table `stages`."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from experiments.session import Session
from hardware.energy import EnergyInterval, RaplReader
from hardware.errors import StorageError
from nas.run import utc_now

# What ended within a second could not begin.
_LEAST_SECONDS = 1.0

_T = TypeVar("_T")


def recorded(session: Session, stage: str, action: Callable[[], _T], *, device_id: str | None = None) -> _T:
    """Do `action` and append how long it took, however it ends; nothing if it says False: there was nothing to do.

    Args:
        session: whose run.
        stage: its name.
        action: the stage.
        device_id: where it measures; the session's device if None.
    """
    energy = EnergyInterval()
    try:
        with RaplReader().interval() as energy:
            result = action()
    except BaseException as e:
        ended = "interrupted" if isinstance(e, KeyboardInterrupt) else "failed"
        if (energy.seconds or 0.0) >= _LEAST_SECONDS:
            # The stage's own error must not be hidden by this one.
            with suppress(StorageError):
                _append(session, stage, energy=energy, ended=ended, device_id=device_id)
        raise
    if result is not False:
        _append(session, stage, energy=energy, ended="done", device_id=device_id)
    return result


def _append(session: Session, stage: str, *, energy: EnergyInterval, ended: str, device_id: str | None) -> None:
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
    session.run.stages_table.append(
        [
            {
                "stage": stage,
                "device_id": device_id or session.device_id,
                "seconds": energy.seconds,
                "cores": workers.get(stage, 1),
                "gpus": gpus.get(stage, 0),
                "joules": energy.joules,
                "ended": ended,
                "utc_time": utc_now(),
            }
        ]
    )
