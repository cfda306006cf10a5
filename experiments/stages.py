"""The stages: each does only what is missing, reads what the former wrote, and can be run alone; see `search_stage`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from experiments.evaluated import current_evaluations, inherited_rows
from experiments.ray.trainer import train_on_ray
from experiments.ray.tune_refine import refine_on_ray
from experiments.reporter import Reporter
from experiments.session import Session, is_trained, require_trainable
from experiments.shared_supernet import take_over_supernet
from experiments.training_progress import following
from hardware.files import MANIFEST_NAME, has_manifest
from nas.accuracy import Accuracy, metric_label
from nas.baselines import adopted
from nas.candidate import Candidate
from nas.errors import CheckpointError, RunError
from nas.export import Exported, choose_point, export_candidate
from nas.formats import further_formats
from nas.near_front import NearFront, measure_near_front
from nas.pareto import unmeasured_points, verified_points
from nas.profile import ProfileSettings, profile_device, profile_path, told_quantities
from nas.refine import choose_for_refinement, read_refined
from nas.search.records import append_trained
from nas.soup import copy_dir
from nas.tables import NO_TRIAL
from nas.training.checkpoints import load_checkpoint
from nas.training.finished import CHECKPOINTS, finished_checkpoints
from nas.training.history import HistoryReader, TrainHistory
from nas.training.loop import HISTORY
from nas.verify import VERIFY, VerifySettings, choose_for_verification, verify_candidates
from predictors import PredictorError
from predictors.latency import LatencyPredictor
from searchspaces import Architecture

ClusterFactory = Callable[[], AbstractContextManager[object]]
"""Enters the Ray cluster that the stage needs; entering it again is cheap."""


def train_is_done(session: Session) -> bool:
    """Whether the supernet has all its epochs."""
    return is_trained(session.run, recipe=session.recipe)


def train(
    session: Session,
    *,
    cluster: ClusterFactory,
    reporter: Reporter,
    watching: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> bool:
    """Stage 1: train the supernet with Ray Train, from the newest checkpoint if there is one.

    Args:
        session: an open session.
        cluster: of the workers.
        reporter: hears of progress.
        watching: entered while workers train.

    Returns:
        Whether anything was left to do; so do the other stages.
    """
    recipe, run = session.recipe.train, session.run
    reporter.stage("train", text=f"supernet, {recipe.epochs} epochs of {len(session.workload.data.train):,} images")
    if train_is_done(session):
        load_checkpoint(run.checkpoint_dir(), expected={"space_id": run.space.space_id})
        reporter.done("finished before")
        return False
    if recipe.epochs == 0:
        reporter.done(f"that of {take_over_supernet(session)}, as it is")
        return True
    phases = require_trainable(session.recipe, space=run.space)
    history_path = run.train_dir / HISTORY
    with watching(), cluster(), following(HistoryReader(history_path), phases=phases, reporter=reporter):
        train_on_ray(
            run.path,
            num_workers=recipe.workers,
            threads_per_worker=recipe.threads_per_worker,
            use_gpu=recipe.use_gpu,
            storage=run.path / "ray",
        )
    last = TrainHistory(history_path).rows()[-1]
    text = f"last loss {last['loss']:.3f}"
    if "score" in last:
        label = metric_label(session.recipe.data.metric)
        text = (
            f"{label} of the largest subnet {last['accuracy_largest']:.1%}, of the smallest "
            f"{last['accuracy_smallest']:.1%}, on {min(recipe.validation_images, session.recipe.data.search)} of search"
        )
    reporter.done(text)
    return True


def require_trained(session: Session) -> None:
    """Refuse to build on a supernet that is still being trained.

    Raises:
        RunError: epochs are missing.
    """
    finished = finished_checkpoints(session.run.train_dir / CHECKPOINTS)
    if not train_is_done(session):
        done = int(finished[-1].name.removeprefix("epoch-")) if finished else 0
        raise RunError(
            f"the supernet of run {session.run.path} has {done} of {session.recipe.train.epochs} epochs",
            hint=f"nas train {session.run.path}",
        )


def profile(session: Session, *, reporter: Reporter) -> bool:
    """Stage 2: measure subnets and fit the latency predictor."""
    recipe = session.recipe.profile
    require_trained(session)
    reporter.stage("profile", text=f"{recipe.fit + recipe.held_out} subnets on {session.device_id}")
    if _is_profiled(session, reporter=reporter):
        reporter.done("finished before")
        return False
    predictor, found = profile_device(
        session.bench,
        settings=profile_settings(session),
        on_progress=reporter.progress,
        on_message=reporter.message,
        sources=profile_sources(session),
    )
    scores = found.scores
    reporter.message(f"predictor: {predictor.reasons}")
    reporter.done(
        f"held-out error {scores.mape_percent:.1f} % (Spearman {scores.spearman:.3f}, Kendall {scores.kendall:.3f}, "
        f"{scores.within_5_percent:.0%} within 5 %, {scores.within_10_percent:.0%} within 10 %, "
        f"{scores.coverage:.0%} inside their 90 % intervals)"
    )
    if not found.accepted:
        reporter.message(
            f"the predictor's error stays above the recipe's {found.max_mape_percent:g} %: the front will say so"
        )
    return True


def profile_near_front(session: Session, *, budget: int, reporter: Reporter) -> NearFront:
    """After a search: measure up to `budget` of its subnets whose place on the front is open, and refit predictors.

    Raises:
        RunError: the device is not profiled, or nothing is evaluated.
    """
    require_trained(session)
    session.run.predictor(session.device_id)
    reporter.stage("profile", text=f"up to {budget} subnets near the front on {session.device_id}")
    found = measure_near_front(
        session.bench,
        budget=budget,
        settings=profile_settings(session),
        on_progress=reporter.progress,
        on_message=reporter.message,
        sources=profile_sources(session),
    )
    why = "the front's ranking is settled" if found.settled else "the budget is used, the ranking still changes"
    reporter.done(f"{found.num_measured} measured: {why}; {len(found.front)} points")
    return found


def profile_settings(session: Session) -> ProfileSettings:
    """How the recipe has subnets measured and predictors fitted."""
    recipe = session.recipe.profile
    return ProfileSettings(
        fit=recipe.fit,
        held_out=recipe.held_out,
        max_measured=recipe.max_measured,
        max_mape_percent=recipe.max_mape_percent,
        protocol=recipe.protocol,
        seed=session.recipe.seed,
    )


def profile_sources(session: Session) -> list[LatencyPredictor]:
    """What a further device's predictor builds on: that of the recipe's device, if there is one."""
    run = session.run
    further = session.device_id != run.info.device_id
    return [run.predictor()] if further and has_manifest(run.predictor_dir(run.info.device_id)) else []


def _is_profiled(session: Session, *, reporter: Reporter) -> bool:
    """Whether the device has predictors, of all that its measurements tell, that this version can use."""
    run, device_id = session.run, session.device_id
    if not profile_path(run, device_id).exists():
        return False
    quantities = ["latency", *told_quantities(run, device_id=device_id)]
    stored = [has_manifest(run.predictor_dir(device_id, quantity=quantity)) for quantity in quantities]
    if not all(stored):
        return False
    try:
        for quantity in quantities:
            run.predictor(device_id, quantity=quantity)
    except PredictorError as e:
        # The measurements are all there: fitting takes a second.
        reporter.message(f"{e}: it is fitted again from the run's measurements")
        return False
    return True


def missing_refinements(session: Session) -> list[Architecture]:
    """Architectures around the front that have no fine-tuned candidate yet."""
    rows = current_evaluations(session)
    chosen = choose_for_refinement(rows, device_id=session.device_id, num=session.recipe.refine.candidates)
    tuned = [Candidate.from_row(row) for row in rows[rows["weights_kind"] == "fine-tuned"].to_dict("records")]
    done = {candidate.architecture.arch_id for candidate in tuned if session.run.candidates.has(candidate)}
    return [arch for arch in chosen if arch.arch_id not in done]


def refine(session: Session, *, cluster: ClusterFactory, reporter: Reporter) -> bool:
    """Stage 4: fine-tune candidates around the front as Ray Tune trials."""
    recipe = session.recipe.refine
    require_trained(session)
    if session.recipe.search.candidates == "train":
        reporter.stage("refine", text="nothing: the search fine-tunes its candidates")
        reporter.done("finished before")
        return False
    if not len(inherited_rows(session)):
        raise RunError(f"run {session.run.path} has no evaluated architectures", hint=f"nas search {session.run.path}")
    reporter.stage("refine", text=f"{recipe.candidates} candidates around the front, {recipe.epochs} epochs each")
    if not fine_tune(session, missing_refinements(session), cluster=cluster, reporter=reporter):
        reporter.done("finished before")
        return False
    reporter.done(_gain(session))
    return True


def fine_tune(
    session: Session,
    archs: Sequence[Architecture],
    *,
    cluster: ClusterFactory,
    reporter: Reporter,
    copies: int = 1,
) -> bool:
    """Fine-tune those of `archs` that are not yet, as Ray Tune trials, and append their rows; so many copies of each.

    Returns:
        Whether anything was left to do.

    Raises:
        CheckpointError: it failed for all of them.
    """
    recipe, run = session.recipe.refine, session.run
    # A trial may have finished just before the driver was killed.
    wanted = [(arch, copy_dir(run, arch.arch_id, number)) for arch in archs for number in range(copies)]
    missing = [(arch, directory) for arch, directory in wanted if not _record_refined(session, directory)]
    if not missing:
        return False
    jobs = [(arch.to_json(), directory) for arch, directory in missing]
    steps: dict[str, float] = {}
    total, label = len(missing) * recipe.epochs, metric_label(session.recipe.data.metric)

    def on_result(directory: str, result: dict[str, float]) -> None:
        steps[directory] = result["epoch"]
        reporter.progress(
            sum(steps.values()), total, text=f"{Path(directory).name}: {label} on search {result['accuracy']:.2%}"
        )

    with cluster():
        errors = refine_on_ray(
            run.path,
            jobs=jobs,
            max_concurrent=recipe.workers,
            threads_per_trial=1,
            storage=run.path / "ray",
            on_result=on_result,
        )
    failed = [directory for _, directory in missing if not _record_refined(session, directory)]
    for directory in failed:
        reporter.message(f"fine-tuning {directory.name} failed: {errors.get(str(directory))}")
    if len(failed) == len(missing):
        first = errors.get(str(failed[0]))
        raise CheckpointError(
            f"fine-tuning failed for all {len(failed)} candidates; the first one: {first}",
            hint=f"correct the cause and run the same command on {run.path} again",
        )
    return True


def _record_refined(session: Session, directory: Path) -> bool:
    """Append the row of a finished fine-tuning; False while it is not finished."""
    refined = read_refined(directory)
    if refined is None or not session.run.candidates.has(refined.candidate):
        return False
    record_trained(session, refined.candidate, accuracy=refined.accuracy, seconds=refined.seconds)
    return True


def record_trained(session: Session, candidate: Candidate, *, accuracy: Accuracy, seconds: float) -> None:
    """Append the row of a candidate with weights of its own, unless there is one."""
    price = session.pricer.price([candidate.architecture])[0]
    append_trained(session.run, candidate, accuracy=accuracy, price=price, trial_number=NO_TRIAL, seconds=seconds)


def _gain(session: Session) -> str:
    """The gain of fine-tuning over inherited weights, on the search split."""
    rows = session.run.evaluations()
    inherited = inherited_rows(session).set_index("arch_id")["accuracy"]
    tuned = rows[rows["weights_kind"] == "fine-tuned"].drop_duplicates("arch_id", keep="last")
    gains = 100 * (tuned["accuracy"] - tuned["arch_id"].map(inherited))
    return (
        f"{len(gains)} candidates fine-tuned; gain over inherited weights {gains.mean():+.2f} points on average "
        f"({gains.min():+.2f} ... {gains.max():+.2f}, on search)"
    )


def verify(session: Session, *, reporter: Reporter) -> bool:
    """Stage 5: measure and evaluate the front's candidates.

    Raises:
        DeadDeviceError: the device does not measure; accuracies are in the table, without latencies.
    """
    recipe, run = session.recipe.verify, session.run
    require_trained(session)
    evaluations = current_evaluations(session)
    if not len(evaluations):
        raise RunError(f"run {run.path} has no evaluated architectures", hint=f"nas search {run.path}")
    chosen = choose_for_verification(evaluations, space=run.space, device_id=session.device_id, num=recipe.candidates)
    measure = session.recipe.search.measure != "none"
    where = f"on {session.device_id} and on" if measure else "on"
    baselines, left_out = adopted(run.baselines, data=session.workload.data, device=session.device)
    beside = f" and {len(baselines)} baselines" if baselines else ""
    reporter.stage("verify", text=f"{len(chosen)} candidates{beside} {where} the verify split")
    for sentence in left_out:
        reporter.message(sentence)
    settings = VerifySettings(
        candidates=recipe.candidates, protocol=recipe.protocol, seed=session.recipe.seed, measure=measure
    )
    verified = verify_candidates(
        session.bench,
        [*(session.bench.twin(candidate) for candidate in chosen), *baselines],
        evaluations=evaluations,
        pricer=session.pricer,
        settings=settings,
        on_progress=reporter.progress,
    )
    if verified.dead is not None:
        num = len(unmeasured_points(run.verifications(), device_id=session.device_id))
        reporter.message(f"the device is dead: accuracies are verified, {num} points are marked as unmeasured")
        raise verified.dead
    found = _verified_front(session)
    reporter.done(found if verified.num_new else f"finished before; {found}")
    return bool(verified.num_new)


def _verified_front(session: Session) -> str:
    """What verification came to."""
    run, device_id = session.run, session.device_id
    front = run.front(device=device_id)
    if front.split != VERIFY:
        limits = ", ".join(str(limit) for limit in run.limits(device_id))
        return f"no verified candidate is within {limits}"
    spans = [point.latency_ms for point in front.points]
    of = "" if front.provenance == "measured" else f" ({front.provenance} latencies)"
    return f"verified front of {len(front.points)} points over a latency span of {max(spans) / min(spans):.2f}{of}"


def require_formats(session: Session, *, formats: Sequence[str] | None) -> None:
    """Refuse formats that cannot be written here before hours are spent; an export may have been made elsewhere.

    Raises:
        DeviceError: unknown format or precision, or a runtime that is missing.
    """
    if any(session.run.export_dir.glob(f"*/{MANIFEST_NAME}")):
        return
    for one in further_formats(_asked_for(session, formats=formats), device=session.device):
        one.device(like=session.device)


def export(
    session: Session, *, reporter: Reporter, arch_id: str | None = None, formats: Sequence[str] | None = None
) -> Exported:
    """Stage 6: write the knee of the verified front, or the point of an architecture.

    Args:
        session: an open session.
        reporter: hears of progress.
        arch_id: whose point; None for the knee.
        formats: of the files beside that of the run's own device, "onnx-int8" for example; None for the recipe's.
    """
    run = session.run
    verified = run.verifications()
    everything = verified_points(verified, device_id=session.device_id)
    point = choose_point(run.front(), verified=everything, arch_id=arch_id, limits=run.limits(session.device_id))
    asked = _asked_for(session, formats=formats)
    further = [one.key for one in further_formats(asked, device=session.device)]
    reporter.stage("export", text=", ".join([f"candidate {point.candidate} for {session.device_id}", *further]))
    row = verified[verified["candidate_id"] == point.candidate].iloc[-1]
    exported = export_candidate(
        session.bench,
        point=point,
        candidate=Candidate.from_row(row.to_dict()),
        protocol=session.recipe.verify.protocol,
        seed=session.recipe.seed,
        on_progress=reporter.progress,
        formats=asked,
    )
    reporter.done(f"written to {exported.directory}")
    return exported


def _asked_for(session: Session, *, formats: Sequence[str] | None) -> Sequence[str]:
    return session.recipe.export.formats if formats is None else formats
