"""Stage 3: the search, with inherited weights on a pool of Ray actors, or by training as Ray Tune trials."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import optuna

from experiments.active_search import ActiveSearch
from experiments.evaluated import ended_before, inherited_rows, known_evaluations, predicted_front_text, stopped_rows
from experiments.limit_notes import limit_notes
from experiments.ray.pool import RayEvaluationPool
from experiments.reporter import Reporter
from experiments.search_clock import SearchClock
from experiments.session import Session
from experiments.shared_supernet import reusable_accuracies
from experiments.stages import ClusterFactory, profile_settings, profile_sources, require_trained
from experiments.train_candidates import search_by_training
from nas.errors import RunError
from nas.pricing import require_reachable
from nas.run_accuracy import run_accuracy_predictor
from nas.search.loop import Evaluated, run_search
from nas.search.pool import EvaluationPool
from nas.search.records import known_rivals, record_evaluated
from nas.search.reuse import ReusingPool
from nas.search.settings import SearchSettings
from nas.search.stopping import Rivals
from nas.search.study import open_study


def search(session: Session, *, cluster: ClusterFactory, reporter: Reporter, on_rows: Callable[[], None]) -> bool:
    """Stage 3: let Optuna propose, judge on a pool of Ray actors or train as Ray Tune trials, remember everything."""
    recipe, run = session.recipe.search, session.run
    require_trained(session)
    clock = SearchClock(session)
    text = f"{recipe.sampler}, {recipe.evaluations} architectures of {run.space.size:,}"
    if recipe.sampler == "surrogate" and (further := len(session.latencies_elsewhere)):
        text += f", for {1 + further} devices"
    if recipe.candidates == "train":
        text += f", each fine-tuned for {recipe.epochs} epochs"
    reporter.stage("search", text=text)
    settings = SearchSettings(
        sampler=recipe.sampler,
        evaluations=recipe.evaluations,
        population=recipe.population,
        subnets_per_task=recipe.subnets_per_task,
        limits=session.limits,
        seed=session.recipe.seed,
        early_stopping=recipe.early_stopping,
    )
    pricer = session.pricer
    for text in limit_notes(session):
        reporter.message(text)
    require_reachable(run.space, costs=pricer.costs, limits=settings.limits, seed=settings.seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if recipe.candidates == "train":
        return search_by_training(
            session,
            settings=settings,
            stopped=stopped_rows(session, of_epochs=recipe.epochs),
            used_up=clock.used_up,
            cluster=cluster,
            reporter=reporter,
            on_rows=on_rows,
        )
    reusable = reusable_accuracies(session, reporter=reporter)

    def record(evaluated: Sequence[Evaluated]) -> None:
        record_evaluated(run, evaluated, inherit=session.bench.inherit)
        on_rows()

    @contextmanager
    def pool() -> Iterator[EvaluationPool]:
        with cluster():
            workers = RayEvaluationPool(
                run.path, num_workers=recipe.workers, threads_per_worker=1, weights=run.supernet_weights()
            )
            reusing = ReusingPool(workers, known=reusable)
            try:
                yield reusing
            finally:
                workers.close()
                if recipe.cache:
                    reporter.message(
                        f"{reusing.num_reused} evaluations were taken from search.cache, which has {len(reusable)}"
                    )

    if recipe.measure == "active":
        active = ActiveSearch(
            session,
            settings=settings,
            profile=profile_settings(session),
            sources=profile_sources(session),
            known=lambda: known_evaluations(session),
            rivals=lambda: _rivals(session),
            record=record,
            used_up=clock.used_up,
            reporter=reporter,
        )
        if active.is_done():
            reporter.done("finished before")
            return False
        ended = active.run(pool=pool)
    else:
        known, wanted = known_evaluations(session), min(settings.evaluations, run.space.size)
        study = open_study(
            run.study_path,
            name=run.info.name,
            pricer=pricer,
            settings=settings,
            elsewhere=session.latencies_elsewhere,
        )
        if (why := ended_before(session, known, wanted=wanted, used_up=clock.used_up)) is not None:
            study.recover(known)
            reporter.done(why)
            return False
        with pool() as workers:
            ended = run_search(
                study,
                pricer=pricer,
                pool=workers,
                settings=settings,
                known=known,
                record=record,
                on_progress=reporter.progress,
                used_up=clock.used_up,
                rivals=_rivals(session),
            )
    if num_stopped := len(stopped_rows(session)):
        ended += f", {num_stopped} of them stopped early"
    with suppress(RunError):  # too few evaluations, as of a run for trying out
        run_accuracy_predictor(run)
    reporter.done(f"{ended}; {predicted_front_text(session)}")
    return True


def _rivals(session: Session) -> Rivals:
    return known_rivals(inherited_rows(session), session.run.answers_table.read())
