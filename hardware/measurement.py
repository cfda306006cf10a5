"""One measured cost: the value, how certain it is, and everything it depends on."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import pyarrow as pa

from hardware.errors import MeasurementError

Provenance = Literal["measured", "simulated", "estimated"]
_PROVENANCES = ("measured", "simulated", "estimated")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostMeasurement:
    """What one network cost on one device.

    Attributes:
        measurement_id: 12 hex digits, unique.
        session_id: 12 hex digits, shared by all networks that were measured in the same interleaved rounds.
        device_id: the device.
        quantity: what was measured, "latency" unless said otherwise.
        unit: of p50, p90, p99, low, high and the raw values.
        provenance: measured on the device, simulated, or estimated by a model of it; never mixed up.
        p50: median of the round medians.
        p90, p99: percentiles of all single runs.
        low, high: bootstrap interval of the median over the round medians.
        level: confidence level of the interval.
        num_rounds, runs_per_round, warmup_runs: how much was measured.
        converged: whether the interval is as narrow as the protocol asks.
        drift: relative change of the reference network during the session (0.05: it became 5 % slower).
        suspect: whether something speaks against the number; it is kept, but shown with a warning.
        suspect_reason: what that is; empty if not suspect.
        raw_ms: every timed run, a tuple a round.
        artifact_sha256: the file that was measured.
        protocol: name of the protocol.
        threads, batch, precision: of the device's spec.
        versions: runtime versions by package.
        cpu_model: the processor's name.
        governor: the frequency governor, None where the system has none or does not tell.
        load_average: of the last minute, when the session began.
        involuntary_switches: how often the CPU was taken away during this network's turns.
        lease_token: fencing token of the lease under which it was measured.
        utc_time: when the session ended.
    """

    measurement_id: str
    session_id: str
    device_id: str
    quantity: str = "latency"
    unit: str = "ms"
    provenance: Provenance
    p50: float
    p90: float
    p99: float
    low: float
    high: float
    level: float
    num_rounds: int
    runs_per_round: int
    warmup_runs: int
    converged: bool
    drift: float
    suspect: bool
    suspect_reason: str
    raw_ms: tuple[tuple[float, ...], ...]
    artifact_sha256: str
    protocol: str
    threads: int
    batch: int
    precision: str
    versions: Mapping[str, str]
    cpu_model: str
    governor: str | None
    load_average: float
    involuntary_switches: int
    lease_token: int
    utc_time: datetime

    def __post_init__(self) -> None:
        if self.provenance not in _PROVENANCES:
            raise MeasurementError(
                f"provenance is {self.provenance!r}, expected one of {_PROVENANCES}",
                hint="say where the number comes from; predictions are no measurements",
            )
        for name in ("p50", "p90", "p99", "low", "high"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise MeasurementError(
                    f"{self.quantity} {name} on {self.device_id} is {value!r}, expected a finite number above 0",
                    hint="measure again; a failed measurement is not stored",
                )
        if self.utc_time.tzinfo is None:
            raise MeasurementError(
                f"utc_time is {self.utc_time.isoformat()} without a time zone", hint="use datetime.now(UTC)"
            )

    def to_row(self) -> dict[str, object]:
        """Return the columns of MEASUREMENT_SCHEMA without the key columns, which the caller adds."""
        row: dict[str, object] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        row["raw_ms"] = [list(runs) for runs in self.raw_ms]
        row["versions"] = json.dumps(dict(self.versions), sort_keys=True)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "CostMeasurement":
        """Rebuild a measurement from a row of its table; the key columns and others are ignored.

        Args:
            row: as `to_row` gave it, or as pandas reads it back (`frame.to_dict("records")`).

        Raises:
            MeasurementError: a column is missing, or a value makes no sense.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in row]
        if missing:
            raise MeasurementError(
                f"a measurement needs the columns {missing}, the row has {sorted(row)}",
                hint="read the row from a table with MEASUREMENT_SCHEMA",
            )
        values: dict[str, Any] = {name: _plain(row[name]) for name in names}
        raw = cast("Iterable[Iterable[float]]", row["raw_ms"])
        values["raw_ms"] = tuple(tuple(float(value) for value in runs) for runs in raw)
        values["versions"] = json.loads(values["versions"])
        # pandas spells a missing string as NaN.
        values["governor"] = values["governor"] if isinstance(values["governor"], str) else None
        return cls(**values)


def _plain(value: object) -> object:
    """Numpy and pandas scalars as Python's own."""
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MEASUREMENT_SCHEMA = pa.schema(
    [
        # Key columns: the caller knows whose artifact it was and what it was measured for.
        _required("arch_id", pa.string()),
        _required("candidate_id", pa.string()),
        _required("architecture", pa.string()),
        _required("purpose", pa.string()),
        _required("measurement_id", pa.string()),
        _required("session_id", pa.string()),
        _required("device_id", pa.string()),
        _required("quantity", pa.string()),
        _required("unit", pa.string()),
        _required("provenance", pa.string()),
        *(_required(name, pa.float64()) for name in ("p50", "p90", "p99", "low", "high", "level")),
        *(_required(name, pa.int64()) for name in ("num_rounds", "runs_per_round", "warmup_runs")),
        _required("converged", pa.bool_()),
        _required("drift", pa.float64()),
        _required("suspect", pa.bool_()),
        _required("suspect_reason", pa.string()),
        _required("raw_ms", pa.list_(pa.list_(pa.float64()))),
        _required("artifact_sha256", pa.string()),
        _required("protocol", pa.string()),
        _required("threads", pa.int64()),
        _required("batch", pa.int64()),
        _required("precision", pa.string()),
        _required("versions", pa.string()),
        _required("cpu_model", pa.string()),
        pa.field("governor", pa.string()),
        _required("load_average", pa.float64()),
        _required("involuntary_switches", pa.int64()),
        _required("lease_token", pa.int64()),
        _required("utc_time", pa.timestamp("us", tz="UTC")),
    ]
)
