"""What proxy_audit measured on the devices of this machine.

Letters: N networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.benchmarks.audited_subnets import REFERENCE
from experiments.benchmarks.predictors.published import LatencyTable
from hardware.measurement import MEASUREMENT_SCHEMA
from hardware.table import Table
from nas.profile import ratio_to_reference
from predictors.prediction import FloatArray
from searchspaces import Architecture, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalDevice:
    """N networks on one device, in units of the reference network beside them: the host's speed changes.

    Attributes:
        name: of the device.
        table: the networks; its one column is the median latency.
        reference_ms: the reference's median in the first session; NaN without networks.
        p99_N: the 99th percentile of single runs, in units of the reference's of the same session.
        halves_N: the percentiles of every other round, of the one half and of the other: how well p99 is known.
    """

    name: str
    table: LatencyTable
    reference_ms: float
    p99_N: FloatArray
    halves_N: tuple[FloatArray, FloatArray]

    @property
    def cost_N(self) -> FloatArray:
        """The median latencies."""
        return self.table.latency[self.name]

    def frame(self, rows: Sequence[int] | np.ndarray) -> pd.DataFrame:
        """Some of the networks as a table of measurements."""
        archs = self.table.space.architectures(self.table.genomes_NG[rows])
        return pd.DataFrame(
            {
                "architecture": [arch.to_json() for arch in archs],
                "latency_ms": self.cost_N[rows],
                "latency_p99_ms": self.p99_N[rows],
            }
        )


def read_device(folder: Path, *, space: SearchSpace) -> LocalDevice:
    """The good rows of a table of measurements, of sessions with a good reference."""
    rows = Table(folder, schema=MEASUREMENT_SCHEMA).read()
    rows = rows[~rows["suspect"]]
    is_reference = rows["purpose"] == REFERENCE
    references = rows[is_reference].drop_duplicates("session_id", keep="last").set_index("session_id")
    rows = rows[~is_reference & rows["session_id"].isin(references.index)].drop_duplicates("arch_id", keep="last")
    beside = references.loc[rows["session_id"]]
    cost_N = np.array(
        [ratio_to_reference(own, theirs) for own, theirs in zip(rows["raw_ms"], beside["raw_ms"], strict=True)]
    )
    longer_N = (rows["p99"] / rows["p50"]).to_numpy() / (beside["p99"] / beside["p50"]).to_numpy()
    archs = [Architecture.from_json(text) for text in rows["architecture"]]
    return LocalDevice(
        name=folder.name,
        table=LatencyTable(space=space, genomes_NG=space.genomes(archs), latency={folder.name: cost_N}),
        reference_ms=float(references["p50"].iloc[0]) if len(references) else float("nan"),
        p99_N=cost_N * longer_N,
        halves_N=(_p99_of_half(rows, 0), _p99_of_half(rows, 1)),
    )


def _p99_of_half(rows: pd.DataFrame, first: int) -> FloatArray:
    """Percentile of the runs of every other round, divided by the host's slowdown where the records are."""
    found = []
    for raw_ms, slowdown, corrected in zip(rows["raw_ms"], rows["slowdown"], rows["corrected"], strict=True):
        rounds = zip(raw_ms[first::2], slowdown[first::2], strict=True)
        found.append(
            np.quantile(np.concatenate([runs / (slower if corrected else 1.0) for runs, slower in rounds]), 0.99)
        )
    return np.array(found)
