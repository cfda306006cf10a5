"""Measures where it matters: evaluated subnets whose place on the front is open, until the front's ranking settles.

A predictor that is right on average can still swap two neighbours. So the subnets are measured whose latencies leave
it undecided who is on the front, those first whose prediction is least certain; each batch refits the predictor, and
when the front stays the same, in the same order, more measurements would change nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from nas.errors import RunError
from nas.limits import within_limits
from nas.materialise import Workbench
from nas.pareto import pareto_mask
from nas.profile import (
    PROFILE_FIT,
    ProfileSettings,
    fit_profile,
    measure_missing,
    profiled_subnets,
    store_profile,
    stored_num_measured,
)
from nas.run import Run
from predictors import LatencyPredictor
from predictors.prediction import FloatArray
from searchspaces import Architecture

_BATCH = 6
_SETTLED_AFTER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NearFront:
    """What measuring near the front came to.

    Attributes:
        num_measured: subnets that were measured.
        settled: whether the front's ranking stayed the same over the last batches; False if the budget ended first.
        front: ids of the architectures on the predicted front, the fastest first.
    """

    num_measured: int
    settled: bool
    front: tuple[str, ...]


def measure_near_front(
    bench: Workbench,
    *,
    budget: int,
    settings: ProfileSettings,
    on_progress: Callable[[int, int], None],
    on_message: Callable[[str], None],
    sources: Sequence[LatencyPredictor] = (),
) -> NearFront:
    """Measure up to `budget` evaluated subnets near the front and refit the device's predictors.

    Args:
        bench: makes artifacts; its device was profiled.
        budget: most subnets to measure.
        settings: of the profile.
        on_progress: called with (rounds done, most rounds) of a batch.
        on_message: told how the front changes.
        sources: predictors of other devices that the predictor builds on.

    Raises:
        RunError: nothing is evaluated, or the budget is below 1.
        DeviceError: the device is unavailable or busy.
    """
    if budget < 1:
        raise RunError(f"a budget of {budget} measurements", hint="give 1 or more")
    return measure_until_settled(
        bench,
        room=lambda wanted, num_measured: min(wanted, budget - num_measured),
        purpose=PROFILE_FIT,
        settings=settings,
        on_progress=on_progress,
        on_message=on_message,
        sources=sources,
    )


def measure_until_settled(
    bench: Workbench,
    *,
    room: Callable[[int, int], int],
    purpose: str,
    settings: ProfileSettings,
    on_progress: Callable[[int, int], None],
    on_message: Callable[[str], None],
    sources: Sequence[LatencyPredictor] = (),
) -> NearFront:
    """Measure evaluated subnets near the front, batch by batch, until its ranking stays or there is no room.

    Subnets beyond the limits of the run are left out. What an earlier call measured and did not live to fit is fitted
    first.

    Args:
        bench: makes artifacts; its device was profiled.
        room: called with (subnets wanted, measured so far); says how many of those may be measured now.
        purpose: of the measurements, one that predictors are fitted on.
        settings: of the profile.
        on_progress: called with (rounds done, most rounds) of a batch.
        on_message: told how the front changes.
        sources: predictors of other devices that the predictor builds on.

    Raises:
        RunError: nothing within the limits is evaluated.
        DeviceError: the device is unavailable or busy.
    """
    run, device_id = bench.run, bench.device.spec.device_id

    def fit() -> None:
        store_profile(run, *fit_profile(run, device_id=device_id, settings=settings, sources=sources))

    if len(profiled_subnets(run, device_id=device_id)) > stored_num_measured(run, device_id):
        fit()
    rows = _evaluated(run, device_id)
    front = _front(rows)
    if not front:
        raise RunError(f"run {run.path} has no evaluated architectures", hint=f"nas search {run.path}")
    num_measured = num_same = 0
    while num_same < _SETTLED_AFTER:
        done = set(profiled_subnets(run, device_id=device_id)["arch_id"])
        chosen = open_subnets(rows, measured=done)[:_BATCH]
        if not chosen:
            # Every place is decided or measured.
            num_same = _SETTLED_AFTER
            break
        chosen = chosen[: max(0, room(len(chosen), num_measured))]
        if not chosen:
            break
        measure_missing(bench, dict.fromkeys(chosen, purpose), settings=settings, on_progress=on_progress)
        num_measured += len(chosen)
        fit()
        rows = _evaluated(run, device_id)
        before, front = front, _front(rows)
        num_same = num_same + 1 if front == before else 0
        on_message(f"{num_measured} measured near the front: {_change(before, front)}")
    return NearFront(num_measured=num_measured, settled=num_same >= _SETTLED_AFTER, front=front)


def _evaluated(run: Run, device_id: str) -> pd.DataFrame:
    rows = run.evaluations_on(device_id)
    return rows[within_limits(rows, run.limits(device_id), latency="latency_predicted_ms")]


def open_subnets(rows: pd.DataFrame, *, measured: set[str]) -> list[Architecture]:
    """Evaluated subnets that leave a place on the front undecided and were not measured, the least certain first.

    A place is undecided of who may be on the front, and may also be slower than one that is as accurate. That one's
    latency decides as well.

    Args:
        rows: evaluations with the costs that are predicted now; see `Run.evaluations_on`.
        measured: ids of architectures whose latency is known.
    """
    rows, place = _places(rows)
    open_N = place.is_undecided_N & ~rows["arch_id"].isin(measured).to_numpy()
    order = [n for n in np.lexsort((place.mean_N, -place.width_N)).tolist() if open_N[n]]
    return [Architecture.from_json(text) for text in rows["architecture"].iloc[order]]


def possible_front(rows: pd.DataFrame) -> list[Architecture]:
    """Evaluated subnets that no other one surely beats: whatever their latencies are, the front is among them.

    Args:
        rows: as of `open_subnets`.
    """
    rows, place = _places(rows)
    return [Architecture.from_json(text) for text in rows["architecture"][place.may_be_on_front_N]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Places:
    """What the intervals of their latencies say of N subnets.

    Attributes:
        mean_N: predicted latency.
        width_N: of its interval, in log(latency).
        may_be_on_front_N: nobody who is as accurate is faster for sure.
        is_undecided_N: who of these may be behind another of them, and that one.
    """

    mean_N: FloatArray
    width_N: FloatArray
    may_be_on_front_N: npt.NDArray[np.bool_]
    is_undecided_N: npt.NDArray[np.bool_]


def _places(rows: pd.DataFrame) -> tuple[pd.DataFrame, _Places]:
    """The newest row of each architecture, and its place."""
    rows = rows.drop_duplicates("arch_id", keep="last")
    accuracy_N = rows["accuracy"].to_numpy(dtype=np.float64)
    low_N, mean_N, high_N = (
        rows[f"latency_predicted{part}_ms"].to_numpy(dtype=np.float64) for part in ("_low", "", "_high")
    )
    as_accurate_NN = accuracy_N[None, :] >= accuracy_N[:, None]
    np.fill_diagonal(as_accurate_NN, val=False)
    surely_NN = as_accurate_NN & (high_N[None, :] < low_N[:, None])
    may_be_N = np.isfinite(accuracy_N) & ~surely_NN.any(axis=1)
    open_NN = as_accurate_NN & (low_N[None, :] <= high_N[:, None]) & may_be_N[:, None] & may_be_N[None, :]
    return rows, _Places(
        mean_N=mean_N,
        width_N=np.log(high_N / low_N),
        may_be_on_front_N=may_be_N,
        is_undecided_N=open_NN.any(axis=1) | open_NN.any(axis=0),
    )


def _front(rows: pd.DataFrame) -> tuple[str, ...]:
    """Ids on the predicted front, the fastest first."""
    rows = rows.drop_duplicates("arch_id", keep="last")
    latency_N = rows["latency_predicted_ms"].to_numpy(dtype=np.float64)
    rows = rows[pareto_mask(rows["accuracy"].to_numpy(dtype=np.float64), latency_N)]
    return tuple(rows.sort_values(["latency_predicted_ms", "arch_id"])["arch_id"])


def _change(before: Sequence[str], after: Sequence[str]) -> str:
    if before == after:
        return f"its {len(after)} points and their order stay"
    come, gone = len(set(after) - set(before)), len(set(before) - set(after))
    return f"{come} points came, {gone} went" if come or gone else "its points stay, their order changed"
