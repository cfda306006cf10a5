"""Networks that somebody puts on the front of a run: architectures of its space, and baselines from elsewhere."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import stages
from experiments.reporter import Reporter
from experiments.session import Session
from nas.accuracy import metric_label
from nas.baselines import BaselineInput, read_baseline
from nas.errors import RunError
from nas.pricing import LIMITS
from nas.run import utc_now
from nas.search.records import evaluation_row
from nas.tables import ADDED_TRIAL, UNMEASURED
from nas.verify import unmeasured_row, verification_row
from searchspaces import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """One network that was added.

    Attributes:
        candidate: its id.
        name: the architecture's id, or the baseline's name.
        split: of the accuracy: `search` for an architecture, `verify` for a baseline.
        accuracy: a fraction, of the run's metric.
        known: whether the run had it already.
    """

    candidate: str
    name: str
    split: str
    accuracy: float
    known: bool


def add_architectures(session: Session, archs: Sequence[Architecture], *, reporter: Reporter) -> list[Addition]:
    """Evaluate architectures with inherited weights, as the search would, and see to it that they are verified.

    What the run has evaluated is not evaluated again.

    Raises:
        SpaceError: one is of another space, or has genes that the space does not have.
        RunError: the supernet is not trained, or the device is not profiled.
    """
    stages.require_trained(session)
    run, bench = session.run, session.bench
    for arch in archs:
        run.space.validate(arch)
    archs = list(dict.fromkeys(archs))
    prices, evaluations = session.pricer.price(archs), run.evaluations()
    reporter.stage("add", text=f"{len(archs)} architectures of {run.space.space_id}, with inherited weights")
    added = []
    row: dict[str, object]
    for number, (arch, price) in enumerate(zip(archs, prices, strict=True)):
        candidate = bench.inherit(arch)
        rows = evaluations[evaluations["candidate_id"] == candidate.candidate_id]
        if known := bool(len(rows)):
            # The same row once more says who asked for it; it took no time.
            row = {str(key): value for key, value in rows.iloc[-1].to_dict().items()}
            row |= {"trial_number": ADDED_TRIAL, "seconds": 0.0, "utc_time": utc_now()}
            named = bool((rows["trial_number"] == ADDED_TRIAL).any())
        else:
            with bench.computing():
                score = session.workload.subnet_judge.judge([arch])[0]
            row = evaluation_row(
                candidate,
                accuracy=score.accuracy,
                price=price,
                trial_number=ADDED_TRIAL,
                seconds=score.seconds,
            )
            named = False
        if not named:
            run.evaluations_table.append([row])
        added.append(
            Addition(
                candidate=candidate.candidate_id,
                name=arch.arch_id,
                split="search",
                accuracy=float(str(row["accuracy"])),
                known=known,
            )
        )
        for limit in session.limits:
            if limit.violation(price.cost(limit.name)) > 0:
                # That of a further device (the limit names it) keeps it from that device only.
                here = f"neither refined nor verified on {session.device_id}"
                what = here if limit.name in LIMITS else "neither verified there nor on the front of that device"
                reporter.message(f"{arch.arch_id} is beyond the run's limit {limit}: it is {what} while that stands")
        reporter.progress(number + 1, len(archs))
    fresh = sum(not one.known for one in added)
    reporter.done(f"{fresh} evaluated, {len(added) - fresh} were evaluated before")
    return added


def add_baseline(
    session: Session, path: Path, *, name: str | None, takes: BaselineInput, reporter: Reporter
) -> Addition:
    """Keep an ONNX file with the run and evaluate it on the verify split, in the runtime of the run's device.

    Its latency comes from the verification, in one session with the front's.

    Raises:
        RunError, DeviceError, MeasurementError, StorageError: see `nas.baselines.read_baseline`.
    """
    stages.require_trained(session)
    run, bench, data = session.run, session.bench, session.workload.data
    label = metric_label(data.metric)
    reporter.stage("add", text=f"baseline {path.name} on {session.device_id} and on the verify split")
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder, bench.computing():
        baseline, source = read_baseline(
            path, name=name, takes=takes, data=data, device=session.device, folder=Path(folder)
        )
        known = run.baselines.known(baseline)
        candidate = (known or baseline).candidate(precision=session.device.spec.precision)
        rows = run.baseline_rows()
        rows = rows[rows["candidate_id"] == candidate.candidate_id]
        if known is not None and len(rows):
            if name not in (None, known.name):
                raise RunError(
                    f"{path} is the run's baseline {known.name!r}", hint="one network has one name: leave --name out"
                )
            reporter.done(f"{known.name} was added before")
            value = float(rows["accuracy"].iloc[-1])
            return Addition(
                candidate=candidate.candidate_id, name=known.name, split="verify", accuracy=value, known=True
            )
        artifact = bench.deployment.adopt(
            source, path=Path(folder) / f"baseline.{session.device.backend.artifact_format}"
        )
        accuracy = bench.accuracy(artifact, data.verify)
        run.baselines.save(baseline, source)
    run.verifications_table.append(
        [
            verification_row(
                candidate,
                accuracy=accuracy,
                price=baseline.price_row(session.device_id),
                latency=unmeasured_row(UNMEASURED),
            )
        ]
    )
    reporter.done(f"{baseline.name}: {label} {accuracy.value:.2%} on verify")
    return Addition(
        candidate=candidate.candidate_id, name=baseline.name, split="verify", accuracy=accuracy.value, known=False
    )
