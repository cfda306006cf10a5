"""What a run shows: the front as one JSON object, pictures, and the view that trackers mirror."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from experiments.tracking.figures import hypervolume_figure, joint_figure, pareto_figure, predictor_figure, write_html
from experiments.tracking.promise_figure import promise_figure
from hardware.files import JSON, read_json, write_json
from nas.baseline_points import BaselinePoint, baseline_points
from nas.errors import RunError
from nas.joint_front import joint_warnings
from nas.pareto import FrontPoint, ParetoFront, hypervolume_by_evaluation, unmeasured_points, verified_rows
from nas.profile import PROFILE_HELD_OUT, profile_path, profiled_subnets
from nas.promises import Promises, compute_promises, host_slowdown
from nas.run import Run
from nas.tables import PREDICTED
from nas.tracking import RunStatus, RunView
from nas.training.history import TrainHistory
from nas.training.loop import HISTORY
from nas.verify import VERIFY
from searchspaces import Architecture

# A host that is slower or faster by more makes promised and found latencies differ.
_SLOWDOWN = 0.05


def front_document(run: Run, *, device: str | None = None) -> dict[str, JSON]:
    """The object that `nas pareto --format json` prints and `pareto.json` holds.

    Accuracies are values of `metric`, fractions; latencies are milliseconds; `provenance` says whether they are
    measured or still predicted, `warnings` what speaks against the front.
    """
    device_id = run.info.device_id if device is None else device
    verifications = run.verifications()
    require_device(run, device_id)
    front = run.front(device=device_id)
    profile = read_profile(run, device_id)
    unmeasured = unmeasured_points(verifications, device_id=device_id)
    return {
        "run": str(run.path),
        "run_id": run.info.run_id,
        "name": run.info.name,
        "space": run.space.space_id,
        "device": device_id,
        "provenance": front.provenance,
        "split": front.split,
        "metric": front.metric,
        "hypervolume": front.hypervolume,
        "reference_point": list(front.reference_point),
        "limits": [{"name": limit.name, "value": limit.value, "unit": limit.unit} for limit in run.limits(device_id)],
        "points": [point.to_json() for point in front.points],
        "promises": run_promises(run, device_id).to_json(),
        "unmeasured": [point.to_json() for point in unmeasured],
        "baselines": [point.to_json() for point in _baselines(run, front)],
        "predictor": profile,
        "warnings": [
            *front_warnings(front, profile=profile, unmeasured=unmeasured),
            *verified_warnings(run, device_id),
        ],
    }


def run_promises(run: Run, device_id: str) -> Promises:
    """What was promised of a device's verified candidates within the limits, and what was found."""
    return compute_promises(run.evaluations(), run.verifications(), device_id=device_id, limits=run.limits(device_id))


def verified_warnings(run: Run, device_id: str) -> list[str]:
    """Which verified candidates compete for no front, and whether promises are of another host speed, in sentences."""
    verifications = run.verifications()
    everything = verified_rows(verifications, device_id=device_id)
    warnings = []
    slowdown = host_slowdown(run, device_id=device_id)
    if abs(slowdown - 1) > _SLOWDOWN:
        warnings.append(
            f"while verifying the host took {slowdown:.2f} times as long for the reference network as when profiling "
            "began: measured latencies differ by as much from predicted ones"
        )
    if beyond := beyond_limits(run, device_id):
        warnings.append(beyond)
    own = verifications[verifications["device_id"] == device_id].drop_duplicates("candidate_id", keep="last")
    never = own[(own["provenance"] == PREDICTED) & ~own["candidate_id"].isin(everything["candidate_id"])]
    if len(never):
        warnings.append(
            f"{len(never)} verified candidates are left out: their latencies are predicted, the front's are measured; "
            "set search.measure to verify and run `nas verify`"
        )
    return warnings


def beyond_limits(run: Run, device_id: str) -> str | None:
    """How many of a device's verified candidates its limits leave out; None if they leave out nothing."""
    verifications, limits = run.verifications(), run.limits(device_id)
    num = len(verified_rows(verifications, device_id=device_id))
    beyond = num - len(verified_rows(verifications, device_id=device_id, limits=limits))
    if not beyond:
        return None
    return f"{beyond} of {num} verified candidates are left out: beyond {', '.join(str(limit) for limit in limits)}"


def _baselines(run: Run, front: ParetoFront) -> list[BaselinePoint]:
    """Those of the front's device, compared with the front once it is verified."""
    points = front.points if front.split == "verify" else ()
    return baseline_points(run.baseline_rows(), device_id=front.device_id, front=points)


def joint_document(run: Run) -> dict[str, JSON]:
    """The object that `nas pareto --joint --format json` prints and `pareto-joint.json` holds.

    As `front_document`, but each point's latency, interval and provenance are objects by device.
    """
    front = run.joint_front()
    return {
        "run": str(run.path),
        "run_id": run.info.run_id,
        "name": run.info.name,
        "space": run.space.space_id,
        "devices": list(front.devices),
        "split": front.split,
        "metric": front.points[0].metric if front.points else "none",
        "hypervolume": front.hypervolume,
        "reference_point": list(front.reference_point),
        "points": [point.to_json() for point in front.points],
        "warnings": list(joint_warnings(front)),
    }


def joint_page(run: Run) -> str:
    """The joint front as one self-contained HTML page."""
    return _page(_joint_figure(run))


def _joint_figure(run: Run) -> go.Figure:
    document = joint_document(run)
    points, devices = document["points"], document["devices"]
    assert isinstance(points, list)
    assert isinstance(devices, list)
    title = f"Joint front of {run.info.name}"
    return joint_figure(points, [str(device) for device in devices], title=title, split=str(document["split"]))


def require_device(run: Run, device_id: str) -> None:
    """Refuse a device that the run knows nothing about.

    Raises:
        RunError: it was never profiled.
    """
    known = run.devices()
    if device_id not in known:
        raise RunError(
            f"run {run.path} knows no device {device_id!r}, its devices are: {', '.join(known)}",
            hint=f"nas profile {run.path} --device {device_id}",
        )


def front_warnings(
    front: ParetoFront, *, profile: dict[str, JSON] | None, unmeasured: Sequence[FrontPoint]
) -> list[str]:
    """What speaks against a front, in sentences.

    Args:
        front: the front.
        profile: of its device, None before profiling.
        unmeasured: verified candidates without a latency.
    """
    warnings = []
    if unmeasured:
        warnings.append(
            f"{len(unmeasured)} verified candidates are unmeasured because the device was dead: "
            f"`nas devices check {front.device_id}`, then `nas verify`"
        )
    elif front.provenance == PREDICTED and front.split == VERIFY:
        warnings.append("latencies are predicted, nothing was measured: search.measure is none")
    elif front.provenance == PREDICTED:
        warnings.append("latencies are predicted and accuracies are of the search split: run `nas verify`")
    if profile is not None and not profile["accepted"]:
        scores = profile["scores"]
        assert isinstance(scores, dict)
        warnings.append(
            f"the latency predictor's held-out error is {scores['mape_percent']:.1f} %, above the recipe's "
            f"{profile['max_mape_percent']:g} %: the search may have missed better candidates"
        )
    if suspect := sum(point.suspect for point in front.points):
        warnings.append(
            f"{suspect} of {len(front.points)} latencies are suspect: the host was not quiet while measuring"
        )
    return warnings


def front_page(run: Run, *, device: str | None = None) -> str:
    """The front as one self-contained HTML page."""
    front = run.front(device=device)
    return _page(_front_figure(run, front, device_id=front.device_id))


def _page(figure: go.Figure) -> str:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "page.html"
        write_html(figure, path)
        return path.read_text(encoding="utf-8")


def _front_figure(run: Run, front: ParetoFront, *, device_id: str) -> go.Figure:
    evaluations, verifications = run.evaluations_on(device_id), run.verifications()
    verb = "Verified" if front.provenance == "measured" else "Predicted"
    unmeasured = unmeasured_points(verifications, device_id=device_id)
    warned = front_warnings(front, profile=read_profile(run, device_id), unmeasured=unmeasured)
    return pareto_figure(
        [dict(point.to_json()) for point in front.points],
        evaluations,
        verified_rows(verifications, device_id=device_id),
        baselines=[dict(point.to_json()) for point in _baselines(run, front)],
        title=f"{verb} front of {run.info.name} on {device_id}" + (" (with warnings)" if warned else ""),
    )


def predictor_points(run: Run, device_id: str) -> pd.DataFrame:
    """Measured against predicted latency of every profiled subnet, as `predictor_figure` takes it."""
    rows = profiled_subnets(run, device_id=device_id)
    prediction = run.predictor(device_id).predict([Architecture.from_json(text) for text in rows["architecture"]])
    return pd.DataFrame(
        {
            "arch_id": rows["arch_id"].to_numpy(),
            "held_out": (rows["purpose"] == PROFILE_HELD_OUT).to_numpy(),
            "latency_ms": rows["latency_ms"].to_numpy(),
            "latency_low_ms": (rows["low"] / rows["p50"] * rows["latency_ms"]).to_numpy(),
            "latency_high_ms": (rows["high"] / rows["p50"] * rows["latency_ms"]).to_numpy(),
            "latency_predicted_ms": prediction.mean,
            "latency_predicted_low_ms": prediction.lower,
            "latency_predicted_high_ms": prediction.upper,
        }
    )


def _scores(run: Run, device_id: str) -> str:
    scores = run.predictor(device_id).scores
    if scores is None:
        return ""
    return (
        f"held out: mean error {scores.mape_percent:.1f} %, Spearman {scores.spearman:.3f}, Kendall "
        f"{scores.kendall:.3f}, {scores.within_5_percent:.0%} within 5 %, {scores.within_10_percent:.0%} within 10 %"
    )


def read_profile(run: Run, device_id: str) -> dict[str, JSON] | None:
    """The stored profile of a device, or None before profiling."""
    path = profile_path(run, device_id)
    if not path.exists():
        return None
    content = read_json(path)
    assert isinstance(content, dict), path
    return content


def write_report(run: Run) -> list[Path]:
    """Write pictures and tables into the run's `report` directory; returns the files, those to come later left out.

    The recipe's device has `pareto.json`, a further one `pareto-ID.json`, all together `pareto-joint.json`; likewise
    the pages.
    """
    directory = run.report_dir
    files = [run.recipe_path]
    if len(evaluations := run.evaluations()):
        path = directory / "hypervolume.html"
        values = hypervolume_by_evaluation(evaluations, device_id=run.info.device_id)
        write_html(hypervolume_figure(values, metric=str(evaluations["metric"].iloc[0])), path)
        files.append(path)
    for device_id in run.devices():
        files += _write_device_report(run, device_id)
    if len(run.devices()) > 1 and run.joint_front().points:
        path = directory / "pareto-joint.json"
        write_json(path, joint_document(run))
        write_html(_joint_figure(run), path.with_suffix(".html"))
        files += [path, path.with_suffix(".html")]
    return files


def _write_device_report(run: Run, device_id: str) -> list[Path]:
    ending = "" if device_id == run.info.device_id else f"-{device_id}"
    files = []
    if profile_path(run, device_id).exists():
        path = run.report_dir / f"predictor{ending}.html"
        title = f"Latency predictor of {run.info.name} on {device_id}"
        figure = predictor_figure(predictor_points(run, device_id), title=title, scores=_scores(run, device_id))
        write_html(figure, path)
        files.append(path)
    front = run.front(device=device_id)
    if front.points:
        path = run.report_dir / f"pareto{ending}.json"
        write_json(path, front_document(run, device=device_id))
        write_html(_front_figure(run, front, device_id=device_id), path.with_suffix(".html"))
        files += [path, path.with_suffix(".html")]
    if (promises := run_promises(run, device_id)).rows:
        path = run.report_dir / f"promises{ending}.html"
        write_html(_promise_figure(run, promises, device_id=device_id), path)
        files.append(path)
    return files


def _promise_figure(run: Run, promises: Promises, *, device_id: str) -> go.Figure:
    metric = str(run.verifications()["metric"].iloc[-1])
    title = f"Promised against found: {run.info.name} on {device_id}"
    return promise_figure(promises, metric=metric, title=title)


def run_view(
    run: Run,
    *,
    artifacts: list[Path],
    live: bool = False,
    ended: RunStatus | None = None,
    error: str | None = None,
) -> RunView:
    """Everything that a tracker mirrors, read from the run directory now.

    Args:
        run: the run.
        artifacts: files to show beside it.
        live: a stage is at work. The hypervolume is left out while the search runs: its reference point still moves,
            and trackers cannot take a value back.
        ended: how a command ended that did not reach its end; None: what the run directory says.
        error: what it failed with.
    """
    front = run.front()
    profile = read_profile(run, run.info.device_id)
    scores = profile["scores"] if profile is not None else {}
    assert isinstance(scores, dict)
    evaluations = run.evaluations()
    return RunView(
        run_id=run.info.run_id,
        name=run.info.name,
        recipe_yaml=run.recipe_path.read_text(encoding="utf-8"),
        history=TrainHistory(run.train_dir / HISTORY).rows(),
        evaluations=evaluations,
        verifications=run.verifications(),
        baselines=run.baseline_rows(),
        front=[dict(point.to_json()) for point in front.points] if front.provenance == "measured" else [],
        predictor_scores={key: float(str(value)) for key, value in scores.items() if value is not None},
        promises=run_promises(run, run.info.device_id).figures() if front.provenance == "measured" else {},
        hypervolume=() if live else hypervolume_by_evaluation(evaluations, device_id=run.info.device_id),
        artifacts=artifacts,
        tags={"space": run.space.space_id, "device": run.info.device_id, "run_dir": str(run.path)},
        status=ended or ("finished" if any(run.export_dir.glob("*/manifest.json")) else "running"),
        error=error,
    )


def to_json_text(document: dict[str, JSON]) -> str:
    """JSON text for standard output."""
    return json.dumps(document, indent=2, sort_keys=False)
