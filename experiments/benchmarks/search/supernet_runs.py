"""Searches of one trained supernet, each in a run directory of its own, with the real loop and the real device.

What they share lies beside them: the accuracies (`kept_scores`), a run whose device is profiled, and one that holds the
measurements that all are judged by. Whatever is finished is not done again.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import optuna
import pandas as pd

from experiments.active_search import ActiveSearch
from experiments.benchmarks.search.device_cost import Cost, Measured
from experiments.benchmarks.search.kept_scores import KeptScores
from experiments.evaluated import inherited_rows, known_evaluations
from experiments.reporter import SilentReporter
from experiments.session import Session
from experiments.workload import load_workload
from hardware.fleet import FLEET_FILE
from hardware.lease import UnitLock
from nas.device_seconds import device_sessions, seconds_by_purpose
from nas.evaluation import SubnetJudge
from nas.pricing import search_limits
from nas.profile import SEARCH, ProfileSettings, measure_missing, profile_device, profile_path, profiled_subnets
from nas.run import open_run
from nas.search.loop import run_search
from nas.search.pool import EvaluationPool, SerialPool, SubnetScore
from nas.search.records import record_evaluated
from nas.search.settings import SamplerName, SearchSettings
from nas.search.stopping import Rivals
from nas.search.study import open_study
from searchspaces import Architecture

_OF_A_RUN = ("run.json", "recipe.yaml", "data.json", FLEET_FILE, "train")
_TRUTH = "truth"
_MOST_VERIFIED = 10_000
Say = Callable[[str], None]


class SupernetRuns:
    """Run directories with the same trained supernet.

    Args:
        source: a run with a trained supernet; it is only read.
        directory: of the runs and of what they share.
        say: told what goes on.

    Raises:
        RunError: nothing is trained yet, or `source` is no run.
    """

    def __init__(self, source: Path, *, directory: Path, say: Say) -> None:
        self._source, self._directory, self._say = source, directory, say
        self._workload = load_workload(source)
        data = self._workload.data
        self._verified_on = data.verify.first(_MOST_VERIFIED)
        self.search_split, self.verify_split = f"search-{len(data.search)}", f"verify-{len(self._verified_on)}"
        self._scores = KeptScores(
            directory / "judged.jsonl",
            weights=self._workload.run.checkpoint_sha256(),
            judges={
                self.search_split: self._search_judge,
                self.verify_split: self._verify_judge,
            },
        )
        recipe = self._workload.recipe
        self._profile = ProfileSettings(
            fit=recipe.profile.fit,
            held_out=recipe.profile.held_out,
            # The searches are to differ in what they measure afterwards.
            max_measured=recipe.profile.fit + recipe.profile.held_out,
            max_mape_percent=recipe.profile.max_mape_percent,
            protocol="quick",
            seed=recipe.seed,
        )
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def facts(self) -> dict[str, str | int]:
        """What the figures are about."""
        run = self._workload.run
        return {
            "space_id": run.space.space_id,
            "checkpoint": run.checkpoint_sha256()[:12],
            "search_split": self.search_split,
            "verify_split": self.verify_split,
            "protocol": self._profile.protocol,
            "device": self._workload.device.spec.device_id,
        }

    def profiled(self, name: str, *, share: float) -> Cost:
        """Profile the device in the run `name`, with a share of the recipe's subnets; returns what that took."""
        settings = self._profile_settings(share)
        session = self._session(name)
        run, device_id = session.run, session.device_id
        if not profile_path(run, device_id).exists():
            _, profile = profile_device(
                session.bench, settings=settings, on_progress=lambda *_: None, on_message=self._say
            )
            error = profile.scores.mape_percent
            self._say(f"{name}: {profile.num_fit} subnets fitted, {profile.num_held_out} held out, error {error:.1f} %")
        return Cost(
            subnets=len(profiled_subnets(run, device_id=device_id)), seconds=sum(self._seconds(session).values())
        )

    def searched(self, sampler: str, *, profiled: str, seed: int, evaluations: int) -> pd.DataFrame:
        """Rows of a search by predicted latency, in the order of evaluation; see `Run.evaluations`.

        Args:
            sampler: who proposes.
            profiled: the run whose predictor says the latencies.
            seed: of the sampler.
            evaluations: unique architectures.
        """
        session = self._session(f"{sampler}-seed{seed}", like=profiled)
        run, settings = session.run, self._settings(sampler, seed=seed, evaluations=evaluations)
        known = known_evaluations(session)
        if len(known) < evaluations:
            study = open_study(run.study_path, name=run.info.name, pricer=session.pricer, settings=settings)
            with self._pool() as pool:
                run_search(
                    study,
                    pricer=session.pricer,
                    pool=pool,
                    settings=settings,
                    known=known,
                    record=partial(record_evaluated, session.run, inherit=session.bench.inherit),
                    on_progress=lambda *_: None,
                )
            self._say(f"{run.path.name}: {evaluations} evaluations, {len(self._scores)} judgements are kept")
        return inherited_rows(session).head(evaluations)

    def actively_searched(
        self, *, profiled: str, share: float, seed: int, evaluations: int
    ) -> tuple[pd.DataFrame, Cost]:
        """A search that measures by turns (`search.measure: active`), within as many device seconds as profiling took.

        Args:
            profiled: the run that it goes on from.
            share: of the recipe's subnets that were measured there.
            seed: of the sampler.
            evaluations: unique architectures.

        Returns:
            Its rows, with the latencies that are predicted in the end, and what measuring while searching took.
        """
        session = self._session(f"active-seed{seed}", like=profiled)
        active = ActiveSearch(
            session,
            settings=self._settings("surrogate", seed=seed, evaluations=evaluations),
            profile=self._profile_settings(share),
            sources=(),
            known=lambda: known_evaluations(session),
            rivals=Rivals,
            record=partial(record_evaluated, session.run, inherit=session.bench.inherit),
            used_up=lambda: None,
            reporter=SilentReporter(),
        )
        if not active.is_done():
            ended = active.run(pool=self._pool)
            self._say(f"{session.run.path.name}: {ended}")
        records = session.run.measurements_table(session.device_id).read()
        num = int((records["purpose"] == SEARCH).sum())
        cost = Cost(subnets=num, seconds=self._seconds(session).get(SEARCH, 0.0))
        return inherited_rows(session).head(evaluations), cost

    def measured(self, archs: Sequence[Architecture]) -> Measured:
        """Measure subnets, as far as they are not yet, in interleaved sessions that share a reference network."""
        session = self._session(_TRUTH)
        run, device_id = session.run, session.device_id
        known = len(run.measurements_table(device_id))
        purposes = dict.fromkeys(archs, SEARCH)
        measure_missing(session.bench, purposes, settings=self._profile, on_progress=lambda *_: None)
        rows = profiled_subnets(run, device_id=device_id)
        if len(run.measurements_table(device_id)) > known:
            self._say(f"{len(archs)} subnets measured, {int(rows['suspect'].sum())} of {len(rows)} are suspect")
        wanted = rows[rows["arch_id"].isin([arch.arch_id for arch in archs])]
        return Measured(
            latency_ms=dict(zip(wanted["arch_id"], wanted["latency_ms"].astype(float), strict=True)),
            num_suspect=int(wanted["suspect"].sum()),
            cost=Cost(subnets=len(rows), seconds=self._seconds(session).get(SEARCH, 0.0)),
        )

    def verified(self, archs: Sequence[Architecture]) -> Mapping[str, float]:
        """Accuracies on the verify split, by arch_id."""
        scores = self._scores.judge(archs, split=self.verify_split)
        return {score.arch_id: score.accuracy.value for score in scores}

    def _session(self, name: str, *, like: str | None = None) -> Session:
        """The run `name`; at first it has the supernet, and whatever the run `like` has."""
        path = self._directory / "runs" / name
        if not path.exists():
            source = self._source if like is None else path.with_name(like)
            half = path.with_name(f".{name}")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(source, half, ignore=partial(_unwanted, source) if like is None else None)
            half.rename(path)
        workload = replace(self._workload, run=open_run(path))
        return Session(recipe=workload.recipe, workload=workload, device=workload.device)

    def _settings(self, sampler: str, *, seed: int, evaluations: int) -> SearchSettings:
        recipe = self._workload.recipe.search
        return SearchSettings(
            sampler=cast(SamplerName, sampler),
            evaluations=evaluations,
            population=recipe.population,
            subnets_per_task=recipe.subnets_per_task,
            limits=search_limits(recipe.limits.model_dump()),
            seed=seed,
        )

    def _profile_settings(self, share: float) -> ProfileSettings:
        fit, held_out = (max(1, round(share * num)) for num in (self._profile.fit, self._profile.held_out))
        return replace(self._profile, fit=fit, held_out=held_out, max_measured=fit + held_out)

    @contextmanager
    def _pool(self) -> Iterator[EvaluationPool]:
        yield SerialPool(partial(self._scores.judge, split=self.search_split))

    def _search_judge(self, archs: Sequence[Architecture]) -> tuple[SubnetScore, ...]:
        with self._computing():
            return self._workload.subnet_judge.judge(archs)

    def _verify_judge(self, archs: Sequence[Architecture]) -> tuple[SubnetScore, ...]:
        with self._computing():
            return self._verifying.judge(archs)

    @cached_property
    def _verifying(self) -> SubnetJudge:
        """Judges on the verify split as if it were the search split."""
        workload = self._workload
        return SubnetJudge(
            workload.run.supernet(),
            data=replace(workload.data, search=self._verified_on),
            recalibration_images=workload.recipe.train.recalibration_images,
            seed=workload.recipe.seed,
        )

    def _computing(self) -> AbstractContextManager[object]:
        """Nobody measures while something is judged."""
        unit = self._workload.device.spec.physical_unit()
        return UnitLock(unit).computing(owner="search benchmark: accuracies")

    def _seconds(self, session: Session) -> dict[str, float]:
        records = session.run.measurements_table(session.device_id).read()
        return seconds_by_purpose(device_sessions(records, taken=session.run.sessions_table.read()))


def _unwanted(source: Path, folder: str, names: Sequence[str]) -> list[str]:
    """Of a run's own directory, all but what a further search of its supernet needs."""
    return [name for name in names if name not in _OF_A_RUN] if Path(folder) == source else []
