"""A device whose latency is known exactly: overhead an operator, a roofline, kernel sizes that cost differently, noise.

Letters: N architectures, S operator slots.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from predictors.parts import part_name
from searchspaces import OpTable, SearchSpace

DEVICE_ID = "synthetic-cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticDevice:
    """Constants in microseconds, and per microsecond."""

    overhead_us: float
    network_us: float
    macs_per_us: dict[str, float]
    elements_per_us: float
    cache_elements: float
    noise: float

    @classmethod
    def draw(cls, seed: int, *, noise: float = 0.01) -> "SyntheticDevice":
        """One of many plausible small CPUs."""
        rng = np.random.default_rng(seed)
        return cls(
            overhead_us=rng.uniform(2.0, 6.0),
            network_us=rng.uniform(5.0, 20.0),
            macs_per_us={"conv": rng.uniform(8e3, 3e4), "depthwise": rng.uniform(2e3, 8e3), "linear": 5e3},
            elements_per_us=rng.uniform(2e3, 8e3),
            cache_elements=12e3,
            noise=noise,
        )

    def latency_ms(
        self, space: SearchSpace, genomes_NG: npt.NDArray[np.int8], *, rng: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        """Measured latency, with noise."""
        time_N = self.network_us + self._operators_us(space.op_table(genomes_NG)).sum(axis=1)
        return np.asarray(time_N * np.exp(rng.normal(0.0, self.noise, len(time_N))) / 1e3)

    def parts_ms(self, space: SearchSpace, genomes_NG: npt.NDArray[np.int8]) -> dict[str, npt.NDArray[np.float64]]:
        """What the operators of each part take, without noise; (N,) by name of the part."""
        table = space.op_table(genomes_NG)
        time_NS = self._operators_us(table) / 1e3
        names = [part_name(slot) for slot in table.names]
        return {name: time_NS[:, [other == name for other in names]].sum(axis=1) for name in names}

    def _operators_us(self, table: OpTable) -> npt.NDArray[np.float64]:
        traffic_NS = table.input_elements + table.output_elements + table.params
        # Vector units like wide operators better: throughput rises slowly with size, differently by kind.
        rate_S = np.array([self.macs_per_us.get(kind, 1e4) for kind in table.kinds])
        rate_NS = rate_S * np.where(table.macs > 0, table.macs, 1) ** 0.08 / 2.0
        kernel_area_NS = np.where(table.output_elements > 0, table.macs / np.maximum(table.output_elements, 1), 1)
        depthwise_S = np.array([kind == "depthwise" for kind in table.kinds])
        rate_NS = rate_NS * np.where(depthwise_S & (kernel_area_NS > 9.5), 1.4, 1.0)
        speed_NS = np.where(traffic_NS > self.cache_elements, 0.6, 1.0) * self.elements_per_us
        time_NS = self.overhead_us + np.maximum(table.macs / rate_NS, traffic_NS / speed_NS)
        return np.asarray(time_NS * table.present())

    def measure(
        self, space: SearchSpace, genomes_NG: npt.NDArray[np.int8], *, rng: np.random.Generator
    ) -> pd.DataFrame:
        """The table that a profile of these architectures would give."""
        return pd.DataFrame(
            {
                "architecture": [arch.to_json() for arch in space.architectures(genomes_NG)],
                "latency_ms": self.latency_ms(space, genomes_NG, rng=rng),
                "device_id": DEVICE_ID,
            }
        )
