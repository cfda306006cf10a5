"""How long and how often is measured, by name."""

from dataclasses import dataclass

from hardware.errors import MeasurementError

MIN_ROUNDS = 10
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementProtocol:
    """The settings of a measurement; stored by name with every result.

    Attributes:
        name: what recipes and tables call it.
        min_rounds: rounds that are always done, at least 10: the interval rests on their medians.
        max_rounds: rounds after which it ends, converged or not.
        runs_per_round: timed runs of each network in a round.
        warmup_runs: untimed runs of each network before them, in every round.
        interval_width: full width of the interval of the median, relative to the median, that is good enough.
        level: confidence level of the interval.
        min_seconds: a session lasts at least so long (unless `max_rounds` is reached): small networks finish their
            rounds in milliseconds, which may all lie in one slow moment of the host.
        max_seconds: time after which no further round is started, once `min_rounds` are done.
        min_runs: timed runs that each network has at least, unless a cap comes first.
        min_busy_seconds: time that each network's own timed runs add up to, unless a cap comes first.
        quantile: of the single runs: the number that the protocol reports; .5 is the median of the round medians.
    """

    name: str
    min_rounds: int = MIN_ROUNDS
    max_rounds: int
    runs_per_round: int
    warmup_runs: int
    interval_width: float = 0.03
    level: float = 0.95
    min_seconds: float = 0.0
    max_seconds: float
    min_runs: int = 0
    min_busy_seconds: float = 0.0
    quantile: float = 0.5

    def __post_init__(self) -> None:
        checks = (
            ("min_rounds", self.min_rounds, self.min_rounds >= MIN_ROUNDS, f">= {MIN_ROUNDS}"),
            ("max_rounds", self.max_rounds, self.max_rounds >= self.min_rounds, f">= min_rounds ({self.min_rounds})"),
            ("runs_per_round", self.runs_per_round, self.runs_per_round >= 1, ">= 1"),
            ("warmup_runs", self.warmup_runs, self.warmup_runs >= 0, ">= 0"),
            ("interval_width", self.interval_width, 0 < self.interval_width < 1, "between 0 and 1"),
            ("level", self.level, 0 < self.level < 1, "between 0 and 1"),
            ("min_seconds", self.min_seconds, self.min_seconds >= 0, ">= 0"),
            ("max_seconds", self.max_seconds, self.max_seconds > 0, "> 0"),
            ("min_runs", self.min_runs, self.min_runs >= 0, ">= 0"),
            ("min_busy_seconds", self.min_busy_seconds, self.min_busy_seconds >= 0, ">= 0"),
            ("quantile", self.quantile, self.quantile in QUANTILES, f"one of {QUANTILES}"),
        )
        for field, value, holds, allowed in checks:
            if not holds:
                raise MeasurementError(
                    f"protocol {self.name!r}: {field} is {value}, expected {allowed}",
                    hint=f"use one of the named protocols: {', '.join(PROTOCOLS)}",
                )


PROTOCOLS = ("quick", "standard", "mlperf")


def get_protocol(name: str) -> MeasurementProtocol:
    """Return a protocol by name.

    "quick" is for the many networks that a predictor is fitted on; "standard" for those whose numbers are reported;
    "mlperf" follows the single-stream scenario of MLPerf Inference (Reddi et al., ISCA 2020, table V): at least 1,024
    queries and 60 seconds of them for each network, the 90th percentile reported.

    Raises:
        MeasurementError: the name is unknown; the message lists the known ones.
    """
    if name == "quick":
        return MeasurementProtocol(
            name=name, max_rounds=200, runs_per_round=20, warmup_runs=3, min_seconds=0.5, max_seconds=120.0
        )
    if name == "standard":
        return MeasurementProtocol(
            name=name,
            min_rounds=12,
            max_rounds=20_000,
            runs_per_round=10,
            warmup_runs=3,
            interval_width=0.01,
            min_seconds=20.0,
            max_seconds=60.0,
        )
    if name == "mlperf":
        return MeasurementProtocol(
            name=name,
            min_rounds=16,
            max_rounds=10_000_000,
            runs_per_round=64,
            warmup_runs=2,
            max_seconds=86_400.0,
            min_runs=1024,
            min_busy_seconds=60.0,
            quantile=0.9,
        )
    raise MeasurementError(
        f"unknown protocol {name!r}, known are {list(PROTOCOLS)}", hint=f"choose one of {', '.join(PROTOCOLS)}"
    )
