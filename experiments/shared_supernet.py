"""Runs that share one supernet: it is taken over without training, and what one has evaluated the others look up."""

from collections.abc import Sequence
from pathlib import Path

from experiments.recipe import Recipe, load_recipe
from experiments.reporter import Reporter
from experiments.session import Session, source_sha256
from nas.accuracy import Accuracy
from nas.errors import CheckpointError
from nas.origins import run_of
from nas.run import Run, open_run
from nas.training.finished import CHECKPOINTS
from nas.training.starting import start_sha256, take_over


def take_over_supernet(session: Session) -> Path:
    """Make the supernet that the recipe starts from this run's own, as it is; returns where it is from.

    Raises:
        CheckpointError: it does not fit the space or the classes, is damaged, or is of a run that divides its data in
            another way: what it was trained on could be in `search`, `verify` or `report` now.
    """
    recipe, run = session.recipe, session.run
    assert recipe.train.from_checkpoint is not None
    directory = Path(recipe.train.from_checkpoint)
    origin = run_of(directory)
    difference = None if origin is None else other_data(run, recipe, other=origin)
    if difference is not None:
        raise CheckpointError(
            f"the supernet in {directory} was trained on other data than this run has: {difference}",
            hint="give the recipe the same data, splits and seed, or train it on (train.epochs of 1 or more)",
        )
    take_over(
        directory,
        space=run.space,
        num_classes=run.info.num_classes,
        checkpoints=run.train_dir / CHECKPOINTS,
        details={"settings": {"start_sha256": start_sha256(directory)}},
    )
    return directory


def other_data(run: Run, recipe: Recipe, *, other: Run) -> str | None:
    """The first difference between the examples of two runs, in their source or division; None if they are the same."""
    theirs = load_recipe(other.recipe_path)
    own = {"seed": recipe.seed, **{f"data.{key}": value for key, value in recipe.data.model_dump().items()}}
    their = {"seed": theirs.seed, **{f"data.{key}": value for key, value in theirs.data.model_dump().items()}}
    # A place is no content: that is what the checksum is for.
    own["data.path"], their["data.path"] = source_sha256(run), source_sha256(other)
    for key, value in own.items():
        if their[key] != value:
            name = "checksum of the data" if key == "data.path" else key
            return f"{name}: {value} here, {their[key]} in {other.path}"
    return None


def reusable_accuracies(session: Session, *, reporter: Reporter) -> dict[str, Accuracy]:
    """Accuracies by arch_id that the runs of `search.cache` have found for inherited candidates of this very run.

    A row counts if its candidate is this run's (the same supernet and recalibration, in the same precision) and was
    judged on the same examples by the same metric; in another precision than fp32 also on the same device. Runs whose
    rows do not count are named.

    Raises:
        RunError: one of them is no run directory.
    """
    known: dict[str, Accuracy] = {}
    for place in session.recipe.search.cache:
        other = open_run(place)
        reason = _why_not(session, other=other)
        found = {} if reason is not None else _accuracies(session, other=other)
        if reason is None and not found:
            reason = "it has no evaluations of this supernet with this recalibration"
        if reason is not None:
            reporter.message(f"nothing is taken from {place}: {reason}")
        known |= found
    return known


def _why_not(session: Session, *, other: Run) -> str | None:
    run = session.run
    if other.info.run_id == run.info.run_id:
        return "it is this run"
    if session.device.spec.precision != "fp32" and other.info.device_id != run.info.device_id:
        return f"its accuracies are those of device {other.info.device_id!r}"
    return other_data(run, session.recipe, other=other)


def _accuracies(session: Session, *, other: Run) -> dict[str, Accuracy]:
    own = session.bench.inherit(session.run.space.smallest)
    rows = other.evaluations()
    same = (rows["weights_kind"] == own.weights_kind) & (rows["weights"] == own.weights)
    same &= (rows["precision"] == own.precision) & (rows["metric"] == session.recipe.data.metric)
    same &= (rows["split"] == "search") & rows["accuracy"].notna()
    return {str(row["arch_id"]): Accuracy.from_row(row) for row in _records(rows[same].to_dict("records"))}


def _records(rows: Sequence[dict[object, object]]) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in rows]
