"""Calibrates a device for a space without any training: measures the subnets that tell most, fits a predictor.

What a network costs does not depend on its weights, so subnets of an untrained supernet are measured.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.errors import StorageError
from hardware.lease import UnitLock
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many, reference_beside
from hardware.protocol import get_protocol
from hardware.records import (
    CalibrationSettings,
    calibrated_operators,
    calibrated_predictor,
    calibrations,
    measurement_table,
)
from hardware.table import Table
from nas.costs import fit_costs, no_energy, require_quantity, store_costs
from nas.errors import RunError
from nas.operators import MeasuredParts, measure_parts
from nas.profile import choose_measurements
from nas.ways import Ways, compare_ways
from predictors import CostPredictor, PredictorError, load_predictor
from predictors.latency import LatencyPredictor
from predictors.measured import QUANTITIES
from predictors.scores import Scores
from searchspaces import Architecture, SearchSpace

CALIBRATE_FIT, CALIBRATE_HELD_OUT = "calibrate-fit", "calibrate-held-out"
_FEWEST = 10
_CALIBRATION_INPUTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What calibrating a device came to.

    Attributes:
        predictor: of the quantity that was asked for, fitted to `num_fit` subnets, its scores those on the held-out
            ones.
        quantities: all that the measurements told; of each a predictor is stored.
        ways: what was tried for latency, with the errors of each on `num_held_out` subnets that it never saw.
        parts: what measuring the networks' parts came to; None if they were not measured.
        num_fit, num_held_out: measured subnets that were used.
        suspect: ids of architectures whose measurements failed their checks.
        uses_suspect: whether they were used nevertheless, because too few others were left.
        directory: where that predictor is stored.
    """

    predictor: LatencyPredictor
    quantities: tuple[str, ...]
    ways: Ways
    parts: MeasuredParts | None
    num_fit: int
    num_held_out: int
    suspect: tuple[str, ...]
    uses_suspect: bool
    directory: Path

    @property
    def scores(self) -> Scores:
        """Errors of the predictor on the held-out subnets."""
        assert self.predictor.scores is not None
        return self.predictor.scores


def untrained_artifacts(
    device: Device,
    space: SearchSpace,
    archs: Sequence[Architecture],
    *,
    num_classes: int,
    directory: Path,
    on_progress: Callable[[int, int], None],
) -> dict[Architecture, Artifact]:
    """Write subnets with random weights for a device, inputs as the networks take them (no preprocessing inside).

    Args:
        device: whose format is written.
        space: of the architectures; it needs a supernet.
        archs: what to write.
        num_classes: of the classifier.
        directory: where the files go.
        on_progress: called with (written, all).

    Raises:
        SpaceError: the space has no supernet.
        MeasurementError: the format does not know an operator; it is named.
    """
    torch.manual_seed(0)
    supernet = space.build_supernet(num_classes=num_classes).eval()
    artifacts = {}
    for number, arch in enumerate(archs, start=1):
        shape = space.input_shape(arch)
        artifacts[arch] = device.backend.build(
            supernet.extract(arch),
            example=torch.zeros(device.spec.batch, *shape),
            path=directory / f"{arch.arch_id}.{device.backend.artifact_format}",
            precision=device.spec.precision,
            calibration=torch.randn(_CALIBRATION_INPUTS, *shape) if device.spec.precision != "fp32" else None,
        )
        on_progress(number, len(archs))
    return artifacts


def measure_architectures(
    device: Device,
    space: SearchSpace,
    purposes: dict[Architecture, str],
    *,
    num_classes: int,
    protocol: str,
    seed: int,
    table: Table | None = None,
    on_built: Callable[[int, int], None],
    on_round: Callable[[int, int], None],
) -> dict[Architecture, CostMeasurement]:
    """Build untrained subnets, measure them in one session and append the records to a table.

    Args:
        device: where they run.
        space: of the architectures.
        purposes: what is measured, and what for (a column of the table).
        num_classes: of the classifiers.
        protocol: measurement protocol.
        seed: of the order.
        table: where the records go; None: the device's own, see `hardware.records`.
        on_built: called with (written, all) artifacts.
        on_round: called with (rounds done, most rounds).

    Raises:
        DeviceError: the device is unavailable or busy.
        MeasurementError, SpaceError: as `untrained_artifacts`.
    """
    settings = get_protocol(protocol)
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        with UnitLock(device.spec.physical_unit()).computing(owner=f"build for {device.spec.device_id}"):
            artifacts = untrained_artifacts(
                device,
                space,
                list(purposes),
                num_classes=num_classes,
                directory=Path(folder),
                on_progress=on_built,
            )
            # Of several, the largest one's time is hardly ever the shortest: its drift is seen best.
            reference = max(artifacts.values(), key=lambda artifact: artifact.size_bytes)
            if len(artifacts) == 1:
                reference = reference_beside(device, reference, folder=Path(folder))
        measured = measure_many(
            device,
            {arch.arch_id: artifact for arch, artifact in artifacts.items()},
            reference=reference,
            protocol=settings,
            rng=np.random.default_rng(seed),
            together=False,
            on_progress=on_round,
        )
    if table is None:
        table = measurement_table(device.spec.device_id, space_id=space.space_id)
    table.append(
        [
            {
                **measured[arch.arch_id].to_row(),
                "arch_id": arch.arch_id,
                "candidate_id": "untrained",
                "architecture": arch.to_json(),
                "purpose": purpose,
            }
            for arch, purpose in purposes.items()
        ]
    )
    return {arch: measured[arch.arch_id] for arch in purposes}


def calibrate(
    device: Device,
    space: SearchSpace,
    *,
    samples: int,
    held_out: int,
    num_classes: int,
    protocol: str,
    seed: int,
    quantity: str = "latency",
    sources: Sequence[CostPredictor] = (),
    on_part: Callable[[int, int], None] | None = None,
    on_built: Callable[[int, int], None],
    on_round: Callable[[int, int], None],
) -> Calibration:
    """Measure the `samples` subnets that tell most and some more that judge the predictors, and store them.

    The same measurements give a predictor of every quantity that they tell.

    Args:
        device: what to calibrate.
        space: the search space.
        samples: subnets that the predictor is fitted to, at least 10.
        held_out: further subnets that judge it, at least 2.
        num_classes: of the classifiers.
        protocol: measurement protocol.
        seed: chooses the subnets.
        quantity: which predictor is wanted, "latency", "latency_p99" or "energy".
        sources: predictors of other devices, which the new ones build on; see `calibrated_elsewhere`.
        on_part: if given, the parts of all networks are measured as well, for an operator lookup table; called with
            (parts measured, all).
        on_built: called with (written, all) artifacts.
        on_round: called with (rounds done, most rounds).

    Raises:
        RunError: too few samples, or more than the space has.
        DeviceError, MeasurementError, SpaceError: see `measure_architectures`; or the device lacks the quantity.
    """
    require_quantity(device, quantity)
    if samples < _FEWEST or held_out < 2 or samples + held_out > space.size:
        raise RunError(
            f"{samples} samples and {held_out} held-out subnets of space {space.space_id}, which has {space.size:,}",
            hint=f"ask for at least {_FEWEST} samples and 2 held-out ones, and no more than there are",
        )
    parts = None
    if on_part is not None:
        parts = measure_parts(device, space, num_classes=num_classes, protocol=protocol, seed=seed, on_progress=on_part)
    fitting, judging = choose_measurements(space, fit=samples, held_out=held_out, seed=seed, sources=sources)
    purposes = dict.fromkeys(fitting, CALIBRATE_FIT) | dict.fromkeys(judging, CALIBRATE_HELD_OUT)
    measured = measure_architectures(
        device,
        space,
        purposes,
        num_classes=num_classes,
        protocol=protocol,
        seed=seed,
        on_built=on_built,
        on_round=on_round,
    )
    suspect = tuple(arch.arch_id for arch, record in measured.items() if record.suspect)
    good = {arch: record for arch, record in measured.items() if not record.suspect}
    fit, judging = _chosen(good, purposes)
    uses_suspect = len(fit) < max(_FEWEST, samples // 2) or len(judging) < max(2, held_out // 2)
    if uses_suspect:
        good = measured
        fit, judging = _chosen(good, purposes)
    device_id = device.spec.device_id
    fit_table, judging_table = _table(good, fit), _table(good, judging)
    ways = compare_ways(
        fit_table,
        judging_table,
        space=space,
        device_id=device_id,
        unit=good[fit[0]].unit,
        sources=sources,
        operators=None if parts is None else parts.table,
        num_classes=num_classes,
    )
    settings = CalibrationSettings.of(device.spec, num_classes=num_classes)
    predictors = {
        name: replace(one, context=asdict(settings))
        for name, one in fit_costs(fit_table, judging_table, latency=ways.best).items()
    }
    directories = {
        name: calibrated_predictor(device_id, space_id=space.space_id, quantity=name, settings=settings)
        for name in QUANTITIES
    }
    store_costs(predictors, place=directories.__getitem__)
    if ways.lookup is not None:
        ways.lookup.save(calibrated_operators(device_id, space_id=space.space_id, settings=settings))
    if quantity not in predictors:
        raise no_energy(device_id, because="its measurements, which are kept, tell none")
    return Calibration(
        predictor=predictors[quantity],
        quantities=tuple(predictors),
        ways=ways,
        parts=parts,
        num_fit=len(fit),
        num_held_out=len(judging),
        suspect=suspect,
        uses_suspect=uses_suspect,
        directory=directories[quantity],
    )


def calibrated_elsewhere(
    device_id: str,
    *,
    space: SearchSpace,
    settings: CalibrationSettings,
    sibling: str | None = None,
    on_message: Callable[[str], None],
) -> list[LatencyPredictor]:
    """The latency predictors of other devices that `calibrate` stored for the same space and that stand by themselves.

    Those that build on other devices are left out: calibrated in turns, two devices would each hold ever older
    versions of the other, and hear their own measurements again. So is one that cannot be read (of another version,
    damaged), and a device that was calibrated with other settings only: nothing depends on them, and it is said.

    Args:
        device_id: whose predictor will build on them.
        space: the search space.
        settings: of the networks and devices; only calibrations with the same ones count.
        sibling: the same device in fp32. If it is there, it is the only one: it tells more of int8 than it does
            together with all others. It may build on others, but not on this device.
        on_message: told which devices are left out, and why.
    """
    found: list[LatencyPredictor] = []
    known = {other: ones for other, ones in calibrations(space.space_id).items() if other != device_id}
    for other in sorted(known, key=lambda other: (other != sibling, other)):
        if settings not in known[other]:
            other_ones = "; ".join(map(str, known[other]))
            on_message(f"not building on {other}: it is calibrated with other settings ({other_ones})")
            continue
        try:
            directory = calibrated_predictor(other, space_id=space.space_id, settings=settings)
            predictor = load_predictor(directory, space=space, device_id=other)
        except (PredictorError, StorageError) as e:
            on_message(f"not building on {other}, whose calibration cannot be used: {e} ({e.hint})")
            continue
        devices = {source.device_id for source in predictor.sources}
        if other == sibling and device_id not in devices:
            return [predictor]
        found += [predictor] if devices <= {other} else []
    return found


def _chosen(
    good: dict[Architecture, CostMeasurement], purposes: dict[Architecture, str]
) -> tuple[list[Architecture], list[Architecture]]:
    """Those to fit and those that judge."""
    fit = [arch for arch in good if purposes[arch] == CALIBRATE_FIT]
    return fit, [arch for arch in good if purposes[arch] == CALIBRATE_HELD_OUT]


def _table(measured: dict[Architecture, CostMeasurement], archs: Sequence[Architecture]) -> pd.DataFrame:
    return pd.DataFrame([{"architecture": arch.to_json(), **measured[arch].costs()} for arch in archs])
