"""Stage 3 with `search.candidates: train`: what is proposed is fine-tuned, then judged, as Ray Tune trials."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd

from experiments.evaluated import ended_before, predicted_front_text
from experiments.ray.tune_search import train_on_ray_tune
from experiments.reporter import Reporter
from experiments.session import Session
from nas.accuracy import metric_label
from nas.pricing import Price
from nas.refine import Refined, read_refined
from nas.run import Run
from nas.search.proposals import Proposals
from nas.search.records import append_trained, evaluation_row, known_values, stopped_row
from nas.search.settings import SearchSettings
from nas.search.study import Values, open_study
from nas.search.training import Trained, TrainingSearch
from nas.tables import NO_TRIAL
from searchspaces import Architecture


def search_by_training(
    session: Session,
    *,
    settings: SearchSettings,
    stopped: pd.DataFrame,
    used_up: Callable[[], str | None],
    cluster: Callable[[], AbstractContextManager[object]],
    reporter: Reporter,
    on_rows: Callable[[], None],
) -> bool:
    """Fine-tune what the study proposes until enough is known; goes on from study, tables and directories.

    The study is one of its own, for each number of epochs: other weights of an architecture have other accuracies.

    Args:
        session: an open session with a trained supernet and a profile.
        settings: of the search.
        stopped: rows of what was stopped among fine-tunings of as many epochs, and still counts.
        used_up: says that the search's time is over, see `nas.search.proposals.Proposals`.
        cluster: enters the Ray cluster.
        reporter: hears of progress.
        on_rows: called when tables have grown.

    Returns:
        Whether anything was left to do.
    """
    recipe, run = session.recipe.search, session.run
    finished = _finished(session, settings=settings)
    prices = {arch_id: session.pricer.price([one.candidate.architecture])[0] for arch_id, one in finished.items()}
    # A trial may have finished just before the driver was killed.
    recorded = [_record(run, one, price=prices[arch_id], trial_number=NO_TRIAL) for arch_id, one in finished.items()]
    known = known_values(run.evaluations().iloc[:0], stopped)
    known |= {
        arch_id: Values(
            accuracy=one.accuracy.value,
            latency_ms=prices[arch_id].latency_predicted_ms,
            architecture=one.candidate.architecture,
        )
        for arch_id, one in finished.items()
    }
    study = open_study(
        run.study_path,
        name=f"{run.info.name}-train-{recipe.epochs}",
        pricer=session.pricer,
        settings=settings,
        elsewhere=session.latencies_elsewhere,
    )
    wanted = min(settings.evaluations, run.space.size)
    if (why := ended_before(session, known, wanted=wanted, used_up=used_up)) is not None:
        study.recover(known)
        reporter.done(why)
        return any(recorded)
    label, told = metric_label(session.recipe.data.metric), ""

    def record(trained: Trained) -> None:
        nonlocal told
        if trained.refined is not None:
            _record(run, trained.refined, price=trained.price, trial_number=trained.trial_number)
        if trained.stopped is not None:
            row = evaluation_row(
                session.bench.inherit(trained.architecture),
                accuracy=trained.accuracy,
                price=trained.price,
                trial_number=trained.trial_number,
                seconds=trained.seconds,
            )
            run.stopped_table.append([stopped_row(row, trained.stopped)])
        end = f"stopped after epoch {trained.stopped.epoch}, " if trained.stopped else ""
        told = f"{trained.architecture.arch_id}: {end}{label} on search {trained.accuracy.value:.2%}"
        on_rows()

    search = TrainingSearch(
        Proposals(study, pricer=session.pricer, settings=settings, known=known, used_up=used_up),
        directory_of=lambda arch: _directory(session, arch),
        epochs=recipe.epochs,
        metric=session.recipe.data.metric,
        confidence=settings.early_stopping,
        max_concurrent=recipe.workers,
        finished=finished,
        record=record,
        on_progress=lambda done, wanted: reporter.progress(done, wanted, text=told),
    )
    with cluster():
        train_on_ray_tune(
            run.path,
            search=search,
            epochs=recipe.epochs,
            cpus_per_trial=recipe.cpus_per_trial,
            gpus_per_trial=recipe.gpus_per_trial,
            storage=run.path / "ray",
        )
    ended = search.ended()
    if num_stopped := search.num_stopped:
        ended += f", {num_stopped} of them stopped early"
    reporter.done(f"{ended}; {predicted_front_text(session)}")
    return True


def _directory(session: Session, arch: Architecture) -> Path:
    return session.run.trained_dir(arch.arch_id, epochs=session.recipe.search.epochs).resolve()


def _finished(session: Session, *, settings: SearchSettings) -> dict[str, Refined]:
    """What earlier calls fine-tuned to the end for as many epochs, and the limits allow, by architecture."""
    found = {}
    for directory in sorted(_directory(session, session.run.space.smallest).parent.glob("*")):
        refined = read_refined(directory)
        if refined is None or not session.run.candidates.has(refined.candidate):
            continue
        price = session.pricer.price([refined.candidate.architecture])[0]
        if all(limit.violation(price.cost(limit.name)) <= 0 for limit in settings.limits):
            found[refined.candidate.architecture.arch_id] = refined
    return found


def _record(run: Run, refined: Refined, *, price: Price, trial_number: int) -> bool:
    return append_trained(
        run,
        refined.candidate,
        accuracy=refined.accuracy,
        price=price,
        trial_number=trial_number,
        seconds=refined.seconds,
    )
