"""Measures candidates on the run's device and keeps the records."""

import json
from collections.abc import Callable, Mapping

import numpy as np

from hardware.errors import DeviceError
from hardware.host import look_at_host
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many
from nas.candidate import Candidate
from nas.materialise import Workbench

REFERENCE = "reference"
_ORDER = 8


def measure_candidates(
    bench: Workbench,
    purposes: Mapping[Candidate, str],
    *,
    protocol: str,
    seed: int,
    on_round: Callable[[int, int], None] | None = None,
) -> Mapping[str, CostMeasurement]:
    """Build the candidates' artifacts, measure them in one interleaved batch, append the records to the run's table.

    The largest subnet with inherited weights runs in every round as the reference that shows drift; its own record is
    kept with the batch (the same session id), so that batches of different hours can be compared. Building computes,
    so it holds the compute lock; measuring takes the host for itself.

    Args:
        bench: makes artifacts.
        purposes: what each candidate is measured for, a column of the table.
        protocol: measurement protocol.
        seed: order within the rounds.
        on_round: called with (rounds done, most rounds).

    Returns:
        Measurement by candidate_id, the reference's included.

    Raises:
        DeviceError: the device is unavailable or busy.
    """
    if not purposes:
        return {}
    _require_same_machine(bench)
    with bench.computing():
        reference = bench.inherit(bench.run.space.largest)
        everything = {reference: REFERENCE, **purposes}
        artifacts = {candidate.candidate_id: bench.artifact(candidate) for candidate in everything}
    measurements = measure_many(
        bench.device,
        artifacts,
        reference=artifacts[reference.candidate_id],
        protocol=protocol,
        rng=np.random.default_rng((seed, _ORDER)),
        owner=f"nas {bench.run.info.name}",
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
            for candidate, purpose in everything.items()
        ]
    )
    return measurements


def _require_same_machine(bench: Workbench) -> None:
    """Refuse to mix measurements of two machines or settings under one device id.

    Raises:
        DeviceError: the run's newest measurement of the device was made elsewhere.
    """
    rows = bench.run.measurements()
    rows = rows[rows["device_id"] == bench.device.spec.device_id]
    if not len(rows):
        return
    newest, spec = rows.iloc[-1], bench.device.spec
    before = (newest["cpu_model"], newest["versions"], int(newest["threads"]), int(newest["batch"]))
    versions = json.dumps(dict(bench.device.backend.versions()), sort_keys=True)
    now = (look_at_host().cpu_model, versions, spec.threads, spec.batch)
    if before != now:
        raise DeviceError(
            f"the run's measurements on {spec.device_id} were made with {before}, this machine is {now}",
            hint="measure on the same machine with the same runtime, or start a new run directory (--run-dir)",
        )
