"""What measuring took on a device: the seconds of timed runs, without warm-up, building and waiting."""

import numpy as np
import pandas as pd

REFERENCE = "reference"
"""Purpose of the network that runs in every session to show drift."""


def timed_seconds(measurements: pd.DataFrame) -> "pd.Series[float]":
    """Seconds of each record; counts of simulators take none, whatever their raw repeats are."""
    seconds = [
        sum(float(np.sum(runs)) for runs in raw) / 1e3 if unit == "ms" else 0.0
        for raw, unit in zip(measurements["raw_ms"], measurements["unit"], strict=True)
    ]
    return pd.Series(seconds, index=measurements.index, dtype=np.float64)


def seconds_by_purpose(measurements: pd.DataFrame) -> dict[str, float]:
    """Seconds by what a session was for, in the order of the records; a reference belongs to its session."""
    own = measurements["purpose"].where(measurements["purpose"] != REFERENCE)
    of_session = own.groupby(measurements["session_id"]).first()
    purposes = own.fillna(measurements["session_id"].map(of_session)).fillna(REFERENCE)
    total = timed_seconds(measurements).groupby(purposes, sort=False).sum()
    return {str(purpose): float(seconds) for purpose, seconds in total.items()}
