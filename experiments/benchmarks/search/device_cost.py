"""What measuring took of a device, and what subnets that were measured came to."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What was asked of a device.

    Attributes:
        subnets: measurements of a subnet.
        seconds: that the device was taken for.
    """

    subnets: int
    seconds: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(subnets=self.subnets + other.subnets, seconds=self.seconds + other.seconds)

    def price(self, num: int) -> float:
        """Seconds of `num` measurements at the mean of these."""
        return num * self.seconds / self.subnets


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Subnets that were measured to judge all searches alike.

    Attributes:
        latency_ms: by arch_id.
        num_suspect: those whose measurement failed its own checks twice; they count all the same.
        cost: of all that were measured for this purpose.
    """

    latency_ms: Mapping[str, float]
    num_suspect: int
    cost: Cost
