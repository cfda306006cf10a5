"""What measuring took of a device: the seconds that its unit was taken for, waiting and building left out."""

import numpy as np
import pandas as pd

REFERENCE = "reference"
"""Purpose of the network that runs in every session to show drift."""


def device_sessions(records: pd.DataFrame, *, taken: pd.DataFrame) -> pd.DataFrame:
    """The sessions of a device in their order: session_id, purpose, seconds, timed_seconds.

    Timed are the runs alone, without warm-up and what lies between them; counts of simulators take no time. Versions
    that did not record how long a unit was taken left only those. A session is for what most of its networks are for.

    Args:
        records: what was measured on the device.
        taken: the run's table `sessions`.
    """
    timed_s = [
        sum(float(np.sum(runs)) for runs in raw) / 1e3 if unit == "ms" else 0.0
        for raw, unit in zip(records["raw_ms"], records["unit"], strict=True)
    ]
    records = records.assign(timed_seconds=np.array(timed_s, dtype=np.float64))
    taken_s = taken.set_index("session_id")["seconds"]
    rows = []
    for session_id, of_session in records.groupby("session_id", sort=False):
        purposes = of_session[of_session["purpose"] != REFERENCE]["purpose"]
        timed = float(of_session["timed_seconds"].sum())
        rows.append(
            {
                "session_id": session_id,
                "purpose": str(purposes.mode().iloc[0]) if len(purposes) else REFERENCE,
                "seconds": float(taken_s.get(session_id, timed)),
                "timed_seconds": timed,
            }
        )
    return pd.DataFrame(rows, columns=["session_id", "purpose", "seconds", "timed_seconds"])


def seconds_by_purpose(sessions: pd.DataFrame) -> dict[str, float]:
    """Seconds by what the sessions of `device_sessions` were for, in their order."""
    total = sessions.groupby("purpose", sort=False)["seconds"].sum()
    return {str(purpose): float(seconds) for purpose, seconds in total.items()}
