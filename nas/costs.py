"""All that can be predicted from the same measurements of a device: latency, and what else their records carry."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from hardware.device import Device, device_ids, discover
from hardware.energy import energy_missing
from hardware.errors import DeviceUsageError, StorageError
from predictors import LatencyPredictor, fit_cost_predictor
from predictors.latency import FEWEST_ARCHITECTURES
from predictors.measured import QUANTITIES, cost_column


def fit_costs(fit: pd.DataFrame, held_out: pd.DataFrame, *, latency: LatencyPredictor) -> dict[str, LatencyPredictor]:
    """Fit a predictor of every quantity that the measurements carry besides latency, each with its held-out scores.

    All build on the latency predictor: a tail or an energy is mostly the time, and noisier.

    Args:
        fit: as for `fit_cost_predictor`, with a column for each quantity.
        held_out: the same of other architectures.
        latency: fitted to the same.

    Returns:
        Predictors by quantity, "latency" first, which is the given one.

    Raises:
        PredictorError: see `fit_cost_predictor`.
    """
    found = {"latency": latency}
    for quantity in further_quantities(fit, held_out):
        fit_rows, judging_rows = (_rows_with(quantity, rows) for rows in (fit, held_out))
        predictor = fit_cost_predictor(
            fit_rows, quantity=quantity, space=latency.space, device_id=latency.device_id, sources=[latency]
        )
        found[quantity] = predictor.with_scores(predictor.score(judging_rows))
    return found


def further_quantities(fit: pd.DataFrame, held_out: pd.DataFrame) -> list[str]:
    """What the measurements carry besides latency, of enough networks for a predictor; arguments as `fit_costs`."""
    return [
        quantity
        for quantity in QUANTITIES
        if quantity != "latency"
        and len(_rows_with(quantity, fit)) >= FEWEST_ARCHITECTURES
        and len(_rows_with(quantity, held_out))
    ]


def _rows_with(quantity: str, rows: pd.DataFrame) -> pd.DataFrame:
    column = cost_column(quantity, QUANTITIES[quantity])
    return rows[rows[column].notna()] if column in rows else rows[:0]


def store_costs(predictors: Mapping[str, LatencyPredictor], *, place: Callable[[str], Path]) -> None:
    """Store what `fit_costs` gave; of a quantity that it did not give, an older predictor is removed.

    Args:
        predictors: by quantity.
        place: where that of a quantity lies.

    Raises:
        StorageError: a directory cannot be written or removed.
    """
    for quantity, predictor in predictors.items():
        predictor.save(place(quantity))
    for quantity in QUANTITIES:
        if quantity not in predictors and place(quantity).exists():
            try:
                shutil.rmtree(place(quantity))
            except OSError as e:
                raise StorageError(
                    f"the old predictor of {quantity} in {place(quantity)} cannot be removed: {e}",
                    hint="remove it: the measurements do not tell that quantity any more",
                ) from e


def require_quantity(device: Device, quantity: str) -> None:
    """Refuse, before anything is measured, what a device cannot give. One elsewhere tells only by its measurements.

    Raises:
        DeviceUsageError: a percentile or energy of a device that counts, or energy on a machine that does not tell it.
    """
    device_id, provenance = device.spec.device_id, device.backend.provenance
    if quantity == "latency":
        return
    if provenance != "measured":
        raise DeviceUsageError(
            f"costs of device {device_id!r} are {provenance} counts, which have no {quantity}",
            hint=f"leave out --quantity; {quantity} is that of devices that are measured",
        )
    missing = energy_missing(device.backend.name) if quantity == "energy" and device.host is None else None
    if missing is not None:
        raise no_energy(device_id, because=missing)


def no_energy(device_id: str, *, because: str) -> DeviceUsageError:
    """The answer where energy is wanted of a device that does not count it: who does is named."""
    here = [
        name
        for backend in discover()[0]
        if backend.provenance == "measured" and backend.missing() is None and energy_missing(backend.name) is None
        for name, _ in device_ids(backend)
    ]
    return DeviceUsageError(
        f"device {device_id!r} does not count energy: {because}",
        hint=f"devices of this machine that count it: {', '.join(here) or 'none'}. Elsewhere: processors of Intel and "
        "AMD whose RAPL counters may be read, and NVIDIA accelerators with nvidia-ml-py",
    )
