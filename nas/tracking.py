"""What a run shows of itself: a view that any tracker can rebuild from the run's tables, as often as wanted.

The run directory and the study are the truth; a tracker only mirrors them. So a tracker may be down, emptied or
replaced, and a later `sync` puts everything back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

RunStatus = Literal["running", "finished", "failed", "killed"]
"""Stages are missing; every stage is done; the last command failed; the last command was interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """Everything that a tracker shows of a run, read from its directory just now.

    Attributes:
        run_id: the run's own id, under which a tracker finds its mirror again.
        name: name for people.
        recipe_yaml: the resolved recipe.
        history: rows of the training history in order; numbers only, each with "step".
        evaluations: the evaluations table.
        verifications: the verifications table; it may be empty.
        baselines: rows of baselines, with the columns of `verifications`; None as long as there are none.
        front: the points of pareto.json; empty before verification.
        predictor_scores: figures of the latency predictor on held-out subnets, by name; empty before profiling.
        promises: figures of promised against found, by name (see `nas.promises`); empty before
            verification, and where latencies were not measured.
        hypervolume: of the predicted front after each evaluation.
        artifacts: files to show beside the run; a tracker keeps them under their file names.
        tags: free labels.
        status: where the run stands.
        error: what the last command failed with; None if it did not.
    """

    run_id: str
    name: str
    recipe_yaml: str
    history: Sequence[Mapping[str, float]]
    evaluations: pd.DataFrame
    verifications: pd.DataFrame
    front: Sequence[Mapping[str, object]]
    predictor_scores: Mapping[str, float]
    hypervolume: Sequence[float]
    promises: Mapping[str, float] = field(default_factory=dict)
    baselines: pd.DataFrame | None = None
    artifacts: Sequence[Path] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    status: RunStatus = "running"
    error: str | None = None

    @property
    def verified_rows(self) -> pd.DataFrame:
        """What is verified, baselines included."""
        if self.baselines is None or not len(self.baselines):
            return self.verifications
        return pd.concat([self.verifications, self.baselines]) if len(self.verifications) else self.baselines


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """One version of a model in a registry; `alias` points to it."""

    name: str
    version: str
    alias: str


class Tracker(Protocol):
    """A place that shows runs and registers exported models. Calls raise a hinted error when the place fails."""

    def sync(self, view: RunView) -> None:
        """Make the mirror equal to `view`: what is there already is neither repeated nor lost."""

    def register(
        self, model_dir: Path, *, run_id: str, name: str, alias: str, tags: Mapping[str, str]
    ) -> RegisteredModel:
        """Register the exported model in `model_dir` and point `alias` to it.

        The same files registered again give the version that is there already.

        Args:
            model_dir: holds one ONNX file; everything beside it is kept with the model.
            run_id: of a run that was synced before.
            name: name in the registry.
            alias: replaced if it points to another version.
            tags: free labels of the version.
        """


class MemoryTracker:
    """Keeps the last view of every run in this process: for tests and notebooks."""

    def __init__(self) -> None:
        self.views: dict[str, RunView] = {}
        self.models: dict[str, list[Path]] = {}

    def sync(self, view: RunView) -> None:
        """Keep `view`."""
        self.views[view.run_id] = view

    def register(
        self, model_dir: Path, *, run_id: str, name: str, alias: str, tags: Mapping[str, str]
    ) -> RegisteredModel:
        """Number the directories of each name in the order they came."""
        versions = self.models.setdefault(name, [])
        if model_dir not in versions:
            versions.append(model_dir)
        return RegisteredModel(name=name, version=str(versions.index(model_dir) + 1), alias=alias)
