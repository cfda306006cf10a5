"""Measures candidates on the run's device and keeps the records."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many
from nas.candidate import Candidate
from nas.materialise import Workbench

_ORDER = 8


def measure_candidates(
    bench: Workbench,
    candidates: Sequence[Candidate],
    *,
    purpose: str,
    protocol: str,
    seed: int,
    on_round: Callable[[int, int], None] | None = None,
) -> Mapping[str, CostMeasurement]:
    """Build the candidates' artifacts, measure them in one interleaved batch, append the records to the run's table.

    The largest subnet with inherited weights runs in every round as the reference that shows drift. Building computes,
    so it holds the compute lock; measuring takes the host for itself.

    Returns:
        Measurement by candidate_id.

    Raises:
        DeviceError: the device is unavailable or busy.
    """
    if not candidates:
        return {}
    with bench.computing():
        artifacts = {candidate.candidate_id: bench.artifact(candidate) for candidate in candidates}
        reference = bench.artifact(bench.inherit(bench.run.space.largest))
    measurements = measure_many(
        bench.device,
        artifacts,
        reference=reference,
        protocol=protocol,
        rng=np.random.default_rng((seed, _ORDER)),
        owner=f"nas {bench.run.info.name} ({purpose})",
        on_progress=on_round,
    )
    bench.run.measurements_table.append(
        [
            {
                **measurements[candidate.candidate_id].to_row(),
                "arch_id": candidate.architecture.arch_id,
                "candidate_id": candidate.candidate_id,
                "architecture": candidate.architecture.to_json(),
                "purpose": purpose,
            }
            for candidate in candidates
        ]
    )
    return measurements
