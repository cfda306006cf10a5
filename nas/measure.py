"""Measures candidates on the run's device and keeps the records."""

import json
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from hardware.artifacts.artifact import Artifact
from hardware.errors import DeviceError
from hardware.host import look_at_host
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many
from nas.candidate import Candidate
from nas.device_seconds import REFERENCE
from nas.materialise import Workbench
from nas.run import utc_now

_ORDER = 8


def measure_candidates(
    bench: Workbench,
    purposes: Mapping[Candidate, str],
    *,
    protocol: str,
    seed: int,
    on_round: Callable[[int, int], None] | None = None,
) -> Mapping[str, CostMeasurement]:
    """Build the candidates' artifacts and measure them; see `measure_artifacts`.

    Building computes, so it holds the compute lock; measuring takes the host for itself.
    """
    if not purposes:
        return {}
    with bench.computing():
        artifacts = {candidate: bench.artifact(candidate) for candidate in purposes}
    return measure_artifacts(bench, artifacts, purposes=purposes, protocol=protocol, seed=seed, on_round=on_round)


def measure_artifacts(
    bench: Workbench,
    artifacts: Mapping[Candidate, Artifact],
    *,
    purposes: Mapping[Candidate, str],
    protocol: str,
    seed: int,
    on_round: Callable[[int, int], None] | None = None,
) -> Mapping[str, CostMeasurement]:
    """Measure artifacts in one interleaved session and append the records to the run's table.

    On measured devices the largest subnet with inherited weights runs in every round as the reference that shows drift;
    its own record is kept with the session (the same session id), so that sessions of different hours can be compared.
    Devices that count do not drift, and the largest subnet may not even fit them: there is no reference there.

    Args:
        bench: runs artifacts.
        artifacts: what is measured.
        purposes: what for, a column of the table.
        protocol: measurement protocol.
        seed: order within the rounds.
        on_round: called with (rounds done, most rounds).

    Returns:
        Measurement by candidate_id, the reference's included; nothing for no artifacts.

    Raises:
        DeviceError: the device is unavailable or busy, or the run was measured on another machine.
    """
    _require_same_machine(bench)
    if not artifacts:
        return {}
    everything = dict(artifacts)
    if bench.device.backend.provenance == "measured":
        reference = _reference(bench)
        with bench.computing():
            everything = {reference: bench.artifact(reference), **artifacts}
    taken_s: list[float] = []
    measurements = measure_many(
        bench.device,
        {candidate.candidate_id: artifact for candidate, artifact in everything.items()},
        reference=next(iter(everything.values())),
        protocol=protocol,
        rng=np.random.default_rng((seed, _ORDER)),
        owner=f"nas {bench.run.info.name}",
        on_progress=on_round,
        on_session=taken_s.append,
    )
    bench.run.sessions_table.append(
        [
            {
                "session_id": next(iter(measurements.values())).session_id,
                "device_id": bench.device.spec.device_id,
                "seconds": sum(taken_s),
                "utc_time": utc_now(),
            }
        ]
    )
    bench.run.measurements_table(bench.device.spec.device_id).append(
        [
            {
                **measurements[candidate.candidate_id].to_row(),
                "arch_id": candidate.architecture.arch_id,
                "candidate_id": candidate.candidate_id,
                "architecture": candidate.architecture.to_json(),
                "purpose": purposes.get(candidate, REFERENCE),
            }
            for candidate in everything
        ]
    )
    return measurements


def host_slowdown(bench: Workbench, later: CostMeasurement, *, earlier_id: str) -> float:
    """How much slower the host was in one session than in an earlier one, by the reference network that ran in both.

    Args:
        bench: whose run's records are compared.
        later: a measurement of the later session.
        earlier_id: measurement id of one of the earlier session.

    Returns:
        Ratio of the reference's medians; NaN if a session has no record of it, as on devices that count.
    """
    rows = _measured(bench)
    sessions = rows.set_index("measurement_id")["session_id"]
    reference_ms = rows[rows["candidate_id"] == _reference(bench).candidate_id].set_index("session_id")["p50"]
    return float(reference_ms.get(later.session_id, np.nan) / reference_ms.get(sessions.get(earlier_id), np.nan))


def _measured(bench: Workbench) -> pd.DataFrame:
    """What the run has measured on the bench's device."""
    return bench.run.measurements_table(bench.device.spec.device_id).read()


def _reference(bench: Workbench) -> Candidate:
    return bench.inherit(bench.run.space.largest)


def _require_same_machine(bench: Workbench) -> None:
    """Refuse to mix measurements of two machines or settings under one device id.

    Raises:
        DeviceError: the run's newest measurement of the device was made elsewhere.
    """
    rows = _measured(bench)
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
