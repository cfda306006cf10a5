"""A run's mirror in MLflow: one parent run, a child run for each candidate; made again whenever something is missing.

Calls go through `MlflowClient` with explicit run ids: no active run, nothing global, and several times faster than
the fluent interface. Whatever is there already is compared with what should be there, and only the difference is
logged: a sync after a crash, or after runs were deleted, completes the mirror, and a second one changes nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from experiments.errors import TrackingError
from experiments.tracking.connection import connect, explained, find_place
from experiments.tracking.model_directory import assemble_model
from experiments.tracking.notes import describe_run
from experiments.tracking.rows import CandidateRecord, candidate_records, finite, recipe_params, short_tag
from hardware.clock import Clock, SystemClock
from hardware.files import sha256_file
from nas.tracking import RegisteredModel, RunView

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_TAG = "archsmith.run_id"
KIND_TAG = "archsmith.kind"
CANDIDATE_TAG = "archsmith.candidate_id"
SHA256_TAG = "archsmith.onnx_sha256"
ERROR_TAG = "archsmith.error"

_PARENT_TAG = "mlflow.parentRunId"
_NOTE_TAG = "mlflow.note.content"
_PAGE = 1_000
_METRICS_PER_CALL = 500
_PARAMS_PER_CALL = 90

_T = TypeVar("_T")

Point = tuple[str, float, int]
"""A metric's name, value and step."""


class MlflowTracker:
    """The Tracker for MLflow: an SQLite file of the run's own, any database that MLflow speaks, or a server."""

    def __init__(
        self, directory: Path, *, uri: str | None = None, experiment: str = "archsmith", clock: Clock | None = None
    ) -> None:
        """Nothing is opened yet.

        Args:
            directory: folder for the database and artifacts when there is no server.
            uri: MLflow tracking address; None: SQLite in `directory`.
            experiment: name of the MLflow experiment, shared by runs at one address.
            clock: the time of values that replace others.

        Raises:
            TrackingError: an address of a kind that is not supported.
        """
        self._place = find_place(uri, directory=directory)
        self._experiment = experiment
        self._clock: Clock = clock or SystemClock()
        self._opened: tuple[MlflowClient, str] | None = None
        self._curves: _Curves | None = None

    @property
    def uri(self) -> str:
        """MLflow's address, as `mlflow server --backend-store-uri` takes it. It may hold a password."""
        return self._place.uri

    def sync(self, view: RunView) -> None:
        """Make MLflow show `view`; see `nas.tracking.Tracker`.

        Raises:
            TrackingError: MLflow is unreachable, damaged or refuses a value.
        """
        client, experiment_id = self._open()
        with explained(self._place, action=f"show run {view.name!r}"):
            parent = self._find_run(view.run_id) or client.create_run(
                experiment_id, run_name=view.name, tags={RUN_TAG: view.run_id, KIND_TAG: "run"}
            )
            self._sync_parent(parent, view=view)
            self._sync_children(parent, records=candidate_records(view.evaluations, view.verified_rows))
            self._sync_artifacts(parent, view=view)
            status = view.status.upper()  # MLflow has the same four
            if status == "RUNNING" and parent.info.status != status:
                client.update_run(parent.info.run_id, status=status)
            elif parent.info.status != status:
                client.set_terminated(parent.info.run_id, status=status)

    def page(self, run_id: str) -> str | None:
        """Path of the run's page below MLflow's address; None if the run was never synced."""
        _, experiment_id = self._open()
        with explained(self._place, action="look for the run"):
            parent = self._find_run(run_id)
        return None if parent is None else f"/#/experiments/{experiment_id}/runs/{parent.info.run_id}"

    def register(
        self, model_dir: Path, *, run_id: str, name: str, alias: str, tags: Mapping[str, str]
    ) -> RegisteredModel:
        """Register an exported model; see `nas.tracking.Tracker`.

        MLflow gets the very bytes of the ONNX file (its own `log_model` would write it anew), in its ONNX flavour, so
        that `mlflow.onnx.load_model` and `mlflow.pyfunc.load_model` read it and the checksum on the card holds.

        Raises:
            TrackingError: the run was not synced, `model_dir` does not hold exactly one ONNX file, or MLflow fails.
            StorageError, MeasurementError: the files in `model_dir` are damaged, or not a model with one fixed input.
        """
        client, _ = self._open()
        with explained(self._place, action=f"register {name!r}"), assemble_model(model_dir) as model:
            parent = self._find_run(run_id)
            if parent is None:
                raise TrackingError(
                    f"MLflow at {self._place.shown_uri} does not know run {run_id}", hint="Run `nas sync RUN` first."
                )
            _create_registered_model(client, name=name)
            version = self._find_version(name, sha256=model.sha256, run_id=run_id)
            if version is None:
                artifact_path = f"models/{model.sha256[:12]}"
                client.log_artifacts(parent.info.run_id, str(model.directory), artifact_path)
                version = client.create_model_version(
                    name,
                    source=f"{parent.info.artifact_uri}/{artifact_path}",
                    run_id=parent.info.run_id,
                    tags={SHA256_TAG: model.sha256, RUN_TAG: run_id}
                    | {key: short_tag(value) for key, value in tags.items()},
                ).version
            client.set_registered_model_alias(name, alias, str(version))
        return RegisteredModel(name=name, version=str(version), alias=alias)

    def _open(self) -> tuple["MlflowClient", str]:
        """The client and the id of our experiment; opened on first use, and again after a failure."""
        if self._opened is None:
            client = connect(self._place)
            with explained(self._place, action=f"open experiment {self._experiment!r}"):
                self._opened = client, self._find_experiment(client)
        return self._opened

    def _find_experiment(self, client: "MlflowClient") -> str:
        from mlflow.exceptions import MlflowException

        location = self._place.artifact_location
        found = client.get_experiment_by_name(self._experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"MLflow at {self._place.shown_uri}: experiment {self._experiment!r} was deleted",
                hint=f"Restore it (`mlflow experiments restore --experiment-id {found.experiment_id}`), or set "
                "tracking.experiment to another name.",
            )
        if found is not None and self._place.embedded and found.artifact_location != location:
            # The run directory was moved or copied: MLflow keeps absolute paths, so the old pages lead nowhere (or,
            # worse, into the original). They stay under another name, and the mirror is made anew where we are.
            client.rename_experiment(found.experiment_id, f"{self._experiment} (moved, {found.experiment_id})")
            found = None
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(self._experiment, artifact_location=location))
        except MlflowException:
            # Another run may have created it in this moment; anything else is raised again.
            found = client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def _search(self, filter_string: str) -> Iterator["Run"]:
        client, experiment_id = self._open()
        token: str | None = None
        while True:
            page = client.search_runs(
                [experiment_id],
                filter_string=filter_string,
                max_results=_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _find_run(self, run_id: str) -> "Run | None":
        return next(self._search(f"tags.`{RUN_TAG}` = '{run_id}' AND tags.`{KIND_TAG}` = 'run'"), None)

    def _find_version(self, name: str, *, sha256: str, run_id: str) -> str | None:
        client, _ = self._open()
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get(SHA256_TAG) == sha256 and version.tags.get(RUN_TAG) == run_id:
                return str(version.version)
        return None

    def _sync_parent(self, parent: "Run", *, view: RunView) -> None:
        client, _ = self._open()
        tags = {_NOTE_TAG: describe_run(view)} | {key: short_tag(value) for key, value in view.tags.items()}
        if view.error is not None:
            tags[ERROR_TAG] = short_tag(view.error)
        elif ERROR_TAG in parent.data.tags:
            client.delete_tag(parent.info.run_id, ERROR_TAG)
        self._log_difference(
            parent,
            params=recipe_params(view.recipe_yaml),
            metrics=finite(dict(view.predictor_scores), prefix="predictor_")
            | finite(dict(view.promises), prefix="verified_"),
            tags=tags,
            timestamp_ms=parent.info.start_time,
        )
        self._log_series(parent, points=_series(view))

    def _sync_children(self, parent: "Run", *, records: Sequence[CandidateRecord]) -> None:
        client, experiment_id = self._open()
        children = {
            child.data.tags.get(CANDIDATE_TAG): child
            for child in self._search(f"tags.`{_PARENT_TAG}` = '{parent.info.run_id}'")
        }
        for record in records:
            child = children.get(record.candidate_id) or client.create_run(
                experiment_id,
                start_time=record.timestamp_ms or None,
                run_name=record.name,
                tags={
                    _PARENT_TAG: parent.info.run_id,
                    KIND_TAG: "candidate",
                    CANDIDATE_TAG: record.candidate_id,
                },
            )
            self._log_difference(
                child,
                params=record.params,
                metrics=record.metrics,
                tags=record.tags,
                timestamp_ms=record.timestamp_ms,
            )
            if child.info.status != "FINISHED":
                client.set_terminated(child.info.run_id, end_time=record.timestamp_ms or None)

    def _sync_artifacts(self, parent: "Run", *, view: RunView) -> None:
        client, _ = self._open()
        digests = {path.name: sha256_file(path) for path in view.artifacts}
        digests["recipe.yaml"] = hashlib.sha256(view.recipe_yaml.encode()).hexdigest()
        known = parent.data.tags
        paths = {path.name: path for path in view.artifacts}
        for name, digest in digests.items():
            tag = f"archsmith.artifact.{name}"
            if known.get(tag) == digest:
                continue
            if name in paths:
                client.log_artifact(parent.info.run_id, str(paths[name]))
            else:
                client.log_text(parent.info.run_id, view.recipe_yaml, name)
            client.set_tag(parent.info.run_id, tag, digest)

    def _log_difference(
        self,
        run: "Run",
        *,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        timestamp_ms: int,
    ) -> None:
        """Log what `run` lacks or has otherwise. A param that is there stays: MLflow does not let it change."""
        from mlflow.entities import Metric, Param, RunTag

        client, _ = self._open()
        known = run.data
        new_params = [Param(key, value) for key, value in params.items() if key not in known.params]
        # MLflow shows the metric with the latest time: one that replaces another must be younger.
        now_ms = int(self._clock.now_utc().timestamp() * 1000)
        new_metrics = [
            Metric(key, value, now_ms if key in known.metrics else timestamp_ms, 0)
            for key, value in metrics.items()
            if known.metrics.get(key) != value
        ]
        new_tags = [RunTag(key, value) for key, value in tags.items() if known.tags.get(key) != value]
        for batch in _batches(new_params, size=_PARAMS_PER_CALL):
            client.log_batch(run.info.run_id, params=batch)
        if new_metrics or new_tags:
            client.log_batch(run.info.run_id, metrics=new_metrics, tags=new_tags)

    def _log_series(self, run: "Run", *, points: Sequence[Point]) -> None:
        """Log the points of curves that MLflow does not have yet."""
        from mlflow.entities import Metric

        client, _ = self._open()
        shown = self._shown_curves(run, keys={key for key, _, _ in points})
        new = [point for point in points if point not in shown]
        for batch in _batches(new, size=_METRICS_PER_CALL):
            # The start of the run as time of every point: logged again they are the same, and MLflow plots by step.
            client.log_batch(run.info.run_id, metrics=[Metric(k, v, run.info.start_time, step) for k, v, step in batch])
            shown.update(batch)

    def _shown_curves(self, run: "Run", *, keys: set[str]) -> set[Point]:
        """The points of curves that MLflow has, asked for once: a training of hours is synced hundreds of times."""
        client, _ = self._open()
        if self._curves is None or self._curves.mlflow_id != run.info.run_id:
            self._curves = _Curves(mlflow_id=run.info.run_id)
        for key in keys - self._curves.keys:
            if key in run.data.metrics:
                history = client.get_metric_history(run.info.run_id, key)
                self._curves.points |= {(key, old.value, old.step) for old in history}
            self._curves.keys.add(key)
        return self._curves.points


@dataclass(slots=True, kw_only=True)
class _Curves:
    """What an MLflow run shows of the curves named `keys`."""

    mlflow_id: str
    keys: set[str] = field(default_factory=set)
    points: set[Point] = field(default_factory=set)


def _series(view: RunView) -> list[Point]:
    points: list[Point] = []
    for row in view.history:
        step = int(row["step"])
        # MLflow shows what begins with "system/" on a page of its own.
        system = {key: value for key, value in row.items() if key.startswith("system/")}
        values = {key: value for key, value in row.items() if key != "step" and key not in system}
        found = finite(values, prefix="train_") | finite(system)
        points += [(key, value, step) for key, value in found.items()]
    for number, value in enumerate(view.hypervolume, start=1):
        points += [(key, volume, number) for key, volume in finite({"hypervolume": value}).items()]
    return points


def _create_registered_model(client: "MlflowClient", *, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _batches(items: Iterable[_T], *, size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
