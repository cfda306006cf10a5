"""Reads measurements from a table: what a predictor is fitted to and scored on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from predictors.errors import PredictorError
from predictors.prediction import FloatArray
from searchspaces import Architecture, SearchSpace, SpaceError

QUANTITIES = {"latency": "ms", "latency_p99": "ms", "energy": "mJ"}
"""What can be predicted of a device, and its usual unit. Latencies are medians, of counting devices the count."""

# Two measurements of one architecture that differ by more than this cannot both be right; a p99 rests on few runs.
_MOST_CONTRADICTION = {"latency": 0.20, "latency_p99": 2.0, "energy": 0.20}
# On a busy host small networks have tails of a hundred medians, so only what another unit makes is refused.
_UNITS_APART = 1000.0
_FAR_BELOW = 0.1
# Tables of measurements name the unit of the latencies; an energy stands beside them.
_MAY_BE_NAMED = {"latency": (), "latency_p99": (), "energy": (QUANTITIES["latency"],)}


def cost_column(quantity: str, unit: str) -> str:
    """The column of a table of measurements that holds a quantity, for example "latency_ms" or "energy_mj"."""
    return f"{quantity}_{unit.lower()}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredArchitectures:
    """Distinct architectures and their cost, in the order of their first row.

    Attributes:
        genomes_NG: int8 (N, G).
        cost_N: positive and finite; the median where an architecture was measured several times.
    """

    genomes_NG: npt.NDArray[np.int8]
    cost_N: FloatArray

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, *, space: SearchSpace, device_id: str, quantity: str, unit: str
    ) -> "MeasuredArchitectures":
        """Read the columns "architecture" (JSON text) and that of the quantity, see `cost_column`.

        Columns "device_id" and "unit" must agree if there are any; of energies, "unit" may be that of the latencies.

        Raises:
            PredictorError: a missing column, or one without any number; rows of another device or in another unit; an
                architecture that is none of the space, a cost that is not a finite positive number, p99s in another
                unit than the medians beside them, or measurements of one architecture more than 20 % apart (p99:
                threefold).
        """
        column = cost_column(quantity, unit)
        missing = [name for name in ("architecture", column) if name not in table.columns]
        if missing:
            raise PredictorError(
                f"the table of measurements has no column {', '.join(map(repr, missing))}, "
                f"only {[str(name) for name in table.columns]}",
                hint=f"give the columns 'architecture' (JSON) and {column!r}",
            )
        if "device_id" in table.columns:
            others = sorted({str(other) for other in table["device_id"]} - {device_id})
            if others:
                raise PredictorError(
                    f"the table holds measurements of {', '.join(map(repr, others))}, wanted only {device_id!r}",
                    hint=f"filter it: table[table['device_id'] == {device_id!r}]",
                )
        if "unit" in table.columns:
            units = sorted({str(other) for other in table["unit"]})
            if len(units) > 1 or not set(units) <= {unit, *_MAY_BE_NAMED[quantity]}:
                raise PredictorError(
                    f"the table holds measurements in {', '.join(map(repr, units))}, wanted only {unit!r}",
                    hint="convert them to one unit, which the name of the column says",
                )
        if len(table) and table[column].isna().all():
            raise PredictorError(
                f"no row of the measurements has a number in {column!r}",
                hint="measure where the machine counts it, or predict another quantity",
            )
        median = cost_column("latency", unit)
        if quantity == "latency_p99" and median in table.columns:
            _require_tails(table, column, median)
        costs: dict[Architecture, list[float]] = {}
        for row, (text, value) in enumerate(zip(table["architecture"], table[column], strict=True)):
            costs.setdefault(_architecture(text, row=row, space=space), []).append(_cost(value, row=row, column=column))
        for arch, values in costs.items():
            if max(values) > (1.0 + _MOST_CONTRADICTION[quantity]) * min(values):
                raise PredictorError(
                    f"measurements of architecture {arch.arch_id} contradict each other: "
                    f"{column} from {min(values):.6g} to {max(values):.6g}",
                    hint="something else ran meanwhile: measure it again on an idle device and drop the wrong rows",
                )
        return cls(
            genomes_NG=space.genomes(list(costs)),
            cost_N=np.array([np.median(values) for values in costs.values()], dtype=np.float64),
        )

    def refuse_fitted(self, fitted_NG: npt.NDArray[np.int8]) -> None:
        """Refuse architectures that a predictor was fitted to: its scores on them would flatter it.

        Raises:
            PredictorError: some are among `fitted_NG`.
        """
        known = {row.tobytes() for row in fitted_NG}
        num_known = sum(row.tobytes() in known for row in self.genomes_NG)
        if num_known:
            raise PredictorError(
                f"{num_known} of {len(self.genomes_NG)} held-out architectures were used for fitting",
                hint="score on architectures that were measured but not fitted",
            )


def _require_tails(table: pd.DataFrame, column: str, median: str) -> None:
    """Refuse p99s in another unit than the medians beside them.

    A p99 may well be below its median in such a table: tails are brought to that of the reference network.
    """
    num_below = int((table[column] < _FAR_BELOW * table[median]).sum())
    if 2 * num_below > len(table):
        raise PredictorError(
            f"in {num_below} of {len(table)} rows of the measurements {column} is below {_FAR_BELOW:.0%} of {median}",
            hint="one of the columns seems to be in another unit: convert it",
        )
    num_above = int((table[column] >= _UNITS_APART * table[median]).sum())
    if 2 * num_above > len(table):
        raise PredictorError(
            f"in {num_above} of {len(table)} rows of the measurements {column} is at least {_UNITS_APART:g} times "
            f"{median}",
            hint="one of the columns seems to be in another unit: convert it",
        )


def _architecture(text: object, *, row: int, space: SearchSpace) -> Architecture:
    try:
        arch = Architecture.from_json(str(text))
        space.validate(arch)
    except SpaceError as e:
        raise PredictorError(f"row {row} of the measurements: {e}", hint=e.hint) from e
    return arch


def _cost(value: object, *, row: int, column: str) -> float:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not np.isfinite(float(str(value))) or float(str(value)) <= 0:
        raise PredictorError(
            f"row {row} of the measurements: {column} is {value!r}, expected a finite number above 0",
            hint="drop the rows whose measurement failed",
        )
    return float(str(value))
