"""One measured cost: the value, how certain it is, and everything it depends on."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import pyarrow as pa

from hardware.backends.backend import PROVENANCES, Provenance
from hardware.errors import MeasurementError
from hardware.protocol import QUANTILES

_UNITS_OF_TIME = ("s", "ms", "us", "ns")
_JSON_COLUMNS = ("versions", "also")
_TUPLE_COLUMNS = ("slowdown", "affinity")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostMeasurement:
    """What one network cost on one device.

    Attributes:
        measurement_id: 12 hex digits, unique.
        session_id: 12 hex digits, shared by all networks that were measured in the same interleaved rounds.
        device_id: the device.
        quantity: what was measured, "latency" unless said otherwise.
        unit: of p50, p90, p99, low and high.
        provenance: measured on the device, simulated, or estimated by a model of it; never mixed up.
        p50: median of the round medians that count, after correction; a count's value.
        p90, p99: percentiles of all single runs; a count's value.
        low, high: bootstrap interval of the median over the round medians; a count's value: it is exact.
        level: confidence level of the interval.
        quantile: the percentile that the protocol reports, .5 or .9 or .99.
        also: further numbers of a simulator or estimating compiler, the unit in their name ("sram_bytes"); of measured
            devices "energy_mj", millijoules of one run, where the machine counts energy.
        num_rounds, runs_per_round: how much was measured.
        warmup_runs: untimed runs before the first round (until the times were steady) and in every round.
        converged: whether the interval is as narrow as the protocol asks.
        drift: how far the slowest or fastest quarter of the session was from its median, by the reference network.
        corrected: whether round medians were divided by the host's slowdown beside them, because it drifted.
        num_outliers: rounds that were left out.
        outlier_rule: which ones are.
        suspect: whether something speaks against the number; it is kept, but never used silently.
        suspect_reason: what that is; empty if not suspect.
        raw_ms: every timed run, a tuple a round; empty for counts.
        slowdown: the host's slowdown beside every round; empty for counts.
        reference_ms: median of the session's reference network, divided by the host's slowdown beside its turns where
            this record's rounds are; None for counts.
        host_slowdown: how much slower the reference was than in the session that this one is compared with, 1 without
            such a session; the values, but not the raw runs, are divided by it.
        artifact_sha256: the file that was measured.
        protocol: name of the protocol.
        threads, batch, precision: of the device's spec.
        versions: runtime and driver versions by package.
        unit_name: the physical unit that it was measured on.
        cpu_model: the processor's name.
        governor: the frequency governor, None where the system has none or does not tell.
        clock_mhz: the clock when the session began, None where it is not told.
        affinity: cores that the measuring process could use.
        load_average: of the last minute, when the session began.
        foreign_cores: processor time of other processes during the session, as a number of cores; None if unknown.
        stolen: share of the session's time in which the hypervisor took processors away.
        waited_s: how long the session waited for those who computed or measured on the unit.
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
    quantile: float = 0.5
    also: Mapping[str, float] = dataclasses.field(default_factory=dict)
    num_rounds: int
    runs_per_round: int
    warmup_runs: int
    converged: bool
    drift: float
    corrected: bool = False
    num_outliers: int = 0
    outlier_rule: str = ""
    suspect: bool
    suspect_reason: str
    raw_ms: tuple[tuple[float, ...], ...]
    slowdown: tuple[float, ...] = ()
    reference_ms: float | None = None
    host_slowdown: float = 1.0
    artifact_sha256: str
    protocol: str
    threads: int
    batch: int
    precision: str
    versions: Mapping[str, str]
    unit_name: str = ""
    cpu_model: str
    governor: str | None
    clock_mhz: float | None = None
    affinity: tuple[int, ...] = ()
    load_average: float
    foreign_cores: float | None = None
    stolen: float = 0.0
    waited_s: float = 0.0
    involuntary_switches: int
    lease_token: int
    utc_time: datetime

    @property
    def comparable_reference_ms(self) -> float | None:
        """The `reference_ms` to measure with later, so that values can be compared with this one's."""
        return None if self.reference_ms is None else self.reference_ms / self.host_slowdown

    @property
    def reported(self) -> float:
        """The number that the protocol reports: the median, or a percentile of the single runs."""
        return {0.5: self.p50, 0.9: self.p90, 0.99: self.p99}[self.quantile]

    def costs(self) -> dict[str, float]:
        """Every cost of the record by its column of a table, NaN where it has none.

        "latency_<unit>" is the median, or a count; of measured devices there are "latency_p99_ms" and "energy_mj", too.
        """
        found = {f"latency_{self.unit}": self.p50}
        if self.provenance == "measured":
            found |= {"latency_p99_ms": self.p99, "energy_mj": self.also.get("energy_mj", math.nan)}
        return found

    def __post_init__(self) -> None:
        if self.provenance not in PROVENANCES:
            raise MeasurementError(
                f"provenance is {self.provenance!r}, expected one of {PROVENANCES}",
                hint="say where the number comes from; predictions are no measurements",
            )
        for name in ("p50", "p90", "p99", "low", "high"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise MeasurementError(
                    f"{self.quantity} {name} on {self.device_id} is {value!r}, expected a finite number above 0",
                    hint="measure again; a failed measurement is not stored",
                )
        if self.provenance != "measured" and self.unit in _UNITS_OF_TIME:
            raise MeasurementError(
                f"{self.device_id} is {self.provenance}, its {self.quantity} cannot be in {self.unit}",
                hint="report what the simulator counts: instructions or cycles",
            )
        if self.quantile not in QUANTILES:
            raise MeasurementError(
                f"quantile is {self.quantile}, expected one of {QUANTILES}", hint="use one of the named protocols"
            )
        if self.utc_time.tzinfo is None:
            raise MeasurementError(
                f"utc_time is {self.utc_time.isoformat()} without a time zone", hint="use datetime.now(UTC)"
            )

    def to_row(self) -> dict[str, object]:
        """Return the columns of MEASUREMENT_SCHEMA without the key columns, which the caller adds."""
        row: dict[str, object] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        row["raw_ms"] = [list(runs) for runs in self.raw_ms]
        for name in _TUPLE_COLUMNS:
            row[name] = list(getattr(self, name))
        for name in _JSON_COLUMNS:
            row[name] = json.dumps(dict(getattr(self, name)), sort_keys=True)
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
        for name in _JSON_COLUMNS:
            values[name] = json.loads(values[name])
        for name in _TUPLE_COLUMNS:
            values[name] = tuple(_plain(value) for value in cast("Iterable[object]", row[name]))
        # pandas spells what is missing as NaN.
        values["governor"] = values["governor"] if isinstance(values["governor"], str) else None
        for name in ("clock_mhz", "foreign_cores", "reference_ms"):
            values[name] = None if values[name] is None or math.isnan(values[name]) else values[name]
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
        *(_required(name, pa.float64()) for name in ("p50", "p90", "p99", "low", "high", "level", "quantile")),
        _required("also", pa.string()),
        *(_required(name, pa.int64()) for name in ("num_rounds", "runs_per_round", "warmup_runs")),
        _required("converged", pa.bool_()),
        _required("drift", pa.float64()),
        _required("corrected", pa.bool_()),
        _required("num_outliers", pa.int64()),
        _required("outlier_rule", pa.string()),
        _required("suspect", pa.bool_()),
        _required("suspect_reason", pa.string()),
        _required("raw_ms", pa.list_(pa.list_(pa.float64()))),
        _required("slowdown", pa.list_(pa.float64())),
        pa.field("reference_ms", pa.float64()),
        _required("host_slowdown", pa.float64()),
        _required("artifact_sha256", pa.string()),
        _required("protocol", pa.string()),
        _required("threads", pa.int64()),
        _required("batch", pa.int64()),
        _required("precision", pa.string()),
        _required("versions", pa.string()),
        _required("unit_name", pa.string()),
        _required("cpu_model", pa.string()),
        pa.field("governor", pa.string()),
        pa.field("clock_mhz", pa.float64()),
        _required("affinity", pa.list_(pa.int64())),
        _required("load_average", pa.float64()),
        pa.field("foreign_cores", pa.float64()),
        *(_required(name, pa.float64()) for name in ("stolen", "waited_s")),
        _required("involuntary_switches", pa.int64()),
        _required("lease_token", pa.int64()),
        _required("utc_time", pa.timestamp("us", tz="UTC")),
    ]
)
